"""How criteria are read, over findings that the tests themselves gave."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from launch.verdict_criteria import status_of
from safety.criteria import criterion_result
from safety.statistics.findings import Status
from safety.statistics.sequential import Decision, advance, judge, start
from safety.statistics.sequential_rules import rate_rule

RULE = rate_rule(0.2, alpha=0.05, beta=0.05, episodes_max=60)


@pytest.mark.parametrize(
    ("losses", "decision", "status"),
    [
        ([0.0] * 5, Decision.UNDECIDED, "UNDECIDED"),
        ([0.0] * 60, Decision.PROMOTED, "passed"),
        ([1.0] * 60, Decision.REJECTED, "FAILED"),
        ([0.0, 0.0, 0.0, 0.0, 1.0] * 12, Decision.FUTILE, "FAILED"),
        ([float("nan")], Decision.INVALID, "FAILED"),
    ],
)
def test_the_status_of_a_sequential_test(losses: list[float], decision: Decision, status: str) -> None:
    state = advance(RULE, start(), np.array(losses))
    assert state.decision is decision
    assert status_of(criterion_result(judge(RULE, state, "held-out"))) == status


def test_one_that_has_used_up_its_episodes_has_failed() -> None:
    state = dataclasses.replace(advance(RULE, start(), np.zeros(5)), decision=Decision.EXHAUSTED)
    assert status_of(criterion_result(judge(RULE, state, "held-out"))) == "FAILED"


def test_what_is_void_is_said_before_all_else() -> None:
    finding = judge(RULE, advance(RULE, start(), np.zeros(5)), "held-out")
    assert status_of(criterion_result(dataclasses.replace(finding, status=Status.VOID))) == "VOID"


def test_only_a_sequential_test_can_be_undecided() -> None:
    finding = judge(RULE, advance(RULE, start(), np.zeros(5)), "held-out")
    assert status_of(criterion_result(dataclasses.replace(finding, name="capability_non_inferiority"))) == "FAILED"
