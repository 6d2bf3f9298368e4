"""What a signed statement allows, and each way in which it does not."""

import pytest

from policies.signing import VERDICT_TYPE, SigningKey, sign
from policies.testing import RUN_ID, SECOND_NS, signed_lease, signed_verdict
from policies.trust import (
    CLOCK_SKEW_NS_MAX,
    ExpiredStatement,
    ForgedStatement,
    NotApproved,
    ReplayedStatement,
    TrustPolicy,
    UntrustedError,
    WrongArtifact,
    WrongRun,
)

KEY = SigningKey.generate()
DIGEST, OTHER = b"\x01" * 32, b"\x02" * 32
NOW = 1_700_000_000 * SECOND_NS
TRUST = TrustPolicy(KEY.verify_key, RUN_ID, clock=lambda: NOW)
TIMES = {"issue_time_ns": NOW - SECOND_NS, "expiry_time_ns": NOW + SECOND_NS}


def test_an_approving_verdict_is_believed() -> None:
    verdict = TRUST.check_release(signed_verdict(KEY, DIGEST, **TIMES, release_number=4), DIGEST, 3, OTHER)
    assert verdict.release_number == 4
    assert verdict.artifact_digest == DIGEST


def test_the_same_release_again_is_no_replay() -> None:
    assert TRUST.check_release(signed_verdict(KEY, DIGEST, **TIMES, release_number=4), DIGEST, 4, DIGEST)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"run_id": "other-run"}, WrongRun),
        ({"run_id": ""}, WrongRun),
        ({"approved": False}, NotApproved),
        ({"release_number": 0}, NotApproved),
        ({"artifact_digest": OTHER}, WrongArtifact),
        ({"artifact_digest": b""}, WrongArtifact),
        ({"expiry_time_ns": NOW}, ExpiredStatement),
        ({"expiry_time_ns": 0}, ExpiredStatement),
        ({"issue_time_ns": NOW + CLOCK_SKEW_NS_MAX + 1, "expiry_time_ns": NOW + 99 * SECOND_NS}, ExpiredStatement),
        ({"release_number": 2}, ReplayedStatement),
        ({"release_number": 3}, ReplayedStatement),  # the number in use, of another artifact
    ],
)
def test_a_verdict_that_does_not_allow_it(fields: dict[str, object], error: type[UntrustedError]) -> None:
    signed = signed_verdict(KEY, **({"artifact_digest": DIGEST, "release_number": 4} | TIMES | fields))  # type: ignore[arg-type]
    with pytest.raises(error) as refused:
        TRUST.check_release(signed, DIGEST, 3, OTHER)
    assert type(refused.value) is error


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"run_id": "other-run"}, WrongRun),
        ({"expiry_time_ns": NOW}, ExpiredStatement),
        ({"issue_time_ns": NOW + CLOCK_SKEW_NS_MAX + 1, "expiry_time_ns": NOW + 99 * SECOND_NS}, ExpiredStatement),
        ({"lease_number": 6}, ReplayedStatement),
    ],
)
def test_a_lease_that_does_not_allow_it(fields: dict[str, object], error: type[UntrustedError]) -> None:
    with pytest.raises(error) as refused:
        TRUST.check_lease(signed_lease(KEY, **({"lease_number": 7} | TIMES | fields)), 7)
    assert type(refused.value) is error


def test_a_lease_is_believed_again_and_with_a_little_clock_skew() -> None:
    times = {"issue_time_ns": NOW + CLOCK_SKEW_NS_MAX, "expiry_time_ns": NOW + 9 * SECOND_NS}
    assert TRUST.check_lease(signed_lease(KEY, lease_number=7, **times), 7).lease_number == 7


def test_forgeries() -> None:
    stranger = SigningKey.generate()
    verdict = signed_verdict(KEY, DIGEST, **TIMES)
    altered = signed_verdict(KEY, DIGEST, **TIMES)
    altered.payload = signed_verdict(KEY, DIGEST, **TIMES, release_number=9).payload
    relabelled = signed_lease(KEY, **TIMES)
    relabelled.payload_type = VERDICT_TYPE
    for forged in (signed_verdict(stranger, DIGEST, **TIMES), altered, relabelled, signed_lease(KEY, **TIMES)):
        with pytest.raises(ForgedStatement):
            TRUST.check_release(forged, DIGEST)
    with pytest.raises(ForgedStatement):
        TRUST.check_lease(verdict)


def test_a_statement_of_a_stranger_names_both_keys() -> None:
    stranger = SigningKey.generate()
    with pytest.raises(ForgedStatement) as raised:
        TRUST.check_release(signed_verdict(stranger, DIGEST, **TIMES), DIGEST)
    both = (stranger.verify_key.key_id, KEY.verify_key.key_id)
    assert all(key_id in str(raised.value) for key_id in both)
    assert "another key was put in the place of the trusted one" in str(raised.value)


def test_a_signed_payload_that_does_not_parse_is_refused() -> None:
    with pytest.raises(ForgedStatement, match="no statement of type"):
        TRUST.check_release(sign(KEY, VERDICT_TYPE, b"\xff\xff\xff"), DIGEST)


def test_a_past_release_is_judged_without_the_clock() -> None:
    signed = signed_verdict(KEY, DIGEST, issue_time_ns=1, expiry_time_ns=2)
    assert TRUST.check_past_release(signed, DIGEST).release_number == 1
    with pytest.raises(WrongArtifact):
        TRUST.check_past_release(signed, OTHER)


def test_reasons_are_distinct() -> None:
    kinds = (ForgedStatement, ExpiredStatement, ReplayedStatement, WrongArtifact, WrongRun, NotApproved)
    assert len({kind.reason for kind in kinds}) == len(kinds)
