"""The alarm that a rate of violations has risen above a limit, for a stream that has no end: it never has to be reset.

Episodes come in portions (n_i, k_i): so many ended since the last look, so many of them with a violation. A bet b
compares its own rate q_b > limit with the limit m, which after a portion has gained

    L_i = (q_b / m)^k_i ((1 - q_b) / (1 - m))^(n_i - k_i).

A plain e-process multiplies all L_i, so that a thousand clean episodes bury whatever comes after. Here the same bet is
begun anew before every portion, each time with its share w_j of the capital, and the evidence is the sum:

    T_0 = w_1,   T_i = T_(i-1) L_i + w_(i+1),   E_i = mean over the bets of T_i,   sum of all w_j = 1.

Guarantee: if each episode violates with a probability of at most m given all that arrived before it, then
P(ever E_i >= 1 / level) <= level, over the whole life of the stream. For then each L_i has, given what came before, an
expectation of at most 1 (q_b > m, so a smaller rate only lowers it). All the capital, T_i + w_(i+2) + w_(i+3) + ...,
of which the later shares are not bet yet, so is a supermartingale that begins at 1, and so is its mean over the bets;
Ville 1939 does the rest. A mixture of e-processes that begin at different times is an e-process: Shin, Ramdas and
Rinaldo, "E-detectors", New England Journal of Statistics in Data Science 2023, who weigh all starts alike and bound the
time between false alarms; weights that sum to 1 bound the probability of there ever being one. Betting on a bounded
mean: Waudby-Smith and Ramdas, JRSS B 2024.

The weights w_j = 1 / log2(j + 1) - 1 / log2(j + 2) add up to 1 term by term, and fall almost as slowly as any that do:
a rise after j looks is found later than one at the start by about log(j) + 2 log(log(j)) of evidence. They go by looks
and not by episodes, because a weight must be known before its portion is seen.

What the portions are makes no difference to how their evidence multiplies, only to where a bet can begin: in a finer
division there are more beginnings. What ends at the same look has no order; what arrives first need not have begun
first, and the guarantee is about the order of arrival.

Exceptions: ParameterError (safety.statistics.parameters); StateError (safety.statistics.sequential) for a stored state
that is not one of this rule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from safety.canonical_json import canonical_digest
from safety.statistics.parameters import ParameterError, check_share
from safety.statistics.sequential import StateError

STATE_KIND = "temper.breach.v1"

ODDS_RATIOS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""The odds q / (1 - q) of each bet's rate, as multiples of the limit's. All bets weigh the same."""


@dataclasses.dataclass(frozen=True)
class BreachRule:
    """What is watched for.

    Attributes:
      limit: the rate that must not be exceeded, in (0, 1).
      level: greatest probability of an alarm, ever, at or below the limit, in (0, 1).

    Raises:
      ParameterError: out of those bounds.
    """

    limit: float
    level: float

    def __post_init__(self) -> None:
        check_share("limit", self.limit)
        check_share("level", self.level)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it and of the bets, hexadecimal: a state can be gone on with only under its own rule."""
        fields = {"limit": self.limit, "level": self.level, "odds_ratios": list(ODDS_RATIOS)}
        return canonical_digest({"kind": "temper.breach-rule.v1", "rule": fields}).hex()


@dataclasses.dataclass(frozen=True)
class BreachState:
    """Where the watch stands.

    Attributes:
      looks: portions taken in.
      episodes, violating: their sums.
      log_capital: log T of every bet [J].
    """

    looks: int
    episodes: int
    violating: int
    log_capital: tuple[float, ...]


def weight(number: int) -> float:
    """w_j: the share of the capital that is bet from before portion `number` j on, from 1."""
    # The difference of the reciprocals, without the loss of digits.
    return math.log1p(1.0 / (number + 1)) / math.log(2.0) / (math.log2(number + 1) * math.log2(number + 2))


def start() -> BreachState:
    """The state before the first portion."""
    return BreachState(0, 0, 0, (math.log(weight(1)),) * len(ODDS_RATIOS))


def advance(rule: BreachRule, state: BreachState, episodes: int, violating: int) -> BreachState:
    """Takes in one portion. None of no episodes, and none after the alarm: what raised it stays.

    Raises:
      ParameterError: not 0 <= violating <= episodes.
    """
    if not 0 <= violating <= episodes:
        raise ParameterError(f"a portion of {violating} violating among {episodes} episodes cannot be")
    if not episodes or is_breached(rule, state):
        return state
    gains = _log_gains(rule.limit)
    carried = np.array(state.log_capital) + violating * gains[0] + (episodes - violating) * gains[1]
    looks = state.looks + 1
    capital = np.logaddexp(carried, math.log(weight(looks + 1)))
    return BreachState(looks, state.episodes + episodes, state.violating + violating, tuple(capital.tolist()))


def log_evidence(state: BreachState) -> float:
    """log E: at least log(1 / level) is an alarm."""
    return float(np.logaddexp.reduce(np.array(state.log_capital))) - math.log(len(state.log_capital))


def is_breached(rule: BreachRule, state: BreachState) -> bool:
    """Whether the alarm has been raised, which is for good."""
    return log_evidence(state) >= -math.log(rule.level)


def state_fields(rule: BreachRule, state: BreachState) -> dict[str, object]:
    """The state as a JSON object; `safety.canonical_json` gives its one text, and floats survive it unchanged."""
    return {
        "kind": STATE_KIND,
        "rule": rule.digest,
        "looks": state.looks,
        "episodes": state.episodes,
        "violating": state.violating,
        "log_capital": list(state.log_capital),
    }


def state_in(rule: BreachRule, fields: Mapping[str, object]) -> BreachState:
    """The state in what `state_fields` gave.

    Raises:
      StateError: of another rule, or not a state.
    """
    if fields.get("kind") != STATE_KIND or fields.get("rule") != rule.digest:
        raise StateError(f"a state of kind {fields.get('kind')} and rule {fields.get('rule')} is not one of this watch")
    looks, episodes, violating = (_count(fields, name) for name in ("looks", "episodes", "violating"))
    if not (violating <= episodes and looks <= episodes):
        raise StateError(f"{violating} violating of {episodes} episodes at {looks} looks cannot be")
    capital = fields.get("log_capital")
    if not isinstance(capital, list | tuple) or len(capital) != len(ODDS_RATIOS):
        raise StateError(f"log_capital in a stored state is not a list of {len(ODDS_RATIOS)} numbers")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in capital):
        raise StateError("log_capital in a stored state has an entry that is not a finite number")
    return BreachState(looks, episodes, violating, tuple(float(value) for value in capital))


def _log_gains(limit: float) -> NDArray[np.float64]:
    """What a violating and a clean episode add to the logarithm of every bet's capital [2, J]."""
    rates = np.array(ODDS_RATIOS) * limit / (1.0 - limit + np.array(ODDS_RATIOS) * limit)
    gains: NDArray[np.float64] = np.stack([np.log(rates / limit), np.log((1.0 - rates) / (1.0 - limit))])
    return gains


def _count(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 0:
        raise StateError(f"{name} = {value} in a stored state is not a count")
    return value
