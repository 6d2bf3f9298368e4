"""What each candidate of a run may use of its error rate."""

from __future__ import annotations

import pytest

from safety.statistics.lifetime import recycled_level, spent_level
from safety.statistics.parameters import ParameterError
from safety.trials.levels import Schedule, next_level


def test_levels_are_those_of_the_schedule() -> None:
    past = (False, True, True)
    assert Schedule(0.05, "spend").alpha(past) == spent_level(0.05, 4)
    assert Schedule(0.05, "recycle").alpha(past) == recycled_level(0.05, past) > spent_level(0.05, 4)
    assert next_level(Schedule(0.05, "spend"), past).index == 4


def test_budgets_grow_with_the_logarithm_and_never_shrink() -> None:
    schedule = Schedule(0.05, "spend")
    levels = [next_level(schedule, (False,) * count) for count in (0, 1, 9, 99, 999)]
    assert levels[0].growth == 1.0
    assert [level.growth for level in levels] == sorted(level.growth for level in levels)
    assert levels[-1].growth < 6.0
    assert (levels[0].grown(100), levels[3].grown(100)) == (100, 364)
    # What earlier candidates handed on gives more than the first had, but no fewer episodes.
    rich = next_level(Schedule(0.05, "recycle"), (True,) * 5)
    assert rich.alpha > levels[0].alpha
    assert rich.growth == 1.0


def test_what_is_no_schedule_or_has_nothing_left_is_refused() -> None:
    with pytest.raises(ParameterError, match="must be recycle or spend"):
        next_level(Schedule(0.05, "save"), ())
    with pytest.raises(ParameterError, match="alpha"):
        next_level(Schedule(1e-6, "spend"), (False,) * 1000)
