"""Findings as a verdict carries them."""

from __future__ import annotations

import math

import pytest

from protos.safety.v1 import safety_pb2
from safety.criteria import criterion_result, rate_upper_bound
from safety.statistics.findings import Finding, Kind, Status

FINDING = Finding("detector", "calm", Kind.SAFETY, Status.VOID, 0.5, 0.4, 0.8, 60, "one was missed", {"alpha": 0.05})


def test_a_finding_is_carried_whole() -> None:
    result = criterion_result(FINDING)
    assert (result.name, result.slice, result.kind) == ("detector", "calm", safety_pb2.CriterionResult.KIND_SAFETY)
    assert (result.passed, result.void) == (False, True)
    assert (result.estimate, result.statistic, result.limit, result.episodes) == (0.5, 0.4, 0.8, 60)
    assert (result.explanation, dict(result.figures)) == ("one was missed", {"alpha": 0.05})


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("kind", Kind)
def test_only_what_passed_has_passed(kind: Kind, status: Status) -> None:
    result = criterion_result(Finding("a", "b", kind, status, 0.0, 0.0, 0.0, 1, ""))
    assert result.passed == (status is Status.PASSED)
    assert result.kind != safety_pb2.CriterionResult.KIND_UNSPECIFIED


def test_the_bound_is_that_of_the_worst_slice() -> None:
    results = [safety_pb2.CriterionResult(figures={"rate_high": bound}) for bound in (0.01, 0.2, 0.1)]
    assert rate_upper_bound([*results, safety_pb2.CriterionResult()]) == 0.2
    assert math.isnan(rate_upper_bound([safety_pb2.CriterionResult()]))
