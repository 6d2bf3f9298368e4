"""The alarm on a rate: exact small cases, false alarms by simulation, and how long it takes after a clean stretch."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from safety.canonical_json import canonical_json
from safety.statistics import breach
from safety.statistics.breach import ODDS_RATIOS, BreachRule, BreachState, advance, is_breached, log_evidence, weight
from safety.statistics.parameters import ParameterError
from safety.statistics.sequential import StateError

RULE = BreachRule(limit=0.1, level=0.01)


def run(rule: BreachRule, portions: list[tuple[int, int]]) -> BreachState:
    state = breach.start()
    for episodes, violating in portions:
        state = advance(rule, state, episodes, violating)
    return state


def evidence_by_definition(limit: float, portions: list[tuple[int, int]]) -> float:
    """The mean over the bets of sum over starts j of w_j times the gains of portions j, j + 1, ...; all w_j counted."""
    total = 0.0
    for ratio in ODDS_RATIOS:
        rate = ratio * limit / (1 - limit + ratio * limit)
        gains = [(rate / limit) ** k * ((1 - rate) / (1 - limit)) ** (n - k) for n, k in portions]
        total += sum(weight(j + 1) * math.prod(gains[j:]) for j in range(len(portions) + 1))
    return total / len(ODDS_RATIOS)


@pytest.mark.parametrize("limit", [0.004, 0.1, 0.5, 0.9])
def test_the_recursion_is_the_sum_over_all_beginnings(limit: float) -> None:
    generator = np.random.default_rng(1)
    portions: list[tuple[int, int]] = []
    state, rule = breach.start(), BreachRule(limit, 1e-9)
    for _ in range(12):
        episodes = int(generator.integers(1, 6))
        portions.append((episodes, int(generator.binomial(episodes, limit))))
        state = advance(rule, state, *portions[-1])
        assert math.exp(log_evidence(state)) == pytest.approx(evidence_by_definition(limit, portions), rel=1e-12)


def test_the_weights_are_positive_and_add_up_to_one() -> None:
    weights = [weight(number) for number in range(1, 20_001)]
    assert all(before > after > 0 for before, after in itertools.pairwise(weights))
    # What is missing is the sum of all further ones: 1 / log2(N + 2).
    assert sum(weights) == pytest.approx(1 - 1 / math.log2(20_002), rel=1e-12)
    assert weight(1) == pytest.approx(1 - 1 / math.log2(3))


@pytest.mark.parametrize("limit", [0.01, 0.3])
def test_at_the_limit_no_capital_is_won_on_average(limit: float) -> None:
    """Exactly, over every outcome of five episodes looked at one by one: the expectation of the sum of started bets."""
    rule, mean = BreachRule(limit, 1e-9), 0.0
    for outcome in itertools.product((0, 1), repeat=5):
        state = run(rule, [(1, violating) for violating in outcome])
        probability = limit ** sum(outcome) * (1 - limit) ** (5 - sum(outcome))
        mean += probability * math.exp(log_evidence(state))
    assert mean == pytest.approx(sum(weight(number) for number in range(1, 7)), rel=1e-12)


def test_false_alarms_are_rarer_than_the_level() -> None:
    """2,000 streams of 1,000 episodes at the limit, in portions of 1 to 4; 5% are allowed, with room for chance."""
    generator = np.random.default_rng(7)
    rule, streams = BreachRule(limit=0.2, level=0.05), 2_000
    gains = breach._log_gains(rule.limit)
    capital = np.full((streams, len(ODDS_RATIOS)), math.log(weight(1)))
    alarmed, looks = np.zeros(streams, bool), 0
    while looks < 400:
        looks += 1
        episodes = int(generator.integers(1, 5))
        violating = generator.binomial(episodes, rule.limit, streams)[:, np.newaxis]
        capital += violating * gains[0] + (episodes - violating) * gains[1]
        capital = np.logaddexp(capital, math.log(weight(looks + 1)))
        alarmed |= np.logaddexp.reduce(capital, axis=1) - math.log(len(ODDS_RATIOS)) >= -math.log(rule.level)
    assert 0 < alarmed.sum() <= 0.05 * streams


def delay(rule: BreachRule, state: BreachState, rate: float, seed: int) -> int:
    """Episodes from a rise to `rate` until the alarm, looked at one by one."""
    generator, episodes = np.random.default_rng(seed), 0
    while not is_breached(rule, state):
        state = advance(rule, state, 1, int(generator.random() < rate))
        episodes += 1
    return episodes


def plain_delay(rule: BreachRule, clean: int, rate: float, seed: int) -> int:
    """The same for a process that is never begun anew, after so many clean episodes."""
    gains, generator, episodes = breach._log_gains(rule.limit), np.random.default_rng(seed), 0
    capital = clean * gains[1]
    while np.logaddexp.reduce(capital) - math.log(len(capital)) < -math.log(rule.level):
        capital = capital + gains[0 if generator.random() < rate else 1]
        episodes += 1
    return episodes


def test_a_rise_after_five_thousand_clean_episodes_is_found_as_if_there_had_been_few() -> None:
    clean = run(RULE, [(10, 0)] * 500)
    late = np.mean([delay(RULE, clean, 0.3, seed) for seed in range(30)])
    early = np.mean([delay(RULE, breach.start(), 0.3, seed) for seed in range(30)])
    # All that the clean ones cost are the smaller weights; without new beginnings it would be their whole evidence.
    buried = np.mean([plain_delay(RULE, 5_000, 0.3, seed) for seed in range(30)])
    assert late < 3 * early
    assert buried > 6 * late


def test_a_rate_far_above_the_limit_is_found_within_a_few_episodes() -> None:
    assert delay(RULE, breach.start(), 1.0, 0) <= 6
    assert delay(RULE, run(RULE, [(1, 0)] * 1_000), 1.0, 0) <= 10


def test_below_the_limit_there_is_no_alarm_however_long() -> None:
    generator = np.random.default_rng(3)
    state = breach.start()
    for _ in range(5_000):
        state = advance(RULE, state, 20, int(generator.binomial(20, 0.08)))
    assert not is_breached(RULE, state)
    assert state.episodes == 100_000


def test_however_a_portion_is_divided_no_evidence_is_lost() -> None:
    """The first beginning makes the same of it, in whatever order; further ones only add to that."""
    whole = run(RULE, [(50, 12)])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation([1] * 12 + [0] * 38)
        one_by_one = run(RULE, [(1, int(each)) for each in order])
        assert math.exp(log_evidence(one_by_one)) > math.exp(log_evidence(whole)) - weight(2)
        assert (one_by_one.episodes, one_by_one.violating) == (whole.episodes, whole.violating)


def test_portions_of_nothing_change_nothing_and_the_alarm_stays() -> None:
    state = run(RULE, [(3, 0), (4, 1)])
    assert advance(RULE, state, 0, 0) is state
    alarmed = advance(RULE, state, 40, 30)
    assert is_breached(RULE, alarmed)
    assert advance(RULE, alarmed, 10_000, 0) is alarmed


@pytest.mark.parametrize(("episodes", "violating"), [(3, 4), (3, -1), (-1, 0)])
def test_portions_that_cannot_be(episodes: int, violating: int) -> None:
    with pytest.raises(ParameterError, match="cannot be"):
        advance(RULE, breach.start(), episodes, violating)


@pytest.mark.parametrize(("limit", "level"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, 1.0), (math.nan, 0.1)])
def test_rules_that_mean_nothing(limit: float, level: float) -> None:
    with pytest.raises(ParameterError):
        BreachRule(limit, level)


def test_a_stored_state_goes_on_as_if_it_had_not_been_stored() -> None:
    state = run(RULE, [(7, 2), (3, 0), (9, 1)])
    again = breach.state_in(RULE, json.loads(canonical_json(breach.state_fields(RULE, state))))
    assert again == state
    assert advance(RULE, again, 5, 2) == advance(RULE, state, 5, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "temper.sequential.v1"},
        {"rule": BreachRule(0.2, 0.01).digest},
        {"looks": -1},
        {"looks": 20},
        {"episodes": 1.5},
        {"violating": 11},
        {"violating": None},
        {"log_capital": [0.0]},
        {"log_capital": None},
        {"log_capital": ["0"] * len(ODDS_RATIOS)},
        {"log_capital": [math.inf] * len(ODDS_RATIOS)},
    ],
)
def test_a_stored_state_that_is_none_is_refused(changes: dict[str, object]) -> None:
    fields = breach.state_fields(RULE, run(RULE, [(5, 1), (5, 0)]))
    with pytest.raises(StateError):
        breach.state_in(RULE, fields | changes)
