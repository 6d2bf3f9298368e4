"""Whether a suite can be passed at all, and if not, how many episodes or plants would do. Decides about no candidate.

A suite that nothing can pass is a mistake of whoever wrote it: it is told when the suite is read, not with the
rejection of every candidate.

Exceptions: ParameterError (safety.statistics.parameters).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from safety.evaluation.episodes import no_outcomes
from safety.statistics.calibration import DETECTOR
from safety.statistics.findings import Kind
from safety.statistics.parameters import ParameterError
from safety.suites.spec import SliceSpec, SuiteSpec
from safety.trials.levels import Schedule, next_level
from safety.trials.plant_counts import perfect_plants
from safety.trials.slice_trial import SliceTrial, budget
from safety.trials.trial import check_attainable


class Need(NamedTuple):
    """What a candidate of a run needs on a slice.

    Attributes:
      alpha: the error rate that it is tested at.
      episodes: with which one that never violates has shown it, also against an incumbent that never does; None where
        it cannot.
      episodes_max: that it may use.
    """

    alpha: float
    episodes: int | None
    episodes_max: int


COUNT_MAX = 100_000
"""More episodes of a slice, or plants, than this are not proposed."""


def require_attainable(suite: SuiteSpec) -> None:
    """Raises ParameterError if even a perfect first candidate would be rejected; says how many episodes are needed."""
    try:
        check_attainable(suite)
    except ParameterError as error:
        raise ParameterError(f"{error}{_advice(suite)}") from error


def need_of(suite: SuiteSpec, spec: SliceSpec, number: int) -> Need:
    """What candidate `number`, from 1, needs on a slice where none of those before it was approved.

    Raises:
      ParameterError: so many candidates leave nothing of the error rate.
    """
    level = next_level(Schedule(suite.error_rate, suite.error_schedule), (False,) * (number - 1))
    episodes_max = budget(spec, level)
    outcomes = no_outcomes(episodes_max)
    try:
        trial = SliceTrial(suite, spec, level, range(episodes_max), incumbent=True)
        trial.judge_plants(perfect_plants(suite, level))
        trial.take(outcomes, outcomes)
    except ParameterError:
        return Need(level.alpha, None, episodes_max)
    findings = [finding for finding in trial.findings() if finding.kind is Kind.SAFETY and finding.name != DETECTOR]
    passed = all(finding.passed for finding in findings)
    return Need(level.alpha, max(finding.episodes for finding in findings) if passed else None, episodes_max)


def _advice(suite: SuiteSpec) -> str:
    """What would do, tried in turn: more episodes in every slice, more plants of either kind."""
    episodes = _fewest(lambda count: _with_episodes(suite, count))
    if episodes is not None:
        return f"; {episodes} episodes would do"
    violations = _fewest(lambda count: dataclasses.replace(suite, planted_violations=count))
    clean = _fewest(lambda count: dataclasses.replace(suite, planted_clean=count))
    if clean is not None and (violations is None or clean < violations):
        return f"; {clean} planted clean episodes would do"
    return "" if violations is None else f"; {violations} planted violations would do"


def _with_episodes(suite: SuiteSpec, count: int) -> SuiteSpec:
    """The suite with at least so many episodes in each slice, for the tests of either kind."""
    slices = []
    for each in suite.slices:
        limits = each.limits
        more = dataclasses.replace(
            limits, episodes=max(count, limits.episodes), episodes_max=max(count, limits.episodes_max)
        )
        slices.append(dataclasses.replace(each, limits=more))
    return dataclasses.replace(suite, slices=tuple(slices))


def _fewest(made: Callable[[int], SuiteSpec]) -> int | None:
    """The least count with which the suite that is made of it can be passed; None where none up to COUNT_MAX does."""
    low, high = 0, 1
    while not _is_attainable(made(high)):
        low, high = high, 2 * high
        if high > COUNT_MAX:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if _is_attainable(made(middle)):
            high = middle
        else:
            low = middle
    return high


def _is_attainable(suite: SuiteSpec) -> bool:
    try:
        check_attainable(suite)
    except ParameterError:
        return False
    return True
