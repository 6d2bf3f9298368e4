"""The divergence alarm: exact tests against SciPy and enumeration, and its false alarms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from safety.statistics.counts import PairedOutcomes, Severity
from safety.statistics.divergence import (
    EVALUATIONS_MAX,
    divergence,
    divergence_from_incumbent,
    divergence_over_evaluations,
    sign_test,
    trend_test,
)
from safety.statistics.findings import Kind, Status
from safety.statistics.parameters import ParameterError
from tests.safety.statistics.slices import pairs, slice_of


@pytest.mark.parametrize(("up", "down"), [(0, 0), (0, 9), (9, 0), (5, 5), (60, 40), (1, 0)])
def test_sign_test_equals_scipy(up: int, down: int) -> None:
    expected = stats.binomtest(up, up + down, 0.5, alternative="greater").pvalue if up + down else 1.0
    assert sign_test(up, down) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_trend_test_is_exact(count: int) -> None:
    p_values = [trend_test(np.array(order, np.float64)) for order in itertools.permutations(range(count))]
    for value in set(p_values):
        assert sum(p <= value + 1e-12 for p in p_values) / len(p_values) == pytest.approx(value)


def test_ties_never_make_a_trend_likelier() -> None:
    p_values = [trend_test(np.array(order, np.float64)) for order in itertools.permutations((0, 0, 1, 1, 2, 3))]
    for alpha in (0.01, 0.05, 0.2):
        assert sum(p <= alpha for p in p_values) / len(p_values) <= alpha
    assert trend_test(np.zeros(10)) == pytest.approx(1.0)


def both_rise(pairs_count: int = 60, riskier: int = 12) -> PairedOutcomes:
    worst = [3] * riskier + [0] * (pairs_count - riskier)
    return PairedOutcomes(slice_of(worst, [2.0] * pairs_count), slice_of([0] * pairs_count, [1.0] * pairs_count))


def test_alarm_needs_both_to_rise() -> None:
    assert divergence_from_incumbent(both_rise(), Severity.SEVERE, 0.05).raised
    assert not divergence_from_incumbent(both_rise(riskier=2), Severity.SEVERE, 0.05).raised
    only_risk = divergence_from_incumbent(pairs(12, 0, 60), Severity.SEVERE, 0.05)
    assert (only_risk.raised, only_risk.capability_p) == (False, 1.0)
    assert "risk rises" in only_risk.explanation
    assert not divergence_from_incumbent(pairs(0, 12, 60, 2.0, 1.0), Severity.SEVERE, 0.05).raised
    assert not divergence_from_incumbent(pairs(0, 0, 0), Severity.SEVERE, 0.05).raised


def test_false_alarms_where_only_capability_rises() -> None:
    generator, runs = np.random.default_rng(8), 1000
    raised = 0
    for _ in range(runs):
        ours, theirs = (np.where(generator.random(80) < 0.2, 3, 0) for _ in range(2))
        paired = PairedOutcomes(slice_of(ours.tolist(), [2.0] * 80), slice_of(theirs.tolist(), [1.0] * 80))
        raised += divergence_from_incumbent(paired, Severity.SEVERE, 0.05).raised
    assert 0 < raised <= stats.binom.ppf(0.999, runs, 0.05)


def test_as_a_criterion_it_fails_where_the_alarm_is_raised() -> None:
    finding = divergence(both_rise(), Severity.SEVERE, alpha=0.05)
    assert (finding.status, finding.kind, finding.estimate) == (Status.FAILED, Kind.SAFETY, 1.0)
    assert finding.statistic <= finding.limit
    assert "capability rises" in finding.explanation
    assert divergence(both_rise(riskier=2), Severity.SEVERE, alpha=0.05).passed
    for paired, least in ((pairs(0, 0, 0), 1), (pairs(0, 0, 9), 10)):
        finding = divergence(paired, Severity.SEVERE, alpha=0.05, episodes_min=least)
        assert finding.status is Status.FAILED
        assert "are needed" in finding.explanation


def test_over_evaluations() -> None:
    rising, falling = [1.0, 2.0, 3.0, 4.0, 5.0], [0.5, 0.4, 0.3, 0.2, 0.1]
    assert divergence_over_evaluations(rising, [0.01, 0.02, 0.03, 0.05, 0.04], 0.05).raised
    assert not divergence_over_evaluations(rising, falling, 0.05).raised
    assert not divergence_over_evaluations(falling, rising, 0.05).raised
    assert not divergence_over_evaluations(rising[:3], rising[:3], 0.05).raised
    assert divergence_over_evaluations(rising[:4], rising[:4], 0.05).raised
    assert not divergence_over_evaluations([], [], 0.05).raised


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_raise_the_alarm(bad: float) -> None:
    for first, second in (([4, 3, 2, bad], [4, 3, 2, 1]), ([4, 3, 2, 1], [4, 3, bad, 1])):
        alarm = divergence_over_evaluations(first, second, 0.05)
        assert alarm.raised
        assert "not finite" in alarm.explanation


def test_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ParameterError):
        divergence_over_evaluations([1.0], [1.0, 2.0], 0.05)
    with pytest.raises(ParameterError):
        divergence_over_evaluations([1.0] * (EVALUATIONS_MAX + 1), [1.0] * (EVALUATIONS_MAX + 1), 0.05)
    with pytest.raises(ParameterError):
        divergence_from_incumbent(both_rise(), Severity.SEVERE, 0.0)
