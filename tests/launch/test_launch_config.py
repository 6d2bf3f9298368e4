"""Cross-checks over a whole run's settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.config import RunConfig, check_run
from replay.settings import SettingError

CONFIG = RunConfig(recipe="test")


def test_the_defaults_fit_together() -> None:
    check_run(CONFIG)


def test_a_batch_that_replay_would_refuse() -> None:
    config = replace(CONFIG, replay=replace(CONFIG.replay, sample_batch_max=8))
    with pytest.raises(SettingError, match="sample_batch_max = 8"):
        check_run(config)


def test_a_batch_that_could_never_be_filled() -> None:
    config = replace(
        CONFIG,
        replay=replace(CONFIG.replay, fresh_unconsumed_max=16),
        learner=replace(CONFIG.learner, batch_size=32, uniform_fraction=0.25),
    )
    with pytest.raises(SettingError, match="takes 24 fresh records"):
        check_run(config)


def test_a_batch_that_is_just_small_enough() -> None:
    check_run(
        replace(
            CONFIG,
            replay=replace(CONFIG.replay, fresh_unconsumed_max=24),
            learner=replace(CONFIG.learner, batch_size=32, uniform_fraction=0.25),
        )
    )


def test_replays_own_cross_checks_are_made() -> None:
    config = replace(CONFIG, replay=replace(CONFIG.replay, records_max=1))
    with pytest.raises(SettingError, match="records_max = 1"):
        check_run(config)
