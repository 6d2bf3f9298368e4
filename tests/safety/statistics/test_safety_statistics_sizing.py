"""Sizes and powers against SciPy, and against the known numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from safety.statistics.parameters import ParameterError
from safety.statistics.sequential_rules import risk_difference_rule
from safety.statistics.sizing import (
    approval_probability,
    episodes_for_power,
    episodes_without_event,
    events_allowed,
    sequential_profile,
    wald_episodes,
)


@pytest.mark.parametrize(("limit", "episodes"), [(0.01, 299), (0.004, 748), (0.1, 29), (0.05, 59), (0.5, 5)])
def test_known_numbers_of_episodes_without_an_event(limit: float, episodes: int) -> None:
    assert episodes_without_event(limit, 0.05) == episodes


@pytest.mark.parametrize("episodes", [10, 29, 46, 100, 1000])
@pytest.mark.parametrize("limit", [0.05, 0.1, 0.5])
def test_events_allowed_are_the_most_with_which_it_passes(episodes: int, limit: float) -> None:
    allowed = events_allowed(episodes, limit, 0.05)
    # By the test that the bound inverts: P(at most as many events at the limit) <= alpha.
    assert allowed == max([k for k in range(-1, episodes) if stats.binom.cdf(k, episodes, limit) <= 0.05])


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1, 0.2, 1.0])
def test_approval_probability_equals_scipy(rate: float) -> None:
    allowed = events_allowed(100, 0.1, 0.05)
    assert allowed == 4
    assert approval_probability(rate, 100, 0.1, 0.05) == pytest.approx(stats.binom.cdf(4, 100, rate), abs=1e-14)
    assert approval_probability(rate, 10, 0.1, 0.05) == 0.0


def test_power_against_twice_the_limit() -> None:
    assert approval_probability(0.2, 100, 0.1, 0.05) < 1e-4


@pytest.mark.parametrize(("limit", "rate"), [(0.1, 0.0), (0.1, 0.025), (0.1, 0.05), (0.05, 0.01)])
def test_episodes_for_power_suffice_and_fewer_events_would_not(limit: float, rate: float) -> None:
    episodes = episodes_for_power(limit, rate, 0.05, 0.9)
    assert approval_probability(rate, episodes, limit, 0.05) >= 0.9
    allowed = events_allowed(episodes, limit, 0.05)
    assert events_allowed(episodes - 1, limit, 0.05) == allowed - 1
    smaller = [size for size in range(1, episodes) if events_allowed(size, limit, 0.05) == allowed - 1]
    assert all(approval_probability(rate, size, limit, 0.05) < 0.9 for size in smaller)


def test_refuses_what_cannot_be_sized() -> None:
    with pytest.raises(ParameterError, match="rate"):
        episodes_for_power(0.1, 0.1, 0.05, 0.9)
    with pytest.raises(ParameterError):
        episodes_without_event(0.0, 0.05)
    with pytest.raises(ParameterError):
        events_allowed(0, 0.1, 0.05)
    with pytest.raises(ParameterError, match="not those of a rate"):
        sequential_profile(risk_difference_rule(0.1, alpha=0.05, beta=0.05, episodes_max=200), 0.1)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.05, 0.0721, 0.1, 0.3, 1.0])
def test_walds_test_needs_what_it_needs_when_it_is_run(rate: float) -> None:
    generator, runs = np.random.default_rng(4), 300
    clean, event = math.log(0.95 / 0.9), math.log(0.05 / 0.1)
    promotes, rejects = math.log(0.9 / 0.05), math.log(0.1 / 0.95)
    used = []
    for _ in range(runs):
        path = np.cumsum(np.where(generator.random(4000) < rate, event, clean))
        used.append(1 + int(np.argmax((path >= promotes) | (path <= rejects))))
    about = wald_episodes(rate, 0.1, 0.05, 0.05, 0.9)
    # The last step oversteps a boundary by less than itself.
    overstep = -event / abs(rate * event + (1 - rate) * clean) if abs(rate - 0.0721) > 0.001 else 0.1 * about
    assert about - 4 * np.std(used) / math.sqrt(runs) - 1e-9 <= np.mean(used)
    assert np.mean(used) <= about + overstep + 4 * np.std(used) / math.sqrt(runs)


def test_walds_figures_at_both_hypotheses() -> None:
    """By the textbook: ((1 - beta) log A + beta log B) / (Kullback-Leibler divergence)."""
    divergence = 0.05 * math.log(0.5) + 0.95 * math.log(0.95 / 0.9)
    expected = (0.9 * math.log(0.9 / 0.05) + 0.1 * math.log(0.1 / 0.95)) / divergence
    assert wald_episodes(0.05, 0.1, 0.05, 0.05, 0.9) == pytest.approx(expected, rel=1e-6)
    divergence = 0.1 * math.log(2.0) + 0.9 * math.log(0.9 / 0.95)
    expected = -(0.05 * math.log(0.9 / 0.05) + 0.95 * math.log(0.1 / 0.95)) / divergence
    assert wald_episodes(0.1, 0.1, 0.05, 0.05, 0.9) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ParameterError, match="acceptable"):
        wald_episodes(0.1, 0.1, 0.1, 0.05, 0.9)
    with pytest.raises(ParameterError, match="alpha"):
        wald_episodes(0.1, 0.1, 0.05, 0.9, 0.9)
