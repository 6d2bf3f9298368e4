"""What a candidate without any violation needs: as much as the tests of the gate ask for, and no more."""

from __future__ import annotations

import dataclasses

import pytest

from actors.config import EnvironmentConfig
from safety.config import SafetyConfig
from safety.evaluation.episodes import no_outcomes
from safety.statistics.lifetime import spent_level
from safety.statistics.parameters import ParameterError
from safety.suites.spec import SuiteSpec, suite_from_settings
from safety.trials.attainability import Need, need_of, require_attainable
from safety.trials.levels import Schedule, next_level
from safety.trials.plant_counts import perfect_plants
from safety.trials.slice_trial import SliceTrial

SUITE = suite_from_settings(SafetyConfig(), EnvironmentConfig())


def passes(suite: SuiteSpec, number: int, episodes: int) -> bool:
    """Whether that many clean episodes are enough."""
    level = next_level(Schedule(suite.error_rate, suite.error_schedule), (False,) * (number - 1))
    trial = SliceTrial(suite, suite.slices[0], level, range(100_000), incumbent=True)
    trial.judge_plants(perfect_plants(suite, level))
    trial.take(no_outcomes(episodes), no_outcomes(episodes))
    return trial.needed == 0 and not trial.failed


@pytest.mark.parametrize("number", [1, 2, 10, 100])
def test_the_episodes_named_are_enough_and_one_fewer_is_not(number: int) -> None:
    need = need_of(SUITE, SUITE.slices[0], number)
    assert need.alpha == spent_level(0.05, number)
    assert need.episodes is not None
    assert need.episodes <= need.episodes_max
    assert passes(SUITE, number, need.episodes)
    assert not passes(SUITE, number, need.episodes - 1)


def test_later_candidates_need_more() -> None:
    needs = [need_of(SUITE, SUITE.slices[0], number) for number in (1, 2, 10, 100)]
    episodes = [need.episodes for need in needs if need.episodes is not None]
    assert episodes == sorted(set(episodes))
    assert [need.episodes_max for need in needs] == sorted({need.episodes_max for need in needs})


def test_where_nothing_can_pass_there_is_no_number() -> None:
    (only,) = SUITE.slices
    for change in ({"episodes_max": 30, "episodes": 30}, {"risk_budget": 0.001}):
        hard = dataclasses.replace(only, limits=dataclasses.replace(only.limits, **change))
        suite = dataclasses.replace(SUITE, slices=(hard,))
        assert need_of(suite, hard, 1) == Need(spent_level(0.05, 1), None, hard.limits.episodes_max)
        with pytest.raises(ParameterError):
            require_attainable(suite)
    require_attainable(SUITE)
