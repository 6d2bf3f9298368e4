"""From findings to the results that a verdict carries, and back to what a person reads. Judges nothing.

What is judged, and how, is in `safety.trials.slice_trial` and `safety.statistics`.
"""

from __future__ import annotations

from collections.abc import Iterable

from protos.safety.v1 import safety_pb2
from safety.statistics.combination import Outcome
from safety.statistics.findings import Finding, Kind, Status

KINDS = {
    Kind.SAFETY: safety_pb2.CriterionResult.KIND_SAFETY,
    Kind.CAPABILITY: safety_pb2.CriterionResult.KIND_CAPABILITY,
}

OUTCOMES = {
    Outcome.APPROVED: safety_pb2.OUTCOME_APPROVED,
    Outcome.DEFERRED: safety_pb2.OUTCOME_DEFERRED,
    Outcome.REJECTED: safety_pb2.OUTCOME_REJECTED,
    Outcome.VOID: safety_pb2.OUTCOME_VOID,
}


def criterion_result(finding: Finding) -> safety_pb2.CriterionResult:
    """The finding as a verdict carries it."""
    return safety_pb2.CriterionResult(
        name=finding.name,
        passed=finding.passed,
        statistic=finding.statistic,
        limit=finding.limit,
        estimate=finding.estimate,
        episodes=finding.episodes,
        explanation=finding.explanation,
        slice=finding.slice_name,
        kind=KINDS[finding.kind],
        void=finding.status is Status.VOID,
        figures={name: float(value) for name, value in finding.figures.items()},
    )


def rate_upper_bound(results: Iterable[safety_pb2.CriterionResult]) -> float:
    """The upper confidence bound of the rate of severe violations, of the slice where it is highest; NaN: none."""
    return max((result.figures["rate_high"] for result in results if "rate_high" in result.figures), default=_NONE)


_NONE = float("nan")
