"""The criteria against SciPy, by exact enumeration and by seeded simulation at their limits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from replay.settings import SettingError, validate
from safety.config import SafetyConfig
from safety.criteria import check_attainable, return_non_inferiority, violation_rate

CONFIG = SafetyConfig()
ALPHA = 0.05


def passes(returns: NDArray[np.float64], incumbent: NDArray[np.float64], config: SafetyConfig = CONFIG) -> bool:
    return return_non_inferiority(returns, incumbent, config).passed


def test_the_defaults_are_valid_and_attainable() -> None:
    validate(CONFIG)
    check_attainable(CONFIG)


@pytest.mark.parametrize("limit", [0.03, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("episodes", [100, 299])
def test_unsafe_candidates_at_the_limit_pass_at_most_with_probability_alpha(episodes: int, limit: float) -> None:
    config = dataclasses.replace(CONFIG, violation_rate_max=limit)
    counts = range(episodes + 1)
    passing = [violation_rate(count, episodes, config).passed for count in counts]
    assert passing[0]
    probability = stats.binom.pmf(np.array(counts), episodes, limit)
    assert probability[np.array(passing)].sum() <= ALPHA


def test_violation_rate_tells_its_figures() -> None:
    result = violation_rate(2, 100, CONFIG)
    assert result.passed
    assert result.statistic == pytest.approx(stats.beta.ppf(0.95, 3, 98))
    assert (result.estimate, result.limit, result.episodes) == (0.02, 0.1, 100)
    assert "2 of 100 episodes" in result.explanation
    assert not violation_rate(5, 100, CONFIG).passed


@pytest.mark.parametrize(("violating", "episodes"), [(0, 0), (-1, 10), (11, 10)])
def test_violation_rate_fails_without_episodes(violating: int, episodes: int) -> None:
    result = violation_rate(violating, episodes, dataclasses.replace(CONFIG, violation_rate_max=1.0))
    assert not result.passed
    assert "no bound" in result.explanation


def test_a_limit_of_one_accepts_every_rate() -> None:
    assert violation_rate(100, 100, dataclasses.replace(CONFIG, violation_rate_max=1.0)).passed


def test_settings_that_reject_everybody_are_refused_at_once() -> None:
    with pytest.raises(SettingError, match="59 episodes are needed"):
        check_attainable(dataclasses.replace(CONFIG, episodes=20, violation_rate_max=0.05))
    check_attainable(dataclasses.replace(CONFIG, episodes=59, violation_rate_max=0.05))
    with pytest.raises(SettingError):
        check_attainable(dataclasses.replace(CONFIG, episodes=58, violation_rate_max=0.05))


def test_without_an_incumbent_the_return_passes() -> None:
    result = return_non_inferiority(np.zeros(100), None, CONFIG)
    assert result.passed
    assert "no incumbent" in result.explanation


def test_equal_returns_pass_and_a_loss_beyond_the_margin_fails() -> None:
    incumbent = np.full(100, 500.0)
    assert passes(incumbent, incumbent)
    assert passes(incumbent + 10, incumbent)
    assert not passes(incumbent - 30, incumbent)
    result = return_non_inferiority(incumbent - 30, incumbent, CONFIG)
    assert (result.limit, result.estimate) == (-25.0, -30.0)
    assert "beyond the accepted loss of 25" in result.explanation


def test_one_sample_cannot_show_that_nothing_is_ever_lost() -> None:
    # A policy that loses everything in 1 of 20 episodes goes unseen in 30 episodes with probability 0.21.
    assert not passes(np.full(30, 500.0), np.full(30, 500.0))


def test_the_greater_margin_counts() -> None:
    incumbent = np.full(100, 10.0)
    assert not passes(incumbent - 1, incumbent)
    assert passes(incumbent - 1, incumbent, dataclasses.replace(CONFIG, return_margin_absolute=2.0))
    assert passes(incumbent - 1, incumbent, dataclasses.replace(CONFIG, return_margin=0.2))


def test_an_incumbent_of_mean_zero_must_be_beaten_unless_there_is_an_absolute_margin() -> None:
    incumbent = np.tile([-1.0, 1.0], 50)
    assert not passes(incumbent, incumbent)
    assert passes(incumbent + 0.5, incumbent)
    assert passes(incumbent, incumbent, dataclasses.replace(CONFIG, return_margin_absolute=0.1))


def test_the_comparison_is_paired() -> None:
    generator = np.random.default_rng(1)
    luck = generator.normal(0, 100, 100)
    incumbent = 500 + luck
    assert passes(500 + luck - 2, incumbent)
    assert not passes(500 + generator.permutation(luck) - 2, incumbent)


@pytest.mark.parametrize(
    ("returns", "incumbent"),
    [
        (np.array([500.0]), np.array([500.0])),
        (np.array([]), np.array([])),
        (np.full(100, 500.0), np.full(99, 500.0)),
        (np.full(100, np.nan), np.full(100, 500.0)),
        (np.full(100, 500.0), np.full(100, np.inf)),
        (np.full(100, np.inf), np.full(100, 500.0)),
    ],
)
def test_returns_that_cannot_be_compared_fail(returns: NDArray[np.float64], incumbent: NDArray[np.float64]) -> None:
    result = return_non_inferiority(returns, incumbent, CONFIG)
    assert not result.passed
    assert result.statistic == -math.inf


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("episodes", [20, 59, 100, 150, 200, 500, 1000])
def test_rare_total_failures_at_the_limit_pass_at_most_with_probability_alpha(episodes: int, margin: float) -> None:
    # Exact: a candidate that equals the incumbent but loses everything with the probability that costs the margin.
    config = dataclasses.replace(CONFIG, return_margin=margin)
    chance = 0.0
    for failures in range(episodes + 1):
        probability = stats.binom.pmf(failures, episodes, margin)
        if probability > 1e-9:
            returns = np.full(episodes, 500.0)
            returns[:failures] = 0.0
            chance += probability * passes(returns, np.full(episodes, 500.0), config)
    assert chance <= ALPHA


@pytest.mark.parametrize("name", ["normal", "left", "right", "heavy"])
def test_inferior_candidates_at_the_limit_pass_at_most_with_probability_alpha(name: str) -> None:
    generator, simulations = np.random.default_rng(7), 2000
    draws: dict[str, Callable[[int], NDArray[np.float64]]] = {
        "normal": lambda size: generator.normal(0, 50, size),
        "left": lambda size: 50 - generator.exponential(50, size),
        "right": lambda size: generator.exponential(50, size) - 50,
        "heavy": lambda size: 25 * generator.standard_t(4, size),
    }
    draw = draws[name]
    incumbent = np.full(100, 500.0)
    approved = sum(passes(incumbent - 25 + draw(100), incumbent) for _ in range(simulations))
    # With a true rate of alpha, more than this many would be seen once in a thousand such tests.
    assert approved <= stats.binom.ppf(0.999, simulations, ALPHA)


def test_equal_candidates_with_noise_usually_pass() -> None:
    generator = np.random.default_rng(3)
    incumbent = np.full(100, 500.0)
    approved = sum(passes(incumbent + generator.normal(0, 10, 100), incumbent) for _ in range(200))
    assert approved == 200
