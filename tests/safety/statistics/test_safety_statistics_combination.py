"""One decision from all findings: what approves, what defers, what voids."""

from __future__ import annotations

import itertools
import math

import pytest

from safety.statistics.combination import Outcome, combine
from safety.statistics.findings import Finding, Kind, Status
from safety.statistics.parameters import ParameterError

RISK, RETURN = ("risk", "plain"), ("return", "plain")


def finding(key: tuple[str, str], status: Status = Status.PASSED, kind: Kind | None = None) -> Finding:
    kind = kind or (Kind.SAFETY if key[0] == "risk" else Kind.CAPABILITY)
    return Finding(*key, kind, status, 0.0, 0.0, 0.0, 1, f"{key[0]} {status.value}")


def test_all_that_is_required_must_pass() -> None:
    combined = combine([finding(RISK), finding(RETURN)], {RISK, RETURN})
    assert combined.approved
    assert (combined.reasons, combined.deferred_in_a_row) == ((), 0)


def test_only_passing_everything_approves() -> None:
    for risk, capability in itertools.product(Status, repeat=2):
        combined = combine([finding(RISK, risk), finding(RETURN, capability)], {RISK, RETURN}, patience=9)
        assert combined.approved == (risk is Status.PASSED and capability is Status.PASSED)


def test_what_is_missing_or_doubled_rejects() -> None:
    for findings in ([], [finding(RETURN)], [finding(RISK)], [finding(RISK)] * 2 + [finding(RETURN)]):
        combined = combine(findings, {RISK, RETURN}, patience=9)
        assert combined.outcome is Outcome.REJECTED
        assert combined.reasons
    missing = combine([], [RISK, RETURN])
    assert missing.reasons == ("return on plain: it was not found out", "risk on plain: it was not found out")
    assert missing.reasons == combine([], [RETURN, RISK]).reasons


def test_another_slice_does_not_stand_in() -> None:
    assert not combine([finding(("risk", "windy"))], {RISK}).approved


def test_what_fails_counts_also_where_nobody_required_it() -> None:
    assert not combine([finding(RISK), finding(("risk", "windy"), Status.FAILED)], {RISK}).approved


def test_capability_is_deferred_until_patience_ends() -> None:
    findings, deferred, outcomes = [finding(RISK), finding(RETURN, Status.FAILED)], 0, []
    for _ in range(4):
        combined = combine(findings, {RISK, RETURN}, deferred_in_a_row=deferred, patience=2)
        outcomes.append(combined.outcome)
        deferred = combined.deferred_in_a_row
        assert not combined.approved
    assert outcomes == [Outcome.DEFERRED, Outcome.DEFERRED, Outcome.REJECTED, Outcome.DEFERRED]
    assert combine(findings, {RISK, RETURN}).outcome is Outcome.REJECTED
    assert combine([finding(RISK), finding(RETURN)], {RISK}, deferred_in_a_row=2, patience=2).deferred_in_a_row == 0


def test_safety_is_never_deferred() -> None:
    for capability in (Status.PASSED, Status.FAILED):
        combined = combine([finding(RISK, Status.FAILED), finding(RETURN, capability)], {RISK, RETURN}, patience=9)
        assert combined.outcome is Outcome.REJECTED
        assert combined.reasons[0] == "risk on plain: risk failed"


def test_a_void_finding_voids_all() -> None:
    for other in Status:
        combined = combine([finding(RISK, Status.VOID), finding(RETURN, other)], {RISK, RETURN}, patience=9)
        assert combined.outcome is Outcome.VOID
    assert combine([finding(RETURN, Status.VOID)], {RISK, RETURN}, patience=9).outcome is Outcome.VOID


def test_a_gate_without_criteria_is_refused() -> None:
    with pytest.raises(ParameterError, match="would approve every candidate"):
        combine([finding(RISK)], [])
    with pytest.raises(ParameterError):
        combine([finding(RISK)], {RISK}, deferred_in_a_row=-1)
    with pytest.raises(ParameterError):
        combine([finding(RISK)], {RISK}, patience=-1)


def test_a_finding_that_fails_can_have_no_estimate() -> None:
    empty = Finding(*RISK, Kind.SAFETY, Status.FAILED, math.nan, 1.0, 0.1, 0, "0 episodes")
    assert combine([empty], {RISK}).reasons == ("risk on plain: 0 episodes",)
