"""The sequential test that the mean of a bounded loss lies below a limit: looked at after every episode, ended early.

Two e-processes (`safety.statistics.betting`) run over the same losses:

  * for the candidate, against "the mean is at least `limit`": E >= 1 / alpha promotes;
  * against it, against "the mean is at most `acceptable`": E >= 1 / beta rejects.

It also rejects when not even a remainder without any loss could promote, when the episodes are spent, and at a loss
that is not a number within the bounds. Guarantee: with a mean of at least `limit`, given whatever came before, it
promotes with probability at most alpha, however often it is looked at; no way of rejecting can raise that. With a mean
of at most `acceptable`, the second process rejects with probability at most beta.

Losses must be fed in the order of the seeds, not in the order in which episodes end: what ends first is not typical.

Exceptions: ParameterError (safety.statistics.parameters); StateError (a ValueError) for a stored state that is not one
of this rule.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from safety.canonical_json import canonical_digest
from safety.statistics.betting import LOG_WEIGHTS_AGAINST, LOG_WEIGHTS_FOR, SHARES, log_evidence, log_factors
from safety.statistics.findings import Finding, Kind, confidence_text, status_of
from safety.statistics.parameters import ParameterError, check_between, check_count, check_finite, check_share

STATE_KIND = "temper.sequential.v1"

_ROUNDING = 1e-9
"""More than the rounding of any sum of logarithms here."""

Losses = Sequence[float] | NDArray[np.float64] | NDArray[np.bool_]
"""One loss per episode [N], in the order of the seeds."""


class StateError(ValueError):
    """A stored state that cannot be gone on from: malformed, impossible, or of another rule."""


class Decision(enum.Enum):
    """Where a sequential test stands; all but UNDECIDED are final."""

    UNDECIDED = "undecided"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    FUTILE = "futile"
    EXHAUSTED = "exhausted"
    INVALID = "invalid"


_MEANINGS = {
    Decision.UNDECIDED: "undecided, which is not enough",
    Decision.PROMOTED: "enough evidence that it is below",
    Decision.REJECTED: "enough evidence that it is not acceptable",
    Decision.FUTILE: "the episodes left could not show it any more",
    Decision.EXHAUSTED: "all episodes are used without enough evidence",
    Decision.INVALID: "a loss was not a number within its bounds",
}


@dataclasses.dataclass(frozen=True)
class SequentialRule:
    """What is tested.

    Attributes:
      name: of the criterion.
      kind: what it protects.
      low, high: bounds of a loss.
      limit: promotion shows that the mean loss is below it; in (low, high).
      acceptable: early rejection shows that the mean loss is above it; in (low, limit].
      alpha: greatest probability to promote at or above the limit.
      beta: greatest probability of an early rejection by evidence at or below `acceptable`.
      episodes_max: the budget.

    Raises:
      ParameterError: out of those bounds, or a budget with which even a candidate without loss would be rejected.
    """

    name: str
    kind: Kind
    low: float
    high: float
    limit: float
    acceptable: float
    alpha: float
    beta: float
    episodes_max: int

    def __post_init__(self) -> None:
        check_finite("low", self.low)
        check_finite("high", self.high)
        check_between("limit", self.limit, self.low, self.high)
        check_between("acceptable", self.acceptable, self.low, math.nextafter(self.limit, math.inf))
        check_share("alpha", self.alpha)
        check_share("beta", self.beta)
        check_count("episodes_max", self.episodes_max, 1)
        self.check_attainable(self.low)

    def check_attainable(self, loss: float) -> None:
        """Raises ParameterError if a candidate with that loss in every episode would be rejected."""
        best = log_factors(np.array([self.scaled(loss)]), self.scaled(self.limit)) * self.episodes_max
        if float(log_evidence(best, LOG_WEIGHTS_FOR)[0]) < -math.log(self.alpha):
            raise ParameterError(
                f"episodes_max = {self.episodes_max} is too few for limit = {self.limit:g} at alpha = {self.alpha:g}: "
                f"even a candidate with a loss of {loss:g} in every episode would be rejected"
            )

    def scaled(self, value: float) -> float:
        """A loss, or a mean of losses, on the scale from 0 for `low` to 1 for `high`."""
        return (value - self.low) / (self.high - self.low)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it and of the bets, hexadecimal: a state can be gone on with only under its own rule."""
        bets = [each.tolist() for each in (SHARES, LOG_WEIGHTS_FOR, LOG_WEIGHTS_AGAINST)]
        fields = {**dataclasses.asdict(self), "kind": self.kind.value, "bets": bets}
        return canonical_digest({"kind": "temper.sequential-rule.v1", "rule": fields}).hex()


