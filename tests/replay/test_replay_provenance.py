"""Validation of origins and headers: each rule is broken once, and the message says value, bound and consequence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.common.v1 import common_pb2
from replay.provenance import HEADER_BYTES_MAX, ORIGIN_BYTES_MAX, SIGNAL_MAX, check_batch, check_origin
from replay.schema import PAYLOAD_BYTES_MAX
from replay.store import RecordInvalid
from replay.testing import DIGEST, make_origin, make_record


def test_valid_records_come_out_ready_to_store() -> None:
    origin = make_origin()
    signals = {"return": 1.5, "largest": SIGNAL_MAX, "least": -SIGNAL_MAX}
    records = [make_record(origin, sequence, signals=signals) for sequence in (3, 4, 9)]
    pending = check_batch(records, check_origin(origin))
    assert [item.sequence for item in pending] == [3, 4, 9]
    for item, record in zip(pending, records, strict=True):
        assert common_pb2.RecordHeader.FromString(item.header) == record.header
        assert item.payload == record.payload
        assert item.payload_digest == record.header.payload_digest
        assert (item.steps, dict(item.signals)) == (2, signals)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actor_id": ""}, "actor_id = '' must match"),
        ({"actor_id": "a b"}, "actor_id = 'a b' must match"),
        ({"actor_id": "a\0b"}, "must match"),
        ({"run_id": "r" * 129}, "must match"),
        ({"run_id": "r/../x"}, "must match"),
        ({"config_digest": b"short"}, "config_digest has 5 bytes, must have 32"),
        ({"source_revision": "x" * 257}, "source_revision has 257 characters, must have 0 to 256"),
        ({"environment": common_pb2.EnvironmentIdentity(version="1", code_digest=DIGEST)}, "environment.id has 0"),
        ({"environment": common_pb2.EnvironmentIdentity(id="E", code_digest=DIGEST)}, "environment.version has 0"),
        ({"environment": common_pb2.EnvironmentIdentity(id="E", version="1")}, "code_digest has 0 bytes"),
        ({"schema": common_pb2.Schema()}, "origin.schema: schema has 0 columns"),
    ],
)
def test_bad_origins_are_refused(change: dict[str, Any], message: str) -> None:
    origin = make_origin()
    for name, value in change.items():
        if isinstance(value, str | bytes):
            setattr(origin, name, value)
        else:
            getattr(origin, name).CopyFrom(value)
    with pytest.raises(RecordInvalid) as error:
        check_origin(origin)
    assert message in str(error.value)
    assert "the stream was not opened" in str(error.value)


def _with_unknown_field(message: common_pb2.Origin | common_pb2.RecordHeader, size: int) -> None:
    """Adds what a client of a later version might send, and a parser keeps: field 100 with `size` bytes."""
    length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    message.MergeFromString(b"\xa2\x06" + length + bytes(size))


def test_fields_unknown_here_count_towards_the_bounds() -> None:
    origin, record = make_origin(), make_record(make_origin(), 0)
    for message, bound in ((origin, ORIGIN_BYTES_MAX), (record.header, HEADER_BYTES_MAX)):
        _with_unknown_field(message, bound // 2)
    check_batch([record], check_origin(origin))
    for message, bound in ((origin, ORIGIN_BYTES_MAX), (record.header, HEADER_BYTES_MAX)):
        _with_unknown_field(message, bound // 2)
    with pytest.raises(RecordInvalid, match=f"at most {ORIGIN_BYTES_MAX} may be: the stream was not opened"):
        check_origin(origin)
    with pytest.raises(RecordInvalid, match=f"at most {HEADER_BYTES_MAX} may be; nothing of the batch was stored"):
        check_batch([record], check_origin(make_origin()))


Break = Callable[[common_pb2.Record], Any]


def _span(first_step: int, digest: bytes = DIGEST) -> common_pb2.PolicySpan:
    return common_pb2.PolicySpan(first_step=first_step, digest=digest)


def _set(**fields: Any) -> Break:
    def change(record: common_pb2.Record) -> None:
        for name, value in fields.items():
            setattr(record.header, name, value)

    return change


def _policies(*spans: common_pb2.PolicySpan) -> Break:
    def change(record: common_pb2.Record) -> None:
        del record.header.policies[:]
        record.header.policies.extend(spans)

    return change


def _payload(record: common_pb2.Record) -> None:
    record.payload = record.payload[:-1]


def _flip(record: common_pb2.Record) -> None:
    record.payload = bytes([record.payload[0] ^ 1]) + record.payload[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(steps=0), "steps = 0, must be at least 1"),
        (_set(steps=3), "the schema requires"),
        (_set(steps=2**31), f"at most {PAYLOAD_BYTES_MAX} may be"),
        (_payload, "payload has"),
        (_flip, "it was altered on the way"),
        (_set(payload_digest=b""), "its header says none"),
        (_policies(), "names no behaviour policy"),
        (_policies(_span(1)), "starts at step 1 after -1"),
        (_policies(_span(0), _span(0)), "starts at step 0 after 0"),
        (_policies(_span(0), _span(2)), "stay below T = 2"),
        (_policies(_span(0, b"x")), "policy digest has 1 bytes, must have 32"),
        (_set(start_time_ns=-1), "must ascend from 0"),
        (_set(end_time_ns=0), "must ascend from 0"),
        (_set(task_id="t" * 257), "task_id has 257 characters"),
        (lambda record: record.header.signals.update({"cost": math.nan}), "signal 'cost' = nan, must be finite"),
        (lambda record: record.header.signals.update({"x": math.inf}), "signal 'x' = inf"),
        (
            lambda record: record.header.signals.update({"x": -1e300}),
            "signal 'x' = -1e+300, must be finite and",
        ),
        (lambda record: record.header.signals.update({"x": SIGNAL_MAX + 2}), "must be finite and within"),
        (lambda record: record.header.parents.append(1), "parents and transformation go together"),
        (_set(transformation="filter"), "parents and transformation go together"),
        (lambda record: record.header.signals.update({"n" * 70_000: 1.0}), "at most 65536 may be"),
        (lambda record: record.header.signals.update({"verified": 1.0}), "'verified' is for verification to write"),
        (lambda record: record.header.episode_seeds.extend(range(2)), "2 episodes begin inside 2 steps, at most 1 may"),
    ],
)
def test_bad_records_are_refused(change: Break, message: str) -> None:
    origin = make_origin()
    good, bad = make_record(origin, 0), make_record(origin, 1)
    change(bad)
    with pytest.raises(RecordInvalid) as error:
        check_batch([good, bad], check_origin(origin))
    assert message in str(error.value)
    assert "sequence 1" in str(error.value)
    assert str(error.value).endswith("nothing of the batch was stored")


def test_several_policies_and_parents_are_welcome() -> None:
    origin = make_origin()
    record = make_record(origin, 0)
    record.header.policies.append(_span(1))
    record.header.parents.extend([5, 7])
    record.header.transformation = "relabelled"
    assert len(check_batch([record], check_origin(origin))) == 1


@pytest.mark.parametrize("sequences", [[1, 1], [2, 1], [0, 5, 4]])
def test_sequences_must_ascend(sequences: list[int]) -> None:
    origin = make_origin()
    with pytest.raises(RecordInvalid, match="must be greater"):
        check_batch([make_record(origin, sequence) for sequence in sequences], check_origin(origin))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(RecordInvalid, match="at least one"):
        check_batch([], check_origin(make_origin()))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(position=st.integers(0, 10_000), byte=st.integers(1, 255))
def test_a_damaged_message_never_passes_for_another_payload(position: int, byte: int) -> None:
    """Flip any byte of a serialized record: it fails to parse, is refused, or still carries a payload that its digest
    vouches for.
    """
    origin = make_origin()
    wire = bytearray(make_record(origin, 0).SerializeToString())
    wire[position % len(wire)] ^= byte
    try:
        record = common_pb2.Record.FromString(bytes(wire))
        (pending,) = check_batch([record], check_origin(origin))
    except Exception as error:  # noqa: BLE001  the kinds allowed are asserted
        assert type(error).__name__ in ("DecodeError", "RecordInvalid")
        return
    assert pending.payload == make_record(origin, 0).payload
