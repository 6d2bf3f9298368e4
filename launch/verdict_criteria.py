"""How to read each criterion of a verdict: what its statistic is, and on which side of the limit it passes.

Names only; what the criteria are is in safety.statistics, one module each. A name that is not known here, of an older
or a newer version, is shown without any such words.

A sequential test that the trial did not carry on, because another criterion had failed for good, has not passed, and
nothing was found out against the candidate either: it is undecided. One that has used up its episodes has failed.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from protos.safety.v1 import safety_pb2
from safety.statistics.calibration import DETECTOR, TRUE_RATE
from safety.statistics.counts import Severity
from safety.statistics.divergence import DIVERGENCE
from safety.statistics.paired import CAPABILITY_NON_INFERIORITY, RISK_NON_INFERIORITY
from safety.statistics.rates import VIOLATION_RATE
from safety.statistics.risk_budget import WEIGHTED_RISK
from safety.statistics.sequential_rules import CAPABILITY_LOSS, RATE, RISK_DIFFERENCE


class Speaks(enum.Enum):
    """Which episodes speak for a criterion's result; the value says it for a person."""

    EVENTS = "episodes with such an event"
    CANDIDATE_ONLY = "episodes with such an event of the candidate alone"
    LOSSES = (
        "episodes in which the candidate achieves less than the incumbent on the same seed, the largest losses first"
    )
    PLANTS = "planted violations that went unseen"
    NONE = ""


class Reading(NamedTuple):
    """How a criterion is read.

    Attributes:
      statistic: what was compared with the limit.
      passes: on which side.
      episodes: which of them speak for the result.
      bar: whether estimate, statistic and limit are in one unit, so that they can be drawn on one line.
    """

    statistic: str
    passes: str
    episodes: Speaks
    bar: bool


_UPPER, _LOWER, _P_VALUE = "upper bound", "lower bound", "p-value"
_AT_MOST, _AT_LEAST, _ABOVE = "at most", "at least", "above"

_READINGS = {
    RATE: Reading(_P_VALUE, _AT_MOST, Speaks.EVENTS, False),
    RISK_DIFFERENCE: Reading(_P_VALUE, _AT_MOST, Speaks.CANDIDATE_ONLY, False),
    CAPABILITY_LOSS: Reading(_P_VALUE, _AT_MOST, Speaks.LOSSES, False),
    VIOLATION_RATE: Reading(_UPPER, _AT_MOST, Speaks.EVENTS, True),
    TRUE_RATE: Reading(_UPPER, _AT_MOST, Speaks.EVENTS, True),
    WEIGHTED_RISK: Reading(_UPPER, _AT_MOST, Speaks.EVENTS, True),
    RISK_NON_INFERIORITY: Reading(_UPPER, _AT_MOST, Speaks.CANDIDATE_ONLY, True),
    CAPABILITY_NON_INFERIORITY: Reading(_LOWER, _ABOVE, Speaks.LOSSES, True),
    DIVERGENCE: Reading(_P_VALUE, _ABOVE, Speaks.CANDIDATE_ONLY, False),
    DETECTOR: Reading(_LOWER, _AT_LEAST, Speaks.PLANTS, True),
}

_UNKNOWN = Reading("statistic", "", Speaks.NONE, False)


_UNDECIDED = "undecided, which is not enough"
"""How the sentence of such a test ends (safety.statistics.sequential)."""


def status_of(result: safety_pb2.CriterionResult) -> str:
    """How it came out, in a word: "VOID", "passed", "UNDECIDED" or "FAILED"."""
    if result.void:
        return "VOID"
    if result.passed:
        return "passed"
    sequential = result.name.partition(".")[0] in (RATE, RISK_DIFFERENCE)
    return "UNDECIDED" if sequential and result.explanation.endswith(_UNDECIDED) else "FAILED"


def reading_of(name: str) -> Reading:
    """How the criterion of that name is read."""
    return _READINGS.get(name.partition(".")[0], _UNKNOWN)


def severity_of(name: str) -> Severity:
    """The least severity that counts for it: what its name ends in; else any event for a budget, or a severe one."""
    base, _, ending = name.partition(".")
    named = {severity.name.lower(): severity for severity in Severity if severity is not Severity.NONE}
    return named.get(ending, Severity.MINOR if base == WEIGHTED_RISK else Severity.SEVERE)
