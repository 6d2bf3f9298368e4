"""A verdict as an in-toto Statement, and the DSSE envelope that carries it: for tools that know attestations, not us.

    https://in-toto.io/Statement/v1, https://github.com/secure-systems-lab/dsse (protocol.md)

The subject is the artifact by its SHA-256, the predicate the whole verdict. Fields are named as in
temper.safety.v1.VerdictStatement and written as protobuf's JSON writes them (64-bit integers as decimal strings, "NaN",
"Infinity"), but for bytes, which are hexadecimal, and enumerations, which are lower case without their prefix. The text
is canonical JSON, and a function of the verdict alone: so a signature that was made with the verdict fits the text that
is made from it later. That is why a field that is added to the messages some day is written only where it is set.

Nothing here decides, signs or keeps. What Temper's own processes believe is the SignedStatement, never an envelope: the
two signatures are over texts that begin differently, so neither can be shown for the other.

Exceptions: EnvelopeError for a signature that is none of this verdict.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from policies.signing import SignatureError, SigningKey, VerifyKey
from protos.safety.v1 import safety_pb2
from safety.canonical_json import canonical_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:temper:verdict:v1"

SIGNATURE_FIELD = "in_toto_signature"
"""Where a verdict's ledger entry keeps the signature of its statement, base64."""

_LAST_FIELD: Mapping[str, int] = {
    "VerdictStatement": 32,
    "CriterionResult": 11,
    "SliceCounts": 11,
    "DetectorCalibration": 6,
}
"""Of predicate v1: fields up to this number are always written, later ones only where they are set."""

_WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


class EnvelopeError(ValueError):
    """A signature is not one of the verdict that it lies beside."""


def in_toto_statement(verdict: safety_pb2.VerdictStatement) -> bytes:
    """The statement about a verdict's artifact, canonical JSON in UTF-8."""
    name = f"temper:{verdict.run_id}:{verdict.version}"
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": verdict.artifact_digest.hex()}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": _fields(verdict),
        }
    )


def dsse_pae(payload_type: str, body: bytes) -> bytes:
    """What a DSSE signature is over: "DSSEv1" SP len(type) SP type SP len(body) SP body, lengths in decimal."""
    kind = payload_type.encode()
    return b" ".join((b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(body), body))


def dsse_envelope(body: bytes, signatures: Sequence[tuple[str, bytes]]) -> dict[str, object]:
    """The envelope as a JSON object.

    Args:
      body: an in-toto statement.
      signatures: id of the key, and its signature over `dsse_pae(PAYLOAD_TYPE, body)`; none is an unsigned envelope.
    """
    return {
        "payload": base64.b64encode(body).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"keyid": key_id, "sig": base64.b64encode(signature).decode()} for key_id, signature in signatures
        ],
    }


def sign_in_toto(key: SigningKey, verdict: safety_pb2.VerdictStatement) -> str:
    """The signature that goes into the ledger as SIGNATURE_FIELD, base64."""
    return base64.b64encode(key.sign_bytes(dsse_pae(PAYLOAD_TYPE, in_toto_statement(verdict)))).decode()


def check_in_toto(key: VerifyKey, verdict: safety_pb2.VerdictStatement, encoded: object) -> bytes:
    """The signature (64 bytes) in what `sign_in_toto` gave; raises EnvelopeError unless `key` made it of `verdict`."""
    try:
        signature = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
        key.check(dsse_pae(PAYLOAD_TYPE, in_toto_statement(verdict)), signature)
    except (ValueError, SignatureError) as error:
        raise EnvelopeError(
            f"the in-toto signature beside verdict {verdict.verdict_id} is not one of key {key.key_id} over it"
        ) from error
    return signature


def _fields(message: Message) -> dict[str, object]:
    last = _LAST_FIELD.get(message.DESCRIPTOR.name, 0)
    present = {field.name for field, _ in message.ListFields()}
    return {
        field.name: _value(field, getattr(message, field.name), field.name in present)
        for field in message.DESCRIPTOR.fields
        if field.number <= last or field.name in present
    }


def _value(field: Any, value: Any, present: bool) -> object:
    if isinstance(value, Message):
        return _fields(value) if present else None
    if isinstance(value, Mapping):
        return {str(name): _scalar(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_fields(each) if isinstance(each, Message) else _element(field, each) for each in value]
    return _element(field, value)


def _element(field: Any, value: Any) -> object:
    """One value of a field that is no message: of the field itself, or an element of it."""
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        return known.name.removeprefix(prefix).lower() if known is not None else str(value)
    if field.cpp_type in _WIDE:
        return str(value)
    return _scalar(value)


def _scalar(value: Any) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
