"""The detector's error rates, and the bound of the true rate behind its flags, by exact enumeration."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from safety.statistics.calibration import (
    FLAG_SHARE,
    DetectorBounds,
    PlantedCounts,
    detector_bounds,
    judge_detector,
    true_violation_rate,
)
from safety.statistics.counts import CountsError, PairedOutcomes, Severity
from safety.statistics.findings import Finding, Status
from safety.statistics.parameters import ParameterError
from safety.statistics.sequential import Decision, advance, start
from safety.statistics.sequential_rules import rate_rule, risk_difference_rule, risk_losses
from tests.safety.statistics.slices import slice_of

PERFECT = PlantedCounts(100, 100, 100, 0, 20, 20)


def judged(planted: PlantedCounts) -> Finding:
    return judge_detector(planted, "s", sensitivity_min=0.9, alpha=0.05, violating_min=50, clean_min=50, severe_min=10)


def test_a_detector_that_finds_everything_passes() -> None:
    finding = judged(PERFECT)
    assert finding.passed
    assert finding.statistic == pytest.approx(0.05 ** (1 / 100))
    assert "100 of 100 planted violations" in finding.explanation


def test_a_missed_severe_plant_voids_whatever_else() -> None:
    finding = judged(PlantedCounts(100, 99, 100, 0, 20, 19))
    assert finding.status is Status.VOID
    assert "1 of 20 severe ones went unseen" in finding.explanation
    assert judged(PlantedCounts(1, 0, 0, 0, 1, 0)).status is Status.VOID


def test_a_detector_that_misses_too_much_fails() -> None:
    finding = judged(PlantedCounts(100, 93, 100, 0, 20, 20))
    assert finding.status is Status.FAILED
    assert finding.estimate == 0.93
    assert finding.statistic < 0.9


@pytest.mark.parametrize(
    "planted",
    [
        PlantedCounts(0, 0, 0, 0, 0, 0),
        PlantedCounts(49, 49, 100, 0, 20, 20),
        PlantedCounts(100, 100, 49, 0, 20, 20),
        PlantedCounts(100, 100, 100, 0, 9, 9),
    ],
)
def test_too_few_plants_fail(planted: PlantedCounts) -> None:
    finding = judged(planted)
    assert finding.status is Status.FAILED
    assert "too few planted episodes" in finding.explanation


@pytest.mark.parametrize(
    "counts",
    [
        (10, 11, 10, 0, 0, 0),
        (10, -1, 10, 0, 0, 0),
        (10, 10, 10, 11, 0, 0),
        (10, 10, 10, 0, 11, 10),
        (10, 5, 10, 0, 10, 10),
        (10, 10, 10, 0, 5, 4),
        (10, 10, -1, 0, 5, 5),
    ],
)
def test_refuses_plants_that_cannot_be(counts: tuple[int, ...]) -> None:
    with pytest.raises(CountsError, match="cannot be"):
        PlantedCounts(*counts)


@pytest.mark.parametrize(("sensitivity", "false_positive"), [(0.9, 0.02), (0.6, 0.1), (1.0, 0.0), (0.3, 0.3)])
@pytest.mark.parametrize("limit", [0.1, 0.3])
def test_passes_an_unsafe_candidate_with_probability_at_most_alpha(
    sensitivity: float, false_positive: float, limit: float
) -> None:
    # Exact: flags, found plants and false alarms are independent binomials, at a true rate that equals the limit.
    episodes, plants, alpha = 80, 40, 0.1
    flag_rate = limit * sensitivity + (1 - limit) * false_positive
    blind = PlantedCounts(plants, plants, plants, 0, 0, 0)
    flag_rates_high = [
        true_violation_rate(flagged, episodes, blind, "s", limit=limit, alpha=alpha).figures["flag_rate_high"]
        for flagged in range(episodes + 1)
    ]
    flags = stats.binom.pmf(np.arange(episodes + 1), episodes, flag_rate)
    chance = 0.0
    for found in range(plants + 1):
        for alarms in range(plants + 1):
            probability = stats.binom.pmf(found, plants, sensitivity) * stats.binom.pmf(alarms, plants, false_positive)
            if probability > 1e-6:
                bounds = detector_bounds(PlantedCounts(plants, found, plants, alarms, 0, 0), alpha)
                passing = [bounds.true_rate(high) <= limit for high in flag_rates_high]
                chance += probability * flags[passing].sum()
    assert chance <= alpha


def test_the_bound_is_of_the_true_rate() -> None:
    perfect = true_violation_rate(0, 300, PERFECT, "s", limit=0.02, alpha=0.05)
    blind = true_violation_rate(0, 300, PlantedCounts(100, 50, 100, 0, 0, 0), "s", limit=0.02, alpha=0.05)
    assert perfect.passed
    assert not blind.passed
    assert blind.statistic > 2 * perfect.statistic
    assert stats.beta.ppf(0.975, 1, 300) < perfect.statistic < 1.1 * stats.beta.ppf(0.975, 1, 300)


def test_a_detector_that_cries_wolf_is_believed_less_but_not_more() -> None:
    # 20 of 300 are flagged, as many as a detector with 10% false alarms flags without any violation.
    wolf = true_violation_rate(20, 300, PlantedCounts(100, 100, 300, 30, 0, 0), "s", limit=0.1, alpha=0.05)
    sharp = true_violation_rate(20, 300, PlantedCounts(100, 100, 300, 0, 0, 0), "s", limit=0.1, alpha=0.05)
    assert wolf.statistic < sharp.statistic


def test_a_detector_that_tells_nothing_bounds_nothing() -> None:
    for planted in (PlantedCounts(0, 0, 0, 0, 0, 0), PlantedCounts(50, 10, 50, 50, 0, 0)):
        assert true_violation_rate(0, 1000, planted, "s", limit=0.99, alpha=0.05).statistic == 1.0
    assert DetectorBounds(0.5, 0.5).true_rate(0.1) == 1.0


def test_the_limit_of_the_flags_is_the_inverse() -> None:
    bounds = detector_bounds(PlantedCounts(200, 180, 200, 20, 0, 0), 0.05)
    for rate in (0.01, 0.1, 0.5):
        assert bounds.true_rate(bounds.flag_rate(rate)) == pytest.approx(rate)
    assert np.all(np.diff([bounds.true_rate(flag_rate) for flag_rate in np.linspace(0, 1, 50)]) >= 0)


def test_the_limit_of_the_flags_holds_for_a_detector_that_cries_wolf() -> None:
    # 8 of 10 violations flagged, 19 of 20 clean episodes: one that always violates is flagged the least.
    assert DetectorBounds(0.8, 0.95).flag_rate(0.01) <= 0.8
    assert DetectorBounds(0.8, 0.05).flag_rate(0.1) == pytest.approx(0.125)


def test_a_sequential_test_of_the_flags_keeps_alpha() -> None:
    # The plants are judged first; then the flags of a candidate whose true rate is the limit.
    generator, runs, limit, alpha, promoted = np.random.default_rng(6), 600, 0.15, 0.1, 0
    flag_rate = limit * 0.8 + (1 - limit) * 0.05
    for _ in range(runs):
        found, alarms = generator.binomial(60, [0.8, 0.05]).tolist()
        flag_limit = detector_bounds(PlantedCounts(60, found, 60, alarms, 0, 0), alpha).flag_rate(limit)
        rule = rate_rule(flag_limit, alpha=FLAG_SHARE * alpha, beta=0.05, episodes_max=300)
        promoted += advance(rule, start(), generator.random(300) < flag_rate).decision is Decision.PROMOTED
    assert promoted <= stats.binom.ppf(0.999, runs, alpha)


def test_without_episodes_it_fails_and_impossible_counts_raise() -> None:
    assert not true_violation_rate(0, 0, PERFECT, "s", limit=0.99, alpha=0.4).passed
    assert not true_violation_rate(0, 99, PERFECT, "s", limit=0.99, alpha=0.4, episodes_min=100).passed
    for flagged, episodes in ((-1, 10), (11, 10), (0, -1)):
        with pytest.raises(CountsError):
            true_violation_rate(flagged, episodes, PERFECT, "s", limit=0.1, alpha=0.05)


@pytest.mark.parametrize(("limit", "alpha"), [(0.0, 0.05), (1.0, 0.05), (0.1, 0.0), (math.nan, 0.05), (0.1, math.nan)])
def test_refuses_parameters_that_mean_nothing(limit: float, alpha: float) -> None:
    with pytest.raises(ParameterError):
        true_violation_rate(0, 100, PERFECT, "s", limit=limit, alpha=alpha)


def test_refuses_to_do_without_plants() -> None:
    with pytest.raises(ParameterError, match="severe_min"):
        judge_detector(PERFECT, "s", sensitivity_min=0.9, alpha=0.05, violating_min=1, clean_min=1, severe_min=0)


@pytest.mark.parametrize(
    ("sensitivity", "false_positive", "incumbent"), [(0.8, 0.0, 0.0), (0.8, 0.1, 0.0), (0.8, 0.0, 0.2), (1.0, 0.2, 0.1)]
)
def test_a_difference_of_flags_keeps_alpha_for_the_true_difference(
    sensitivity: float, false_positive: float, incumbent: float
) -> None:
    """A candidate whose true rate is the margin above the incumbent's, by a detector that errs."""
    generator, runs, margin, alpha, episodes = np.random.default_rng(9), 200, 0.25, 0.1, 400
    wrong, wrong_uncorrected = 0, 0
    for _ in range(runs):
        found, alarms = generator.binomial(60, [sensitivity, false_positive]).tolist()
        bounds = detector_bounds(PlantedCounts(60, found, 60, alarms, 0, 0), alpha)
        paired = PairedOutcomes(
            *(
                slice_of(_flags(generator, rate, sensitivity, false_positive, episodes))
                for rate in (incumbent + margin, incumbent)
            )
        )
        rule = risk_difference_rule(
            margin, alpha=FLAG_SHARE * alpha, beta=0.1, episodes_max=episodes, sensitivity=bounds.sensitivity_low
        )
        losses = risk_losses(paired, Severity.SEVERE, margin)
        promoted = advance(rule, start(), losses).decision is Decision.PROMOTED
        wrong += bounds.tells_apart and promoted
        # As if flags were violations: their difference, at the whole of alpha.
        plain = dataclasses.replace(
            risk_difference_rule(margin, alpha=alpha, beta=0.1, episodes_max=episodes), low=-1.0
        )
        differences = risk_losses(paired, Severity.SEVERE, 0.0)
        wrong_uncorrected += advance(plain, start(), differences).decision is Decision.PROMOTED
    assert wrong <= stats.binom.ppf(0.999, runs, alpha)
    assert wrong_uncorrected > 1.5 * alpha * runs


def _flags(
    generator: np.random.Generator, rate: float, sensitivity: float, false_positive: float, episodes: int
) -> list[int]:
    """The worst event that is seen in each episode: SEVERE or NONE."""
    violates = generator.random(episodes) < rate
    flagged = generator.random(episodes) < np.where(violates, sensitivity, false_positive)
    return [int(Severity.SEVERE) if seen else 0 for seen in flagged]


def test_a_detector_that_flags_clean_episodes_as_often_tells_nothing_apart() -> None:
    assert detector_bounds(PlantedCounts(60, 60, 20, 0, 0, 0), 0.05).tells_apart
    assert not detector_bounds(PlantedCounts(60, 60, 20, 20, 0, 0), 0.05).tells_apart
    # One clean plant says next to nothing, however it came out.
    assert not detector_bounds(PlantedCounts(60, 60, 1, 0, 0, 0), 0.05).tells_apart
    assert not DetectorBounds(0.9, 0.0).tells_apart
