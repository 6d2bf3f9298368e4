"""Settings of the learner that do not go together are refused, in one line that says what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch.config import RunConfig, check_run
from learner.config import LearnerConfig, check_learner
from policies.config import NetworkConfig
from replay.settings import SettingError


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"clear_policy_cost": 0.1}, r"clear_policy_cost = 0\.1 concerns replayed records.*uniform_fraction = 0\.0"),
        ({"trust_region_kl": 0.1, "uniform_fraction": 0.001}, r"trust_region_kl = 0\.1.*none in a batch of 32"),
        ({"clear_value_cost": 0.1, "uniform_fraction": 0.5}, r"target_updates = 0 keeps none"),
        ({"target_updates": 5}, r"target_updates = 5 keeps a target network that nothing refers to"),
        ({"cost_limit": 2.0}, r"cost_limit = 2\.0 needs.*set network\.cost_value"),
        ({"multiplier": 1.0}, r"multiplier = 1\.0 is where an adapting price begins"),
        ({"popart_rate": 0.1, "reward_clip": 1.0}, r"popart_rate = 0\.1.*reward_clip = 1\.0 cuts"),
        ({"normalizer_updates": 9}, r"normalizer_updates = 9 ends what network\.normalize_observations"),
        ({"lag_alarm_lines": 2}, r"lag_alarm_lines = 2 is too few"),
    ],
)
def test_settings_without_a_meaning_beside_others_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_learner(LearnerConfig(**settings), NetworkConfig())


def test_a_price_that_stays_and_one_that_adapts_are_refused_together() -> None:
    with pytest.raises(SettingError, match=r"cost_limit = 2\.0.*cost_coefficient = 0\.5 would charge for it twice"):
        check_learner(LearnerConfig(cost_limit=2.0, cost_coefficient=0.5), NetworkConfig(cost_value=True))


def test_a_run_is_checked_for_them() -> None:
    config = RunConfig(recipe="catch")
    check_run(config)
    check_run(replace(config, learner=LearnerConfig(policy_loss="ppo", target_updates=5, upgo_cost=0.1)))
    with pytest.raises(SettingError, match="nothing refers to"):
        check_run(replace(config, learner=LearnerConfig(target_updates=5)))


@pytest.mark.parametrize("fraction,expected", [(0.0, 0), (0.5, 2), (0.99, 3)])
def test_a_batch_is_never_all_replay(fraction: float, expected: int) -> None:
    assert LearnerConfig(batch_size=4, uniform_fraction=fraction).uniform_size == expected
