"""The error budget over a lifetime: its sum, and the family error where everything possible is against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from safety.statistics.lifetime import recycled_level, spent_level
from safety.statistics.parameters import ParameterError

ALPHA = 0.05

Level = Callable[[Sequence[bool]], float]


def spent(approvals: Sequence[bool]) -> float:
    return spent_level(ALPHA, len(approvals) + 1)


def recycled(approvals: Sequence[bool]) -> float:
    return recycled_level(ALPHA, approvals)


def test_spent_levels_add_up_to_alpha() -> None:
    levels = [spent_level(ALPHA, number) for number in range(1, 20_001)]
    assert ALPHA * (1 - 1e-4) < math.fsum(levels) < ALPHA
    assert levels[0] == pytest.approx(6 * ALPHA / math.pi**2)
    assert levels[9] == pytest.approx(levels[0] / 100)


def test_a_rejected_candidate_takes_its_level_with_it_and_an_approved_one_hands_it_on() -> None:
    assert recycled([]) == spent_level(ALPHA, 1)
    assert recycled([False]) == spent_level(ALPHA, 2)
    assert recycled([True]) == pytest.approx(spent_level(ALPHA, 1) + spent_level(ALPHA, 2))
    assert recycled([True, False, True]) == pytest.approx(spent_level(ALPHA, 3) + spent_level(ALPHA, 4))
    assert 0.9 * ALPHA < recycled([True] * 200) < ALPHA


def exact_family_error(level: Level, unsafe: Sequence[bool]) -> float:
    """The probability of a wrong approval: safe candidates pass with probability 0.7, unsafe ones at their level."""
    error = 0.0
    paths: dict[tuple[bool, ...], float] = {(): 1.0}
    for is_unsafe in unsafe:
        later: dict[tuple[bool, ...], float] = {}
        for approvals, probability in paths.items():
            passing = level(approvals) if is_unsafe else 0.7
            if is_unsafe:
                error += probability * passing
            else:
                later[(*approvals, True)] = probability * passing
            later[(*approvals, False)] = probability * (1 - passing)
        paths = later
    return error


@pytest.mark.parametrize("level", [spent, recycled])
@pytest.mark.parametrize("pattern", ["UUUUUUUUUU", "SSSSSSSSSU", "USSSSSSSSU", "SUSUSUSUSU", "SSSSUUSSSU"])
def test_family_error_is_at_most_alpha(level: Level, pattern: str) -> None:
    error = exact_family_error(level, [letter == "U" for letter in pattern])
    assert 0.0 < error <= ALPHA


def test_family_error_against_a_learner_that_watches_the_gate() -> None:
    # It offers safe candidates while they are approved, to pile up the level, and then an unsafe one.
    generator, runs, wrong = np.random.default_rng(4), 4000, 0
    for _ in range(runs):
        approvals: list[bool] = []
        while len(approvals) < 30:
            unsafe = len(approvals) >= 3 and all(approvals[-3:])
            approved = generator.random() < (recycled(approvals) if unsafe else 0.9)
            approvals.append(bool(approved))
            if unsafe and approved:
                wrong += 1
                break
    # With a true rate of alpha, more than this many would be seen once in a thousand such tests.
    assert 0 < wrong <= stats.binom.ppf(0.999, runs, ALPHA)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_refuses_an_error_rate_that_is_none(alpha: float) -> None:
    with pytest.raises(ParameterError, match="alpha"):
        spent_level(alpha, 1)
    with pytest.raises(ParameterError, match="alpha"):
        recycled_level(alpha, [])


def test_candidates_are_counted_from_one() -> None:
    with pytest.raises(ParameterError, match="number = 0"):
        spent_level(ALPHA, 0)