@dataclasses.dataclass(frozen=True)
class SequentialState:
    """Where the test of one candidate stands.

    Attributes:
      episodes: losses taken in.
      loss_sum: their sum.
      log_wealth_for: per bet, log of what it has made of 1 for the candidate [J].
      log_wealth_against: the same against it [J].
      decision: how it stands.
    """

    episodes: int
    loss_sum: float
    log_wealth_for: tuple[float, ...]
    log_wealth_against: tuple[float, ...]
    decision: Decision


def start() -> SequentialState:
    """The state before the first episode."""
    nothing = (0.0,) * len(SHARES)
    return SequentialState(0, 0.0, nothing, nothing, Decision.UNDECIDED)


def advance(rule: SequentialRule, state: SequentialState, losses: Losses) -> SequentialState:
    """Takes in losses one after the other, up to the first decision; a state that is decided stays as it is.

    In which portions they come makes no difference.
    """
    if state.decision is not Decision.UNDECIDED:
        return state
    values = np.asarray(losses, np.float64)[: rule.episodes_max - state.episodes]
    bad = np.flatnonzero(~((values >= rule.low) & (values <= rule.high)))
    valid = values[: bad[0]] if len(bad) else values
    scaled = (valid - rule.low) / (rule.high - rule.low)
    wealth_for = _path(state.log_wealth_for, log_factors(scaled, rule.scaled(rule.limit)))
    # Against the candidate: bets on gains 1 - x, whose mean is at least 1 - acceptable if it is acceptable.
    wealth_against = _path(state.log_wealth_against, log_factors(1.0 - scaled, 1.0 - rule.scaled(rule.acceptable)))
    decisions = _decisions(rule, state.episodes, wealth_for, wealth_against)
    used = next((index for index, decision in enumerate(decisions) if decision is not None), None)
    if used is None:
        used, decision = len(valid), Decision.INVALID if len(bad) else Decision.UNDECIDED
    else:
        decision = decisions[used] or Decision.UNDECIDED
    return SequentialState(
        state.episodes + used,
        float(np.cumsum(np.append(state.loss_sum, valid[:used]))[-1]),
        tuple(wealth_for[used].tolist()),
        tuple(wealth_against[used].tolist()),
        decision,
    )


