"""Records side by side in a message: what was packed comes out again, and what does not fit together is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.packing import PackingError, pack, unpack
from replay.store import StoredRecord

RECORDS = st.lists(
    st.tuples(st.integers(0, 2**63), st.integers(0, 2**31), st.binary(max_size=40), st.binary(max_size=60)), max_size=12
)


def stored(position: int, origin_id: int, header: bytes, payload: bytes) -> StoredRecord:
    return StoredRecord(position, origin_id, header, payload, hashlib.sha256(payload).digest(), bytes(32))


@given(RECORDS)
def test_what_was_packed_comes_out_again(rows: list[tuple[int, int, bytes, bytes]]) -> None:
    message = replay_pb2.PackedRecords()
    pack(message, [stored(*row) for row in rows])
    parsed = replay_pb2.PackedRecords.FromString(message.SerializeToString())
    unpacked = [(record.position, record.origin_id, record.header, bytes(record.payload)) for record in unpack(parsed)]
    assert unpacked == rows
    assert all(record.marks == b"" for record in unpack(parsed))


def test_payloads_may_be_memory_of_others() -> None:
    message = replay_pb2.PackedRecords()
    pack(message, [stored(3, 0, b"h", b"")._replace(payload=memoryview(b"abc"))])
    (record,) = unpack(message)
    assert (record.position, bytes(record.payload)) == (3, b"abc")


def test_marks_are_in_step_with_records() -> None:
    marks = common_pb2.RecordMarks(signals={"success": 1.0}, quarantine=4)
    message = replay_pb2.PackedRecords()
    pack(message, [stored(position, 0, b"h", b"p") for position in (5, 6, 7)], {6: marks})
    parsed = [common_pb2.RecordMarks.FromString(record.marks) for record in unpack(message)]
    assert parsed == [common_pb2.RecordMarks(), marks, common_pb2.RecordMarks()]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("origin_ids", [1]),
        ("header_sizes", [1]),
        ("payload_sizes", []),
        ("header_sizes", [1, 9]),
        ("payload_sizes", [0, 1]),
        ("marks", [b""]),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(field: str, values: list[object]) -> None:
    message = replay_pb2.PackedRecords()
    pack(message, [stored(1, 0, b"h", b"pp"), stored(2, 0, b"i", b"q")])
    message.ClearField(field)
    getattr(message, field).extend(values)
    with pytest.raises(PackingError):
        unpack(message)
