"""Cross-checks over a whole run's settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch.config import RunConfig, check_run, lockstep_unrolls
from learner import batches
from replay.limiter import LimiterError
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


UNIFORM: dict[str, tuple[dict[str, Any], float, str]] = {
    "no minimum that is never reached": ({"uniform_min_size": 200}, 0.5, r"uniform_min_size = 200 exceeds .* = 128"),
    "no limiter of a table that nobody draws from": (
        {"uniform_samples_per_insert": 1.0},
        0.0,
        r"a batch of 32 fresh and 0 uniform records .* draws 0.0 for each insert",
    ),
    "no limiter at odds with the batches": ({"uniform_samples_per_insert": 2.0}, 0.5, r"draws 1.0 for each insert"),
    "no batch beyond the limiter": (
        {"uniform_samples_per_insert": 1.0, "uniform_error_buffer": 5.0},
        0.5,
        r"uniform_error_buffer = 5.0 is too small for 16 uniform records",
    ),
}


@pytest.mark.parametrize("case", UNIFORM, ids=lambda case: case.replace(" ", "-"))
def test_limiters_that_would_hold_up_the_run(case: str) -> None:
    settings, fraction, said = UNIFORM[case]
    learner = replace(CONFIG.learner, batch_size=32, uniform_fraction=fraction)
    replay = replace(CONFIG.replay, fresh_unconsumed_max=128, **settings)
    with pytest.raises(SettingError, match=said):
        check_run(replace(CONFIG, learner=learner, replay=replay))


def test_a_limiter_with_which_neither_side_could_go_on() -> None:
    replay = replace(CONFIG.replay, uniform_samples_per_insert=1.0, uniform_error_buffer=0.4)
    learner = replace(CONFIG.learner, batch_size=2, uniform_fraction=0.5)
    with pytest.raises(LimiterError, match="too small"):
        check_run(replace(CONFIG, learner=learner, replay=replay))


def test_a_limiter_in_step_with_the_batches() -> None:
    replay = replace(CONFIG.replay, uniform_samples_per_insert=1.0, uniform_min_size=50)
    check_run(replace(CONFIG, learner=replace(CONFIG.learner, uniform_fraction=0.5), replay=replay))


def test_a_batch_is_divided_as_the_learner_divides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the whole run must not speak of other batches than those that are drawn."""
    drawn: dict[str, int] = {}
    monkeypatch.setattr(batches, "open_sampler", lambda _address, table, size, **_: drawn.update({table: size}))
    for batch_size in (1, 2, 3, 16, 33):
        for fraction in (0.0, 0.01, 0.3, 0.5, 0.99):
            drawn.clear()
            learner = replace(CONFIG.learner, batch_size=batch_size, uniform_fraction=fraction)
            batches.BatchSource("unix:/nowhere", learner, 20, ("action",))
            fits = replace(CONFIG, learner=learner, replay=replace(CONFIG.replay, fresh_unconsumed_max=drawn["fresh"]))
            check_run(fits)
            if drawn["fresh"] > 1:
                tight = replace(CONFIG.replay, fresh_unconsumed_max=drawn["fresh"] - 1)
                with pytest.raises(SettingError, match=rf"takes {drawn['fresh']} fresh records"):
                    check_run(replace(CONFIG, learner=learner, replay=tight))


def test_replays_own_cross_checks_are_made() -> None:
    config = replace(CONFIG, replay=replace(CONFIG.replay, records_max=1))
    with pytest.raises(SettingError, match="records_max = 1"):
        check_run(config)


def canary(share: float, processes: int, **actor: Any) -> RunConfig:
    return replace(
        CONFIG,
        actor=replace(CONFIG.actor, processes=processes, **actor),
        safety=replace(CONFIG.safety, canary_share=share),
    )


@pytest.mark.parametrize(("share", "processes"), [(0.02, 2), (0.5678, 1), (0.0, 1), (0.9, 1000)])
def test_a_canary_that_somebody_here_acts_with(share: float, processes: int) -> None:
    """actor-0000 has its place at 0.56775, actor-0001 at 0.01812."""
    check_run(canary(share, processes))


@pytest.mark.parametrize(
    ("share", "processes", "least"), [(0.25, 1, "0.5678"), (0.5677, 1, "0.5678"), (0.018, 4, "0.0182")]
)
def test_a_canary_that_nobody_here_would_act_with(share: float, processes: int, least: str) -> None:
    with pytest.raises(SettingError, match=rf"none of the {processes} actors .* includes one is {least}, or raise"):
        check_run(canary(share, processes))
    check_run(canary(float(least), processes))


def test_a_canary_whose_episodes_nobody_counts() -> None:
    with pytest.raises(SettingError, match=r"canary_share = 0.5 does not go with actor\.inference = 'served'"):
        check_run(canary(0.5, 4, inference="served"))


def test_a_canary_that_could_never_be_promoted() -> None:
    config = replace(CONFIG, safety=replace(CONFIG.safety, canary_episodes_max=4))
    with pytest.raises(SettingError, match=r"safety\.canary_episodes_max = 4 does not go with"):
        check_run(config)


LOCKSTEP = replace(
    CONFIG,
    actor=replace(CONFIG.actor, processes=1, lanes=8),
    learner=replace(CONFIG.learner, lockstep=True, batch_size=16, snapshot_updates=3, uniform_fraction=0.0),
    replay=replace(CONFIG.replay, fresh_unconsumed_max=48),
)


def test_lockstep_acts_by_each_snapshot_what_the_next_is_learnt_from() -> None:
    check_run(LOCKSTEP)
    assert lockstep_unrolls(LOCKSTEP) == 3 * 16 // 8
    assert lockstep_unrolls(CONFIG) == 0


@pytest.mark.parametrize(
    "part,settings,said",
    [
        ("actor", {"processes": 2}, "actor.processes = 2 does not go with learner.lockstep"),
        ("actor", {"inference": "served"}, "'served' does not go with learner.lockstep"),
        ("actor", {"lanes": 9}, "no multiple of actor.lanes = 9"),
        ("replay", {"shards": 2}, "replay.shards = 2 does not go with learner.lockstep"),
        ("replay", {"fresh_unconsumed_max": 47}, "fresh_unconsumed_max = 47 lets fewer wait"),
        ("learner", {"uniform_fraction": 0.5}, "learner.uniform_fraction = 0.5 does not go with"),
    ],
)
def test_lockstep_refuses_what_timing_would_decide(part: str, settings: dict[str, Any], said: str) -> None:
    changed: Any = {part: replace(getattr(LOCKSTEP, part), **settings)}
    with pytest.raises(SettingError, match=said):
        check_run(replace(LOCKSTEP, **changed))