def _path(before: Sequence[float], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithms of the wealth after 0, 1, ... losses [N + 1, J], added up one by one."""
    path: NDArray[np.float64] = np.cumsum(np.vstack([np.array(before), factors]), axis=0)
    return path


def _decisions(
    rule: SequentialRule, earlier: int, wealth_for: NDArray[np.float64], wealth_against: NDArray[np.float64]
) -> list[Decision | None]:
    """What is decided after 0, 1, ... of the new losses; None where nothing is."""
    promotes = log_evidence(wealth_for, LOG_WEIGHTS_FOR) >= -math.log(rule.alpha)
    rejects = log_evidence(wealth_against, LOG_WEIGHTS_AGAINST) >= -math.log(rule.beta)
    left = rule.episodes_max - earlier - np.arange(len(wealth_for))
    best = wealth_for + left[:, np.newaxis] * log_factors(np.zeros(1), rule.scaled(rule.limit))
    # What could still promote exactly at the end is not given up.
    futile = log_evidence(best, LOG_WEIGHTS_FOR) < -math.log(rule.alpha) - _ROUNDING
    found: list[Decision | None] = []
    for index in range(len(wealth_for)):
        if rejects[index]:
            found.append(Decision.REJECTED)
        elif promotes[index]:
            found.append(Decision.PROMOTED)
        elif left[index] == 0:
            found.append(Decision.EXHAUSTED)
        else:
            found.append(Decision.FUTILE if futile[index] else None)
    return found


def judge(rule: SequentialRule, state: SequentialState, slice_name: str) -> Finding:
    """How the test stands, as a finding: passed only where it promotes.

    The statistic is the p-value min(1, 1 / E), valid at whatever episode one stops; the limit is alpha.
    """
    evidence = float(log_evidence(np.array(state.log_wealth_for), LOG_WEIGHTS_FOR))
    against = float(log_evidence(np.array(state.log_wealth_against), LOG_WEIGHTS_AGAINST))
    passed = state.decision is Decision.PROMOTED
    estimate = state.loss_sum / state.episodes if state.episodes else math.nan
    return Finding(
        rule.name,
        slice_name,
        rule.kind,
        status_of(passed),
        estimate=estimate,
        statistic=math.exp(min(0.0, -evidence)),
        limit=rule.alpha,
        episodes=state.episodes,
        explanation=(
            f"mean loss {estimate:.4g} over {state.episodes} of at most {rule.episodes_max} episodes, to be shown "
            f"below {rule.limit:g} with {confidence_text(rule.alpha)} confidence: {_MEANINGS[state.decision]}"
        ),
        figures={"log_evidence_for": evidence, "log_evidence_against": against, "limit_of_mean": rule.limit},
    )


def state_fields(rule: SequentialRule, state: SequentialState) -> dict[str, object]:
    """The state as a JSON object; `safety.canonical_json` gives its one text, and floats survive it unchanged."""
    return {
        "kind": STATE_KIND,
        "rule": rule.digest,
        "episodes": state.episodes,
        "loss_sum": state.loss_sum,
        "log_wealth_for": list(state.log_wealth_for),
        "log_wealth_against": list(state.log_wealth_against),
        "decision": state.decision.value,
    }


def state_in(rule: SequentialRule, fields: Mapping[str, object]) -> SequentialState:
    """The state in what `state_fields` gave.

    Raises:
      StateError: of another rule, or not a state.
    """
    if fields.get("kind") != STATE_KIND or fields.get("rule") != rule.digest:
        raise StateError(
            f"a state of kind {fields.get('kind')} and rule {fields.get('rule')} is not one of {rule.name}"
        )
    episodes, decision = fields.get("episodes"), fields.get("decision")
    if type(episodes) is not int or not 0 <= episodes <= rule.episodes_max:
        raise StateError(f"episodes = {episodes} in a state of {rule.name}, which has at most {rule.episodes_max}")
    if decision not in {known.value for known in Decision}:
        raise StateError(f"decision {decision} in a state of {rule.name} is none of {[d.value for d in Decision]}")
    (loss_sum,) = _numbers("loss_sum", [fields.get("loss_sum")], 1)
    log_wealth_for = _numbers("log_wealth_for", fields.get("log_wealth_for"), len(SHARES))
    log_wealth_against = _numbers("log_wealth_against", fields.get("log_wealth_against"), len(SHARES))
    short = float(log_evidence(np.array(log_wealth_for), LOG_WEIGHTS_FOR)) < -math.log(rule.alpha) - _ROUNDING
    if decision == Decision.PROMOTED.value and short:
        raise StateError(f"a state of {rule.name} says promoted, but its evidence does not suffice for that")
    return SequentialState(episodes, loss_sum, log_wealth_for, log_wealth_against, Decision(decision))


def _numbers(name: str, values: object, count: int) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != count:
        raise StateError(f"{name} in a stored state is not a list of {count} numbers")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise StateError(f"{name} in a stored state has an entry that is not a finite number")
    return tuple(float(value) for value in values)
