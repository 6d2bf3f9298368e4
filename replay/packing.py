"""Records side by side in one message: packing stored records for the wire, and taking them apart again.

A message object per record costs more than a small record itself, on both ends, so headers and payloads travel as
concatenated bytes with their sizes. Which records travel, and why, is not known here.

Exceptions: PackingError (a ValueError) for a message whose parts do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2

if TYPE_CHECKING:
    from replay.store import StoredRecord  # clients have no store


class PackingError(ValueError):
    """The parts of a message of records do not fit together; the message says which."""


class UnpackedRecord(NamedTuple):
    """One record of a message; `payload` and `marks` are empty where they were not asked for."""

    position: int
    origin_id: int
    header: bytes
    payload: memoryview
    marks: bytes


def pack(
    target: replay_pb2.PackedRecords,
    records: Sequence[StoredRecord],
    marks: dict[int, common_pb2.RecordMarks] | None = None,
) -> None:
    """Fills an empty message with records, and with their marks unless these are None."""
    target.positions.extend([record.position for record in records])
    target.origin_ids.extend([record.origin_id for record in records])
    target.headers = b"".join([record.header_bytes for record in records])
    target.header_sizes.extend([len(record.header_bytes) for record in records])
    target.payloads = b"".join([record.payload for record in records])
    target.payload_sizes.extend([len(record.payload) for record in records])
    if marks is not None:
        empty = common_pb2.RecordMarks()
        target.marks.extend([marks.get(record.position, empty).SerializeToString() for record in records])


def unpack(source: replay_pb2.PackedRecords) -> Iterator[UnpackedRecord]:
    """The records of a message, in order. Raises PackingError before the first one if they do not fit together."""
    positions, origin_ids = source.positions, source.origin_ids
    header_sizes, payload_sizes = source.header_sizes, source.payload_sizes
    count = len(positions)
    if not len(origin_ids) == len(header_sizes) == len(payload_sizes) == count or len(source.marks) not in (0, count):
        raise PackingError(
            f"{count} positions come with {len(origin_ids)} origins, {len(header_sizes)} headers, "
            f"{len(payload_sizes)} payloads and {len(source.marks)} marks: they must pair"
        )
    header_ends, payload_ends = list(accumulate(header_sizes)), list(accumulate(payload_sizes))
    headers, payloads = source.headers, memoryview(source.payloads)
    if (header_ends[-1] if count else 0) != len(headers) or (payload_ends[-1] if count else 0) != len(payloads):
        raise PackingError(
            f"sizes of {sum(header_sizes)} and {sum(payload_sizes)} bytes come with {len(headers)} bytes of headers "
            f"and {len(payloads)} bytes of payloads"
        )
    all_marks: Sequence[bytes] = source.marks or [b""] * count
    return (
        UnpackedRecord(
            position,
            origin_id,
            headers[header_end - header_size : header_end],
            payloads[payload_end - payload_size : payload_end],
            marks,
        )
        for position, origin_id, header_end, header_size, payload_end, payload_size, marks in zip(
            positions, origin_ids, header_ends, header_sizes, payload_ends, payload_sizes, all_marks, strict=True
        )
    )
