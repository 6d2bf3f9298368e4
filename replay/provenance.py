"""What a record must say about itself before a store takes it: complete validation of Origin and RecordHeader.

Runs once per record on the ingest path, so it reads each field once and never decodes a payload; it does hash it.
Limits are stated here; the meaning of each field is in common.proto.

Exceptions: RecordInvalid (see replay.store), whose message names the value, the bound and the consequence.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from protos.common.v1 import common_pb2
from replay.payload_encoding import RAW
from replay.schema import PAYLOAD_BYTES_MAX, PayloadLayout, SchemaError
from replay.store import PendingRecord, RecordInvalid

DIGEST_BYTES = 32
HEADER_BYTES_MAX = 64 * 1024
ORIGIN_BYTES_MAX = 64 * 1024
TEXT_CHARACTERS_MAX = 256
EPISODE_SEEDS_MAX = 4096
SIGNAL_MAX = 2.0**53
"""Largest magnitude of a signal: up to here every whole number is one, so that the position of a record in any of the
first 32 shards can be a signal. And no sum of signals ever ceases to be finite.
"""

RESERVED_SIGNALS = frozenset({"verified", "mismatch", "verification_error", "reward_verified"})
"""Signals that verification writes: an actor that vouched for itself by them would pass for verified until it is."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CONSEQUENCE = "nothing of the batch was stored"


def check_origin(origin: common_pb2.Origin) -> PayloadLayout:
    """Checks the provenance that all records of a stream share and returns their layout. Raises RecordInvalid."""
    size = origin.ByteSize()
    if size > ORIGIN_BYTES_MAX:
        raise RecordInvalid(f"origin has {size} bytes, at most {ORIGIN_BYTES_MAX} may be: the stream was not opened")
    for name, value in (("actor_id", origin.actor_id), ("run_id", origin.run_id)):
        if not _ID.fullmatch(value):
            raise RecordInvalid(f"origin.{name} = {value!r} must match {_ID.pattern}: the stream was not opened")
    environment = origin.environment
    texts = (
        ("environment.id", environment.id, 1),
        ("environment.version", environment.version, 1),
        ("source_revision", origin.source_revision, 0),
    )
    for name, value, least in texts:
        if not least <= len(value) <= TEXT_CHARACTERS_MAX:
            raise RecordInvalid(
                f"origin.{name} has {len(value)} characters, must have {least} to {TEXT_CHARACTERS_MAX}: "
                "the stream was not opened"
            )
    for name, digest in (("environment.code_digest", environment.code_digest), ("config_digest", origin.config_digest)):
        if len(digest) != DIGEST_BYTES:
            raise RecordInvalid(
                f"origin.{name} has {len(digest)} bytes, must have {DIGEST_BYTES} (SHA-256): the stream was not opened"
            )
    try:
        return PayloadLayout(origin.schema)
    except SchemaError as error:
        raise RecordInvalid(f"origin.schema: {error}: the stream was not opened") from error


def check_batch(records: Sequence[common_pb2.Record], layout: PayloadLayout) -> list[PendingRecord]:
    """Checks the records of one message, all or none, and makes them ready to store.

    Args:
      records: at least one, in strictly ascending sequence.
      layout: of the stream's origin.

    Raises:
      RecordInvalid: one of them is not as common.proto says; none may be stored.
    """
    if not records:
        raise RecordInvalid("a batch holds no record, must hold at least one")
    checked: list[PendingRecord] = []
    previous = -1
    for record in records:
        pending = _check_record(record.header, record.payload, layout)
        if pending.sequence <= previous:
            raise RecordInvalid(f"sequence {pending.sequence} follows {previous}, must be greater: {_CONSEQUENCE}")
        previous = pending.sequence
        checked.append(pending)
    return checked


