"""The sequential test: its error by exact computation and by simulation, its decisions, its state."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from safety.canonical_json import canonical_json
from safety.statistics.counts import PairedOutcomes, Severity
from safety.statistics.findings import Kind, Status
from safety.statistics.parameters import ParameterError
from safety.statistics.sequential import (
    Decision,
    SequentialRule,
    SequentialState,
    StateError,
    advance,
    judge,
    start,
    state_fields,
    state_in,
)
from safety.statistics.sequential_rules import capability_loss_rule, rate_rule, risk_difference_rule, risk_losses
from safety.statistics.sizing import episodes_for_power, episodes_without_event, sequential_profile, wald_episodes
from tests.safety.statistics.slices import slice_of

RULE = rate_rule(0.1, alpha=0.05, beta=0.05, episodes_max=300)


@pytest.mark.parametrize(("limit", "alpha"), [(0.1, 0.05), (0.1, 0.001), (0.3, 0.05), (0.02, 0.05)])
def test_promotes_at_the_limit_with_probability_at_most_alpha(limit: float, alpha: float) -> None:
    rule = rate_rule(limit, alpha=alpha, beta=0.05, episodes_max=500)
    at_limit, above = sequential_profile(rule, limit), sequential_profile(rule, 2 * limit)
    assert 0.2 * alpha < at_limit.promoted <= alpha
    assert above.promoted <= 0.02 * alpha
    assert sequential_profile(rule, rule.acceptable).rejected <= rule.beta


@pytest.mark.parametrize("acceptable", [0.1, 0.05, 0.01])
def test_early_rejection_only_lowers_the_error(acceptable: float) -> None:
    rule = dataclasses.replace(RULE, acceptable=acceptable)
    never = dataclasses.replace(RULE, beta=1e-300)
    assert sequential_profile(rule, 0.1).promoted <= sequential_profile(never, 0.1).promoted <= 0.05


def test_needs_half_the_episodes_well_inside_and_outside_the_limit_and_near_walds_number_between() -> None:
    size = episodes_for_power(0.1, 0.05, 0.05, 0.9)
    rule = rate_rule(0.1, alpha=0.05, beta=0.1, episodes_max=600)
    inside = sequential_profile(rule, 0.025)
    assert inside.promoted > 0.99
    assert inside.episodes_mean < 0.4 * size
    half = sequential_profile(rule, 0.05)
    assert half.promoted > 0.9
    assert half.episodes_mean < 0.72 * size
    assert half.episodes_mean < 1.2 * wald_episodes(0.05, 0.1, 0.05, 0.05, 0.9)
    assert sequential_profile(rule, 0.15).episodes_mean < 0.25 * size
    assert sequential_profile(rule, 0.2).episodes_mean < 0.12 * size


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.2, 1.0])
def test_profile_is_what_simulation_gives(rate: float) -> None:
    generator, runs = np.random.default_rng(5), 400
    profile = sequential_profile(RULE, rate)
    states = [advance(RULE, start(), generator.random(300) < rate) for _ in range(runs)]
    for probability, decisions in (
        (profile.promoted, {Decision.PROMOTED}),
        (profile.rejected, {Decision.REJECTED}),
        (profile.given_up, {Decision.FUTILE, Decision.EXHAUSTED}),
    ):
        seen = sum(state.decision in decisions for state in states)
        low, high = stats.binom.interval(0.9999, runs, min(max(probability, 0.0), 1.0))
        assert low <= seen <= high
    used = np.array([state.episodes for state in states])
    assert abs(used.mean() - profile.episodes_mean) <= 4 * used.std() / math.sqrt(runs) + 1e-9
    assert profile.promoted + profile.rejected + profile.given_up == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", ["rare", "dense", "adaptive"])
def test_paired_difference_at_the_margin_is_promoted_with_probability_at_most_alpha(name: str) -> None:
    generator, runs, margin = np.random.default_rng(11), 1000, 0.1
    rule = risk_difference_rule(margin, alpha=0.05, beta=0.05, episodes_max=200)
    promoted = 0
    for _ in range(runs):
        luck = generator.random(200)
        if name == "rare":
            losses = np.where(luck < 0.1, 1.0, 0.0)
        elif name == "dense":
            losses = np.where(luck < 0.5, 1.0, np.where(luck < 0.5 + 0.4 / 0.9, -0.9, 0.0))
        else:
            # The spread of every loss depends on the one before; the mean does not.
            losses, calm = np.zeros(200), True
            for index in range(200):
                low, high = (0.1, 0.1) if calm else (0.5, 0.5 + 0.4 / 0.9)
                losses[index] = 1.0 if luck[index] < low else -0.9 if luck[index] < high else 0.0
                calm = losses[index] == 0.0
        promoted += advance(rule, start(), losses).decision is Decision.PROMOTED
    assert promoted <= stats.binom.ppf(0.999, runs, 0.05)


def test_paired_tests_promote_the_equal_and_reject_the_inferior() -> None:
    generator = np.random.default_rng(2)
    rule = risk_difference_rule(0.1, alpha=0.05, beta=0.05, episodes_max=300)
    assert advance(rule, start(), np.zeros(300)).decision is Decision.PROMOTED
    assert advance(rule, start(), np.zeros(300)).episodes < 50
    worse = np.where(generator.random(300) < 0.3, 1.0, 0.0)
    assert advance(rule, start(), worse).decision in (Decision.REJECTED, Decision.FUTILE)
    returns = capability_loss_rule(
        25.0, capability_low=0.0, capability_high=500.0, alpha=0.05, beta=0.05, episodes_max=400
    )
    assert advance(returns, start(), generator.normal(0.0, 20.0, 400)).decision is Decision.PROMOTED
    assert advance(returns, start(), generator.normal(60.0, 20.0, 400)).decision is not Decision.PROMOTED
    assert (returns.kind, rule.kind) == (Kind.CAPABILITY, Kind.SAFETY)


def test_portions_make_no_difference() -> None:
    losses = np.random.default_rng(3).random(120) ** 8
    at_once = advance(RULE, start(), losses)
    for portion in (1, 7, 64):
        state = start()
        for first in range(0, 120, portion):
            stored = json.loads(canonical_json(state_fields(RULE, state)))
            state = advance(RULE, state_in(RULE, stored), losses[first : first + portion])
        assert state == at_once


def test_a_decision_is_final_and_costs_no_more_episodes() -> None:
    promoted = advance(RULE, start(), [0.0] * 300)
    assert promoted.decision is Decision.PROMOTED
    assert episodes_without_event(0.1, 0.05) <= promoted.episodes < 45
    assert advance(RULE, promoted, [1.0] * 300) is promoted
    rejected = advance(RULE, start(), [1.0] * 300)
    assert (rejected.decision, rejected.episodes < 6) == (Decision.REJECTED, True)
    assert advance(RULE, rejected, [0.0] * 300) is rejected


def test_spent_or_hopeless_is_rejected() -> None:
    tight = rate_rule(0.1, alpha=0.05, beta=0.001, episodes_max=45)
    hopeless = advance(tight, start(), [0.0, 1.0] + [0.0] * 43)
    assert (hopeless.decision, hopeless.episodes) == (Decision.FUTILE, 2)
    every_tenth = [float(index % 11 == 10) for index in range(1000)]
    long = rate_rule(0.1, alpha=0.05, beta=0.001, episodes_max=200)
    for rule in (tight, long):
        state = advance(rule, start(), every_tenth)
        assert state.decision in (Decision.FUTILE, Decision.EXHAUSTED)
        assert judge(rule, state, "s").status is Status.FAILED
        assert state.episodes <= rule.episodes_max


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.001, 1.001])
def test_a_loss_out_of_bounds_rejects(bad: float) -> None:
    state = advance(RULE, start(), [0.0, 0.0, bad] + [0.0] * 200)
    assert (state.decision, state.episodes) == (Decision.INVALID, 2)
    assert advance(RULE, state, [0.0] * 200) is state
    assert not judge(RULE, state, "s").passed
    # What comes after the decision is not looked at.
    assert advance(RULE, start(), [0.0] * 100 + [bad]).decision is Decision.PROMOTED


def test_only_promotion_passes() -> None:
    finding = judge(RULE, start(), "s")
    assert (finding.status, finding.episodes) == (Status.FAILED, 0)
    assert finding.statistic == pytest.approx(1.0, abs=1e-12)
    undecided = judge(RULE, advance(RULE, start(), [0.0] * 10), "s")
    assert not undecided.passed
    assert 0.05 < undecided.statistic < 1.0
    finding = judge(RULE, advance(RULE, start(), [0.0] * 300), "s")
    assert finding.passed
    assert finding.statistic <= finding.limit == 0.05
    assert "to be shown below 0.1 with 95% confidence" in finding.explanation
    assert judge(RULE, advance(RULE, start(), [1.0] * 300), "s").statistic == 1.0


def test_refuses_rules_that_mean_nothing() -> None:
    changes: list[dict[str, Any]] = [{"limit": 0.0}, {"limit": 1.0}, {"limit": math.nan}, {"acceptable": 0.2}]
    changes += [{"acceptable": 0.0}, {"alpha": 0.0}, {"alpha": 1.0}, {"beta": math.nan}, {"low": -math.inf}]
    changes += [{"high": math.nan}, {"episodes_max": 0}]
    for change in changes:
        with pytest.raises(ParameterError):
            dataclasses.replace(RULE, **change)
    with pytest.raises(ParameterError, match="even a candidate with a loss of 0 in every episode"):
        rate_rule(0.1, alpha=0.05, beta=0.05, episodes_max=30)
    with pytest.raises(ParameterError, match="even a candidate with a loss of 0 in every episode"):
        risk_difference_rule(0.01, alpha=0.05, beta=0.05, episodes_max=300)
    with pytest.raises(ParameterError):
        capability_loss_rule(1.0, capability_low=1.0, capability_high=1.0, alpha=0.05, beta=0.05, episodes_max=300)


def test_a_state_of_another_rule_is_refused() -> None:
    fields = state_fields(RULE, advance(RULE, start(), [0.0] * 10))
    laxer = rate_rule(0.2, alpha=0.05, beta=0.05, episodes_max=300)
    with pytest.raises(StateError, match="not one of"):
        state_in(laxer, fields)
    assert isinstance(state_in(RULE, fields), SequentialState)


@pytest.mark.parametrize(
    "change",
    [
        {"episodes": -1},
        {"episodes": 301},
        {"episodes": "1"},
        {"episodes": True},
        {"decision": "approved"},
        {"decision": "promoted"},
        {"loss_sum": None},
        {"loss_sum": math.nan},
        {"log_wealth_for": [0.0]},
        {"log_wealth_for": None},
        {"log_wealth_against": [math.inf] * 6},
        {"log_wealth_against": ["0"] * 6},
        {"kind": "temper.sequential.v0"},
    ],
)
def test_a_malformed_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        state_in(RULE, {**state_fields(RULE, start()), **change})


def test_a_decided_state_survives_storage() -> None:
    for losses in ([0.0] * 300, [1.0] * 300, [math.nan]):
        state = advance(RULE, start(), losses)
        assert state.decision is not Decision.UNDECIDED
        assert state_in(RULE, json.loads(canonical_json(state_fields(RULE, state)))) == state


def test_rules_differ_in_their_digest() -> None:
    rules: list[SequentialRule] = [
        RULE,
        rate_rule(0.1, alpha=0.05, beta=0.05, episodes_max=301),
        rate_rule(0.1, alpha=0.04, beta=0.05, episodes_max=300),
        risk_difference_rule(0.1, alpha=0.05, beta=0.05, episodes_max=300),
        risk_difference_rule(0.1, alpha=0.05, beta=0.05, episodes_max=300, sensitivity=0.9),
    ]
    assert len({rule.digest for rule in rules}) == len(rules)
    assert rate_rule(0.1, alpha=0.05, beta=0.05, episodes_max=300).digest == RULE.digest


def test_an_incumbents_flag_counts_a_margin_less() -> None:
    ours, theirs = slice_of([0, 3, 0, 3, 2]), slice_of([0, 0, 3, 3, 2])
    losses = risk_losses(PairedOutcomes(ours, theirs), Severity.SEVERE, 0.25)
    assert losses.tolist() == [0.0, 1.0, -0.75, 0.25, 0.0]
    rule = risk_difference_rule(0.25, alpha=0.05, beta=0.05, episodes_max=300, sensitivity=0.8)
    assert (rule.low, rule.high, rule.limit, rule.acceptable) == (-0.75, 1.0, 0.2, 0.1)
    for margin in (0.0, 1.0):
        with pytest.raises(ParameterError, match="margin"):
            risk_difference_rule(margin, alpha=0.05, beta=0.05, episodes_max=300)
