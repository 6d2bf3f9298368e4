"""The unit of storage: a block holds up to BLOCK_RECORDS_MAX consecutive records of the log in one value.

One value per record would cost one call into LMDB per record for writing and another for deleting, and each call
hands the interpreter lock to whichever thread waits for it; blocks make both a matter of a few calls a commit.

Format (little-endian, unaligned), version 1:

    magic     4 bytes "TMB1"
    count     u32, records in the block, at least 1
    entries   count times: origin_id u32, header_offset u32, header_bytes u32, payload_offset u32, payload_bytes u32,
              chain 32 bytes; offsets count from the start of the block
    headers   serialized RecordHeaders, in order, without padding
    payloads  in order, without padding

Exceptions: StoreCorrupt (see replay.store) for bytes that are no such block.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from protos.common.v1 import common_pb2
from replay.store import StoreCorrupt, StoredRecord

BLOCK_RECORDS_MAX = 256
BLOCK_BYTES_TARGET = 256 * 1024
"""A block is closed once it holds this much; one larger record has a block of its own."""

_MAGIC = b"TMB1"
_HEAD = struct.Struct("<4sI")
_ENTRY = struct.Struct("<IIIII32s")


class BlockRecord(NamedTuple):
    """A record as a block holds it."""

    origin_id: int
    header: bytes
    payload: bytes
    chain: bytes


def split_into_blocks(records: Sequence[BlockRecord]) -> Iterator[Sequence[BlockRecord]]:
    """Cuts consecutive records into runs that each make one block."""
    start = size = 0
    for index, record in enumerate(records):
        if index - start == BLOCK_RECORDS_MAX or size >= BLOCK_BYTES_TARGET:
            yield records[start:index]
            start, size = index, 0
        size += len(record.header) + len(record.payload)
    if start < len(records):
        yield records[start:]


def encode_block(records: Sequence[BlockRecord]) -> bytes:
    """The bytes of one block of at least one record."""
    header_offset = _HEAD.size + _ENTRY.size * len(records)
    payload_offset = header_offset + sum(len(record.header) for record in records)
    parts = [_HEAD.pack(_MAGIC, len(records))]
    for origin_id, header, payload, chain in records:
        parts.append(_ENTRY.pack(origin_id, header_offset, len(header), payload_offset, len(payload), chain))
        header_offset += len(header)
        payload_offset += len(payload)
    parts.extend(record.header for record in records)
    parts.extend(record.payload for record in records)
    return b"".join(parts)


class BlockReader:
    """Reads records out of one block without copying the rest of it.

    Args:
      first_position: position in the log of the block's first record.
      data: the block; need only stay valid while this reader is used.
    """

    def __init__(self, first_position: int, data: memoryview) -> None:
        self._first_position = first_position
        self._data = data
        magic, self._count = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0)
        if magic != _MAGIC or not self._count or _HEAD.size + self._count * _ENTRY.size > len(data):
            raise StoreCorrupt(f"the block at position {first_position} is damaged: {len(data)} bytes, magic {magic!r}")

    def payload_sizes(self) -> list[int]:
        """Payload bytes of each record, in order."""
        return [self._entry(index)[4] for index in range(self._count)]

    def record(self, position: int) -> StoredRecord:
        """The record at `position`, its payload checked against its digest. Raises StoreCorrupt."""
        stored = self.header(position)
        _, _, _, offset, size, _ = self._entry(position - self._first_position)
        payload = bytes(self._data[offset : offset + size])
        if hashlib.sha256(payload).digest() != stored.header.payload_digest:
            raise StoreCorrupt(f"the payload at position {position} does not match its digest")
        return stored._replace(payload=payload)

    def header(self, position: int) -> StoredRecord:
        """The record at `position` with an empty payload. Raises StoreCorrupt."""
        index = position - self._first_position
        if not 0 <= index < self._count:
            raise StoreCorrupt(f"position {position} is missing from the block at {self._first_position}")
        origin_id, offset, size, _, _, chain = self._entry(index)
        header_bytes = bytes(self._data[offset : offset + size])
        try:
            header = common_pb2.RecordHeader.FromString(header_bytes)
        except DecodeError as error:
            raise StoreCorrupt(f"the header at position {position} cannot be read: {error}") from error
        return StoredRecord(position, origin_id, header, header_bytes, b"", chain)

    def _entry(self, index: int) -> tuple[int, int, int, int, int, bytes]:
        entry: tuple[int, int, int, int, int, bytes] = _ENTRY.unpack_from(self._data, _HEAD.size + index * _ENTRY.size)
        return entry