def _check_record(header: common_pb2.RecordHeader, payload: bytes, layout: PayloadLayout) -> PendingRecord:
    sequence, steps = header.sequence, header.steps
    # First, so that what follows is work on a bounded header. Fields that are unknown here count, for they are stored.
    serialized = header.SerializeToString()
    if len(serialized) > HEADER_BYTES_MAX:
        raise _invalid(sequence, f"header has {len(serialized)} bytes, at most {HEADER_BYTES_MAX} may be")
    if steps < 1:
        raise _invalid(sequence, f"steps = {steps}, must be at least 1")
    digest = _check_payload(header, payload, layout)
    _check_policies(header, sequence, steps)
    if not 0 <= header.start_time_ns <= header.end_time_ns:
        raise _invalid(
            sequence,
            f"start_time_ns = {header.start_time_ns} and end_time_ns = {header.end_time_ns} must ascend from 0",
        )
    signals = dict(header.signals)
    if claimed := RESERVED_SIGNALS.intersection(signals):
        raise _invalid(
            sequence, f"signal {min(claimed)!r} is for verification to write, not for the record's own header"
        )
    for name, value in signals.items():
        if not -SIGNAL_MAX <= value <= SIGNAL_MAX:
            raise _invalid(sequence, f"signal {name!r} = {value}, must be finite and within +-{SIGNAL_MAX:.0e}")
    if len(header.task_id) > TEXT_CHARACTERS_MAX:
        raise _invalid(sequence, f"task_id has {len(header.task_id)} characters, at most {TEXT_CHARACTERS_MAX} may be")
    seeds, seeds_max = len(header.episode_seeds), min(steps - 1, EPISODE_SEEDS_MAX)
    if seeds > seeds_max:
        raise _invalid(sequence, f"{seeds} episodes begin inside {steps} steps, at most {seeds_max} may: one a step")
    if bool(header.parents) != bool(header.transformation):
        raise _invalid(sequence, "parents and transformation go together: a derived record names both, others neither")
    return PendingRecord(sequence, steps, serialized, payload, digest, signals)


def _check_payload(header: common_pb2.RecordHeader, payload: bytes, layout: PayloadLayout) -> bytes:
    """Checks a payload's size and digest, and returns the latter."""
    sequence, steps = header.sequence, header.steps
    expected = layout.payload_bytes(steps)
    if max(expected, len(payload)) > PAYLOAD_BYTES_MAX:
        raise _invalid(
            sequence,
            f"a payload of {steps} steps takes {expected} bytes and has {len(payload)}, at most "
            f"{PAYLOAD_BYTES_MAX} may be",
        )
    if header.encoding != RAW:
        try:
            layout.check_payload(payload, steps, header.encoding)
        except SchemaError as error:
            raise _invalid(sequence, str(error)) from error
    elif len(payload) != expected:
        raise _invalid(sequence, f"payload has {len(payload)} bytes, the schema requires {expected} at T = {steps}")
    digest = hashlib.sha256(payload).digest()
    if digest != header.payload_digest:
        raise _invalid(
            sequence,
            f"payload has digest {digest.hex()[:16]}..., its header says "
            f"{header.payload_digest.hex()[:16] or 'none'}...: it was altered on the way",
        )
    return digest


def _check_policies(header: common_pb2.RecordHeader, sequence: int, steps: int) -> None:
    previous = -1
    for span in header.policies:
        first = span.first_step
        if (previous < 0 and first != 0) or first <= previous or first >= steps:
            raise _invalid(
                sequence,
                f"a policy span starts at step {first} after {previous}: spans must start at 0, ascend, "
                f"and stay below T = {steps}",
            )
        if len(span.digest) != DIGEST_BYTES:
            raise _invalid(sequence, f"a policy digest has {len(span.digest)} bytes, must have {DIGEST_BYTES}")
        previous = first
    if previous < 0:
        raise _invalid(sequence, "it names no behaviour policy, must name at least one")


def _invalid(sequence: int, what: str) -> RecordInvalid:
    return RecordInvalid(f"record of sequence {sequence}: {what}; {_CONSEQUENCE}")
