"""The fixed-size test of a rate: its error by exact enumeration, and what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from safety.statistics.counts import Severity
from safety.statistics.findings import Kind, Status
from safety.statistics.parameters import ParameterError
from safety.statistics.rates import violation_rate
from tests.safety.statistics.slices import slice_of, violations


@pytest.mark.parametrize("alpha", [0.05, 0.01, 3e-6])
@pytest.mark.parametrize("limit", [0.05, 0.1, 0.3])
def test_passes_an_unsafe_candidate_with_probability_at_most_alpha(limit: float, alpha: float) -> None:
    episodes = 300
    passing = np.array(
        [
            violation_rate(violations(events, episodes), Severity.SEVERE, limit=limit, alpha=alpha).passed
            for events in range(episodes // 2)
        ]
    )
    assert passing[0]
    error = stats.binom.pmf(np.flatnonzero(passing), episodes, limit).sum()
    assert error <= alpha
    # As many events as the error rate permits, not fewer.
    assert error + stats.binom.pmf(passing.sum(), episodes, limit) > alpha


def test_tells_its_figures() -> None:
    finding = violation_rate(violations(2, 100), Severity.SEVERE, limit=0.1, alpha=0.05)
    assert (finding.name, finding.slice_name, finding.kind) == ("violation_rate.severe", "plain", Kind.SAFETY)
    assert finding.statistic == pytest.approx(stats.beta.ppf(0.95, 3, 98))
    assert (finding.estimate, finding.limit, finding.episodes, finding.passed) == (0.02, 0.1, 100, True)
    assert "2 of 100 episodes had an event at least severe; with 95% confidence" in finding.explanation
    assert not violation_rate(violations(2, 100), Severity.MINOR, limit=0.1, alpha=0.05).passed


def test_a_slice_that_is_empty_or_short_fails() -> None:
    for outcomes, least in ((slice_of([]), 1), (violations(0, 99), 100)):
        finding = violation_rate(outcomes, Severity.SEVERE, limit=0.999, alpha=0.4, episodes_min=least)
        assert finding.status is Status.FAILED
        assert finding.statistic == 1.0
        assert math.isnan(finding.estimate)
        assert "are needed" in finding.explanation
    assert violation_rate(violations(0, 100), Severity.SEVERE, limit=0.1, alpha=0.05, episodes_min=100).passed


def test_all_violating_fails_at_any_limit() -> None:
    assert not violation_rate(violations(50, 50), Severity.SEVERE, limit=0.999, alpha=0.4).passed


@pytest.mark.parametrize(
    ("limit", "alpha", "least"),
    [
        *((limit, 0.05, 1) for limit in (0.0, 1.0, -0.1, math.inf, math.nan)),
        *((0.1, alpha, 1) for alpha in (0.0, 1e-13, 0.51, 1.0, math.nan)),
        (0.1, 0.05, 0),
    ],
)
def test_refuses_parameters_that_mean_nothing(limit: float, alpha: float, least: int) -> None:
    with pytest.raises(ParameterError):
        violation_rate(violations(0, 10), Severity.SEVERE, limit=limit, alpha=alpha, episodes_min=least)
