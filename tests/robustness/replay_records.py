"""Records whose every byte follows from their run and sequence, so that whoever reads one knows what it must be."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.payload_encoding import ENCODINGS, RAW, encode_payload
from replay.schema import Encoding

STEPS = 4
DIGEST = bytes(32)


def make_origin(run_id: str, row_bytes: int) -> common_pb2.Origin:
    """The origin of a run; its actor is the part of the id before the first "."."""
    return common_pb2.Origin(
        actor_id=run_id.partition(".")[0],
        run_id=run_id,
        environment=common_pb2.EnvironmentIdentity(id="Test-v0", version="test 1", code_digest=DIGEST),
        schema=common_pb2.Schema(columns=[common_pb2.Column(name="data", dtype="|u1", shape=[row_bytes])]),
        config_digest=DIGEST,
        source_revision="test",
    )


def content(run_id: str, sequence: int, row_bytes: int) -> bytes:
    """What a record's column holds: half of it follows no pattern, half is zero, so that compression does something."""
    size = STEPS * row_bytes
    return hashlib.shake_128(f"{run_id}:{sequence}".encode()).digest(size // 2) + bytes(size - size // 2)


def rows(run_id: str, sequence: int, row_bytes: int) -> NDArray[np.uint8]:
    """The same as the array [STEPS, row_bytes]."""
    return np.frombuffer(content(run_id, sequence, row_bytes), np.uint8).reshape(STEPS, row_bytes)


def encoding_of(run_id: str) -> Encoding:
    """Every other run compresses."""
    return ENCODINGS["zstd"] if run_id.endswith(("1", "3", "5", "7", "9")) else RAW


def payload_of(run_id: str, sequence: int, row_bytes: int) -> bytes:
    """The payload as it is stored."""
    return encode_payload(content(run_id, sequence, row_bytes), encoding_of(run_id))


def make_header(run_id: str, sequence: int) -> common_pb2.RecordHeader:
    """The header, but for what a ReplayWriter fills in."""
    return common_pb2.RecordHeader(
        steps=STEPS,
        lane=sequence % 7,
        policies=[common_pb2.PolicySpan(first_step=0, version=sequence, digest=DIGEST)],
        start_time_ns=1 + sequence,
        end_time_ns=2 + sequence,
        signals={"steps": float(STEPS), "value": float(sequence)},
        encoding=encoding_of(run_id),
    )
