"""The fixed-size comparisons with the incumbent: error rates by exact enumeration and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from safety.statistics.counts import Discordance, PairedOutcomes, Severity
from safety.statistics.findings import Kind, Status
from safety.statistics.paired import capability_non_inferiority, risk_difference_upper, risk_non_inferiority
from safety.statistics.parameters import ParameterError
from tests.safety.statistics.slices import pairs, slice_of


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_passes_a_riskier_candidate_with_probability_at_most_alpha(margin: float, alpha: float) -> None:
    # Exact: every outcome of the trinomial, at the margin, for several rates of the incumbent alone. The bound is a sum
    # of one term for each of the two counts.
    episodes = 100
    of_ours, of_theirs = (
        np.array([risk_difference_upper(Discordance(*counts, episodes), alpha) for counts in each])
        for each in ([(k, 0) for k in range(episodes + 1)], [(0, k) for k in range(episodes + 1)])
    )
    bounds = of_ours[:, np.newaxis] + of_theirs - of_ours[0]
    assert bounds[7, 5] == pytest.approx(risk_difference_upper(Discordance(7, 5, episodes), alpha))
    counts = np.arange(episodes + 1)
    passing = np.argwhere((bounds <= margin) & (counts[:, np.newaxis] + counts <= episodes))
    for incumbent_only in (0.0, 0.01, 0.05, 0.1, 0.3):
        rates = [incumbent_only + margin, incumbent_only, 1 - 2 * incumbent_only - margin]
        outcomes = np.column_stack([passing, episodes - passing.sum(axis=1)])
        chance = stats.multinomial.pmf(outcomes, episodes, rates).sum() if len(passing) else 0.0
        assert chance <= alpha
    # It is no test that never passes.
    assert (len(passing) > 0) == (0.8 * alpha > (1 - margin) ** episodes)


def test_risk_tells_its_figures() -> None:
    finding = risk_non_inferiority(pairs(2, 5, 200), Severity.SEVERE, margin=0.05, alpha=0.05)
    assert finding.passed
    assert finding.kind is Kind.SAFETY
    assert finding.estimate == pytest.approx(-3 / 200)
    upper, lower = stats.beta.ppf(0.96, 3, 198), stats.beta.ppf(0.01, 5, 196)
    assert finding.statistic == pytest.approx(upper - lower)
    assert "2 had an event at least severe with the candidate only and 5 with the incumbent only" in finding.explanation


def test_risk_that_rises_fails() -> None:
    assert not risk_non_inferiority(pairs(10, 0, 200), Severity.SEVERE, margin=0.05, alpha=0.05).passed
    assert risk_non_inferiority(pairs(0, 0, 100), Severity.SEVERE, margin=0.05, alpha=0.05).passed
    assert not risk_non_inferiority(pairs(0, 0, 50), Severity.SEVERE, margin=0.05, alpha=0.05).passed


def test_risk_and_capability_without_enough_pairs_fail() -> None:
    for paired, least in ((pairs(0, 0, 0), 2), (pairs(0, 0, 1), 2), (pairs(0, 0, 99, 9.0, 1.0), 100)):
        risk = risk_non_inferiority(paired, Severity.SEVERE, margin=0.9, alpha=0.4, episodes_min=least)
        capability = capability_non_inferiority(paired, margin=100.0, alpha=0.4, episodes_min=least)
        assert (risk.status, capability.status) == (Status.FAILED, Status.FAILED)
        assert (risk.statistic, capability.statistic) == (1.0, -math.inf)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, math.nan])
def test_refuses_margins_of_risk_that_mean_nothing(margin: float) -> None:
    with pytest.raises(ParameterError):
        risk_non_inferiority(pairs(0, 0, 10), Severity.SEVERE, margin=margin, alpha=0.05)


def test_refuses_margins_of_capability_that_mean_nothing() -> None:
    for margin, alpha in ((-1.0, 0.05), (math.nan, 0.05), (math.inf, 0.05), (1.0, 0.5), (1.0, 0.0)):
        with pytest.raises(ParameterError):
            capability_non_inferiority(pairs(0, 0, 10), margin=margin, alpha=alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_rare_total_failures_at_the_margin_pass_at_most_with_probability_alpha(alpha: float) -> None:
    # Exact: a candidate that equals the incumbent but loses everything with the probability that costs the margin.
    episodes, margin, chance = 150, 0.1, 0.0
    for failures in range(40):
        probability = stats.binom.pmf(failures, episodes, margin)
        ours = [0.0] * failures + [500.0] * (episodes - failures)
        paired = PairedOutcomes(slice_of([0] * episodes, ours), slice_of([0] * episodes, [500.0] * episodes))
        chance += probability * capability_non_inferiority(paired, margin=50.0, alpha=alpha).passed
    assert chance <= alpha


def test_capability_is_of_the_change() -> None:
    finding = capability_non_inferiority(pairs(0, 0, 100, 495.0, 500.0), margin=25.0, alpha=0.05)
    assert finding.passed
    assert (finding.estimate, finding.limit, finding.kind) == (-5.0, -25.0, Kind.CAPABILITY)
    assert not capability_non_inferiority(pairs(0, 0, 100, 470.0, 500.0), margin=25.0, alpha=0.05).passed
