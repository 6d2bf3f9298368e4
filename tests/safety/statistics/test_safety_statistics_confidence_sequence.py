"""The anytime upper bound of a rate against a slow oracle, the sequential test itself, and simulated candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from safety.statistics.betting import LOG_WEIGHTS_FOR, SHARES
from safety.statistics.confidence_sequence import rate_evidence, rate_upper
from safety.statistics.counts import CountsError
from safety.statistics.parameters import ParameterError
from safety.statistics.sequential import Decision, advance, start
from safety.statistics.sequential_rules import rate_rule


def slow_evidence(losses: list[int], rate: float) -> float:
    """E in the notation of the paper: sum_j w_j prod_i (1 + lambda_j (m - x_i))."""
    total = 0.0
    for share, log_weight in zip(SHARES, LOG_WEIGHTS_FOR, strict=True):
        bet = share / (1.0 - rate)
        total += math.exp(log_weight) * math.prod(1.0 + bet * (rate - loss) for loss in losses)
    return total


@pytest.mark.parametrize(("events", "episodes"), [(0, 1), (0, 40), (1, 40), (7, 40), (39, 40), (40, 40)])
def test_the_bound_is_where_the_slow_evidence_reaches_one_over_alpha(events: int, episodes: int) -> None:
    alpha, losses = 0.02, [1] * events + [0] * (episodes - events)
    bound = rate_upper(events, episodes, alpha)
    grid = np.linspace(0.0005, 0.9995, 1000)
    excluded = [rate for rate in grid if slow_evidence(losses, rate) >= 1.0 / alpha]
    lowest = min(excluded, default=1.0)
    assert lowest - 0.001 <= bound <= lowest + 1e-9


def test_the_evidence_is_that_of_the_sum_over_bets() -> None:
    assert math.exp(rate_evidence(2, 30, 0.2)) == pytest.approx(slow_evidence([1, 1] + [0] * 28, 0.2))


def test_a_sequential_test_promotes_exactly_where_the_bound_is_below_its_limit() -> None:
    limit, alpha = 0.1, 0.015
    rule = rate_rule(limit, alpha=alpha, beta=1e-9, episodes_max=400)
    state, promoted_at = start(), None
    losses = [1.0 if index == 20 else 0.0 for index in range(400)]
    for index, loss in enumerate(losses, 1):
        state = advance(rule, state, [loss])
        below = rate_upper(int(sum(losses[:index])), index, alpha) <= limit
        assert below == (state.decision is Decision.PROMOTED), index
        if below:
            promoted_at = index
            break
    assert promoted_at is not None and promoted_at > 40


def test_the_bound_ever_lies_below_the_true_rate_at_most_with_probability_alpha() -> None:
    alpha, rate, episodes = 0.1, 0.2, 150
    generator = np.random.default_rng(3)
    bounds = {
        (events, count): rate_upper(events, count, alpha)
        for count in range(10, episodes + 1, 10)
        for events in range(count + 1)
    }
    wrong = 0
    for _ in range(400):
        totals = np.cumsum(generator.random(episodes) < rate)
        wrong += any(bounds[int(totals[count - 1]), count] < rate for count in range(10, episodes + 1, 10))
    # Three standard deviations above alpha.
    assert wrong / 400 <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 400)
    assert wrong > 0


def test_without_episodes_nothing_is_known() -> None:
    assert rate_upper(0, 0, 0.05) == 1.0


@pytest.mark.parametrize(("events", "episodes"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(events: int, episodes: int) -> None:
    with pytest.raises(CountsError, match="events in"):
        rate_upper(events, episodes, 0.05)


def test_an_alpha_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ParameterError, match="alpha"):
        rate_upper(0, 3, 1.0)
