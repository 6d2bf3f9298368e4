"""Verdicts as in-toto statements: opened and verified from scratch, by the specifications alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from policies.signing import VERDICT_TYPE, SignatureError, SigningKey, sign, verify
from protos.safety.v1 import safety_pb2
from safety.in_toto import (
    PAYLOAD_TYPE,
    EnvelopeError,
    check_in_toto,
    dsse_envelope,
    dsse_pae,
    in_toto_statement,
    sign_in_toto,
)

KEY = SigningKey.generate()


def make_verdict(**changes: Any) -> safety_pb2.VerdictStatement:
    criterion = safety_pb2.CriterionResult(
        name="detector",
        passed=True,
        statistic=0.25,
        limit=math.inf,
        estimate=math.nan,
        episodes=80,
        explanation='says "möglich"',
        slice="held-out",
        kind=safety_pb2.CriterionResult.KIND_SAFETY,
        figures={"b": -math.inf, "a": 1.5},
    )
    fields: dict[str, Any] = {
        "verdict_id": "ab" * 16,
        "run_id": "run-1",
        "version": 2**53 + 1,
        "artifact_digest": bytes(range(32)),
        "approved": True,
        "release_number": 3,
        "criteria": [criterion],
        "issue_time_ns": 1_800_000_000_123_456_789,
        "return_mean": 0.1,
        "outcome": safety_pb2.OUTCOME_APPROVED,
        "detector": safety_pb2.DetectorCalibration(violating=60, found=60),
        "slices": [safety_pb2.SliceCounts(name="held-out", episodes=100)],
        "alarms": ["look"],
    }
    return safety_pb2.VerdictStatement(**(fields | changes))


def opened(envelope: dict[str, Any], raw_public_key: bytes) -> dict[str, Any]:
    """What DSSE's protocol says that a verifier does, and nothing of ours: every step as in protocol.md."""
    received = json.loads(json.dumps(envelope))
    body = base64.standard_b64decode(received["payload"])
    kind = received["payloadType"].encode("utf-8")
    pae = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(body)).encode() + b" " + body
    key = Ed25519PublicKey.from_public_bytes(raw_public_key)
    accepted = 0
    for signature in received["signatures"]:
        assert set(signature) == {"keyid", "sig"}
        key.verify(base64.standard_b64decode(signature["sig"]), pae)
        accepted += 1
    assert accepted >= 1
    assert received["payloadType"] == "application/vnd.in-toto+json"
    found: dict[str, Any] = json.loads(body)
    return found


def envelope_of(verdict: safety_pb2.VerdictStatement) -> dict[str, Any]:
    signature = check_in_toto(KEY.verify_key, verdict, sign_in_toto(KEY, verdict))
    return dsse_envelope(in_toto_statement(verdict), [(KEY.verify_key.key_id, signature)])


def test_the_pre_authentication_encoding_is_that_of_the_specification() -> None:
    # The example in protocol.md.
    assert dsse_pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert dsse_pae("", b"") == b"DSSEv1 0  0 "


def test_an_envelope_verifies_by_the_specification_alone() -> None:
    verdict = make_verdict()
    envelope = envelope_of(verdict)
    statement = opened(envelope, KEY.verify_key.raw)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:temper:verdict:v1"
    assert statement["subject"] == [{"name": f"temper:run-1:{2**53 + 1}", "digest": {"sha256": bytes(range(32)).hex()}}]
    assert envelope["signatures"][0]["keyid"] == KEY.verify_key.key_id


@pytest.mark.parametrize("part", ["payload", "sig"])
def test_one_altered_byte_and_it_does_not(part: str) -> None:
    envelope = envelope_of(make_verdict())
    holder = envelope if part == "payload" else envelope["signatures"][0]
    data = bytearray(base64.b64decode(holder[part]))
    data[len(data) // 2] ^= 1
    holder[part] = base64.b64encode(data).decode()
    with pytest.raises(InvalidSignature):
        opened(envelope, KEY.verify_key.raw)


def test_the_predicate_is_the_whole_verdict() -> None:
    predicate = json.loads(in_toto_statement(make_verdict()))["predicate"]
    assert set(predicate) == {field.name for field in safety_pb2.VerdictStatement.DESCRIPTOR.fields}
    assert (predicate["approved"], predicate["outcome"], predicate["alarms"]) == (True, "approved", ["look"])
    # A reader of JSON whose numbers are doubles must not get another update count or time.
    assert (predicate["version"], predicate["issue_time_ns"]) == (str(2**53 + 1), "1800000000123456789")
    assert predicate["artifact_digest"] == bytes(range(32)).hex()
    assert predicate["reason"] == "" and predicate["evidence_digest"] == ""
    (criterion,) = predicate["criteria"]
    assert (criterion["limit"], criterion["estimate"], criterion["kind"]) == ("Infinity", "NaN", "safety")
    assert criterion["figures"] == {"a": 1.5, "b": "-Infinity"}
    assert (criterion["explanation"], criterion["void"]) == ('says "möglich"', False)
    assert predicate["detector"]["found"] == 60
    assert predicate["slices"][0]["incumbent_return_mean"] == 0.0


def test_what_is_not_there_is_said_to_be_not_there() -> None:
    verdict = make_verdict()
    verdict.ClearField("detector")
    assert json.loads(in_toto_statement(verdict))["predicate"]["detector"] is None


def test_the_text_of_a_verdict_never_changes() -> None:
    """Signatures are made with the verdict, the text later anew: another text for an old verdict breaks them all."""
    again = safety_pb2.VerdictStatement.FromString(make_verdict().SerializeToString())
    assert in_toto_statement(again) == in_toto_statement(make_verdict())
    digest = hashlib.sha256(in_toto_statement(make_verdict())).hexdigest()
    assert digest == "04507026501ed6dfeb4d6675d83c1c42d8059a4a00713fb49a119fb2acb54cae"


def test_a_signature_of_another_verdict_or_key_is_refused() -> None:
    verdict = make_verdict()
    encoded = sign_in_toto(KEY, verdict)
    for key, about, what in (
        (SigningKey.generate().verify_key, verdict, encoded),
        (KEY.verify_key, make_verdict(version=8), encoded),
        (KEY.verify_key, verdict, encoded[:-8]),
        (KEY.verify_key, verdict, "é"),
        (KEY.verify_key, verdict, None),
    ):
        with pytest.raises(EnvelopeError, match="in-toto signature beside verdict"):
            check_in_toto(key, about, what)


def test_neither_signature_can_be_shown_for_the_other() -> None:
    verdict = make_verdict()
    signed = sign(KEY, VERDICT_TYPE, verdict.SerializeToString(deterministic=True))
    with pytest.raises(EnvelopeError):
        check_in_toto(KEY.verify_key, verdict, base64.b64encode(signed.signature).decode())
    for kind in (VERDICT_TYPE, PAYLOAD_TYPE):
        signed.payload_type, signed.payload = kind, in_toto_statement(verdict)
        signed.signature = base64.b64decode(sign_in_toto(KEY, verdict))
        with pytest.raises(SignatureError):
            verify(KEY.verify_key, signed, kind)
