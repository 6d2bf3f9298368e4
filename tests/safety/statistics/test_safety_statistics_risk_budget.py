"""The weighted risk: coverage by exact enumeration over all severities, and what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from safety.statistics.calibration import ClassPlants
from safety.statistics.counts import EVENT_CLASSES, CountsError, Severity, SliceOutcomes
from safety.statistics.findings import Status
from safety.statistics.intervals import clopper_pearson_upper
from safety.statistics.parameters import ParameterError
from safety.statistics.risk_budget import LAYER_SHARES, SeverityWeights, weighted_risk
from tests.safety.statistics.slices import slice_of

WEIGHTS = SeverityWeights(minor=0.1, major=1.0, severe=10.0)
PLANTS = dict.fromkeys(EVENT_CLASSES, ClassPlants(60, 60))


@pytest.mark.parametrize(
    "rates", [(0.3, 0.0, 0.08), (0.0, 0.2, 0.1), (0.2, 0.1, 0.1), (0.0, 0.0, 0.2), (0.0, 0.9, 0.0)]
)
def test_passes_a_candidate_above_its_budget_with_probability_at_most_alpha(rates: tuple[float, ...]) -> None:
    # Exact: all outcomes of 80 episodes over four severities, at a mean cost that equals the budget.
    episodes, alpha = 80, 0.05
    budget = float(np.dot(rates, (0.1, 1.0, 10.0)))
    sensitivity = (alpha / 2 / 3) ** (1 / 60)
    uppers = np.array(
        [
            [
                height / sensitivity * clopper_pearson_upper(k, episodes, 1 - share * alpha / 2)
                for k in range(episodes + 1)
            ]
            for height, share in zip((0.1, 0.9, 9.0), LAYER_SHARES, strict=True)
        ]
    )
    counts = np.indices((episodes + 1,) * 3).reshape(3, -1)
    minor, major, severe = counts[:, counts.sum(axis=0) <= episodes]
    bounds = uppers[0][minor + major + severe] + uppers[1][major + severe] + uppers[2][severe]
    chosen = np.flatnonzero((minor == 5) & (major == 3) & (severe == 1))[0]
    worst = [1] * 5 + [2] * 3 + [3] + [0] * 71
    finding = weighted_risk(slice_of(worst), WEIGHTS, PLANTS, budget=budget, alpha=alpha)
    assert finding.statistic == pytest.approx(bounds[chosen])
    outcomes = np.column_stack([minor, major, severe, episodes - minor - major - severe])[bounds <= budget]
    chance = stats.multinomial.pmf(outcomes, episodes, [*rates, 1 - sum(rates)]).sum()
    assert 0.0 < chance <= alpha


def test_tells_its_figures() -> None:
    finding = weighted_risk(slice_of([3] + [2] * 2 + [1] * 10 + [0] * 487), WEIGHTS, PLANTS, budget=0.2, alpha=0.05)
    assert finding.passed
    assert finding.estimate == pytest.approx((10 + 2 + 1) / 500)
    assert finding.estimate < finding.statistic <= 0.2
    assert "10 minor, 2 major, 1 severe" in finding.explanation
    assert not weighted_risk(slice_of([3] * 10 + [0] * 490), WEIGHTS, PLANTS, budget=0.2, alpha=0.05).passed


def test_one_severe_event_weighs_more_than_one_minor() -> None:
    bounds = [
        weighted_risk(slice_of([worst] + [0] * 99), WEIGHTS, PLANTS, budget=1.0, alpha=0.05).statistic
        for worst in (Severity.NONE, Severity.MINOR, Severity.MAJOR, Severity.SEVERE)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3]


def test_without_episodes_it_fails() -> None:
    for outcomes, least in ((slice_of([]), 1), (slice_of([0] * 9), 10)):
        finding = weighted_risk(outcomes, WEIGHTS, PLANTS, budget=9.9, alpha=0.4, episodes_min=least)
        assert (finding.status, finding.statistic) == (Status.FAILED, 10.0)


@pytest.mark.parametrize(
    "weights", [(-0.1, 1.0, 10.0), (2.0, 1.0, 10.0), (0.0, 11.0, 10.0), (0.0, 0.0, 0.0), (0.0, math.nan, 1.0)]
)
def test_refuses_weights_that_mean_nothing(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ParameterError):
        SeverityWeights(*weights)


@pytest.mark.parametrize("budget", [0.0, 10.0, -1.0, math.nan])
def test_refuses_budgets_that_mean_nothing(budget: float) -> None:
    with pytest.raises(ParameterError, match="budget"):
        weighted_risk(slice_of([0] * 10), WEIGHTS, PLANTS, budget=budget, alpha=0.05)
    with pytest.raises(ParameterError, match="alpha"):
        weighted_risk(slice_of([0] * 10), WEIGHTS, PLANTS, budget=1.0, alpha=budget - 1.0)


@pytest.mark.parametrize("rates", [(0.0, 0.0, 0.06), (0.3, 0.0, 0.05), (0.1, 0.2, 0.03)])
def test_with_a_detector_that_misses_a_fifth_the_true_cost_decides(rates: tuple[float, ...]) -> None:
    """A candidate whose true mean cost is the budget: what is counted is less, and must not get it through."""
    generator, runs, episodes, alpha, sensitivity = np.random.default_rng(21), 100, 1500, 0.1, 0.8
    budget = float(np.dot(rates, (0.1, 1.0, 10.0)))
    wrong, wrong_uncorrected = 0, 0
    for _ in range(runs):
        true = generator.choice(4, size=episodes, p=[1 - sum(rates), *rates])
        # What is missed is not seen at all: the worst that a sensitivity can mean.
        seen = np.where(generator.random(episodes) < sensitivity, true, 0)
        events = (seen[:, np.newaxis] == np.arange(1, 4)).astype(np.int64)
        outcomes = SliceOutcomes("plain", tuple(range(episodes)), events, np.zeros(episodes))
        plants = {severity: ClassPlants(60, int(generator.binomial(60, sensitivity))) for severity in EVENT_CLASSES}
        known = dict.fromkeys(EVENT_CLASSES, ClassPlants(2000, 2000))
        wrong += weighted_risk(outcomes, WEIGHTS, plants, budget=budget, alpha=alpha).passed
        wrong_uncorrected += weighted_risk(outcomes, WEIGHTS, known, budget=budget, alpha=alpha).passed
    assert wrong <= stats.binom.ppf(0.999, runs, alpha)
    assert wrong_uncorrected > 3 * alpha * runs


def test_a_class_that_is_found_less_often_costs_more_and_lifts_graver_ones() -> None:
    def bound(**found: int) -> float:
        plants = {**PLANTS, **{Severity[name.upper()]: ClassPlants(60, count) for name, count in found.items()}}
        return weighted_risk(slice_of([2, 2] + [0] * 198), WEIGHTS, plants, budget=9.0, alpha=0.05).statistic

    assert bound() < bound(major=40) < bound(major=20)
    assert bound() < bound(severe=55)
    # Minor events that are hardly ever found may be as dear, by what is known, as major ones are.
    assert bound(minor=1) > bound(minor=30) > bound()
    assert bound(minor=0) == 10.0


def test_classes_that_never_occur_or_weigh_nothing_need_no_plants() -> None:
    outcomes, light = slice_of([3] + [0] * 99), SeverityWeights(0.0, 0.0, 1.0)
    severe_alone = weighted_risk(outcomes, light, {Severity.SEVERE: ClassPlants(60, 60)}, budget=0.5, alpha=0.05)
    assert severe_alone == weighted_risk(outcomes, light, {**PLANTS}, budget=0.5, alpha=0.05)
    # Half of alpha each, undivided: for the rate of flags, and for the sensitivity.
    assert severe_alone.statistic == pytest.approx(stats.beta.ppf(0.975, 2, 99) / 0.025 ** (1 / 60))
    with pytest.raises(ParameterError, match="nothing of severe"):
        weighted_risk(outcomes, light, {Severity.MINOR: ClassPlants(60, 60)}, budget=0.5, alpha=0.05)
    with pytest.raises(CountsError, match="61 of 60 planted severe"):
        weighted_risk(outcomes, light, {Severity.SEVERE: ClassPlants(60, 61)}, budget=0.5, alpha=0.05)
