"""The unit of storage: a block holds up to BLOCK_RECORDS_MAX consecutive records of the log in two values.

One value per record would cost one call into LMDB per record for writing, and each call hands the interpreter lock to
whichever thread waits for it; blocks make it a few calls a commit. Headers lie apart from payloads, so that whoever
lists or filters reads none of the latter. A commit of a few records continues the block of the one before, or many
small commits would fill the disk with the unused ends of pages.

Format (little-endian, unaligned), version 2. The payloads' value is the payloads, in order, without padding. The
headers' value is:

    magic     4 bytes "TMB2"
    records   u32, at least 1
    first     u64, position of the first record
    time      i64, when the first record was committed (ns since the epoch), never less than that of the block before
    checksum  u32, CRC-32 of all of the above
    headers   serialized RecordHeaders, in order, without padding
    entries   of the records, from the last to the first, so that the first record's is the end of the value:
                  origin_id u32
                  header_offset u32, header_bytes u32      from the start of this value
                  payload_offset u32, payload_bytes u32    from the start of the payloads' value
                  digest_offset u16                        where in its header the payload's digest stands
                  link 32 bytes                            of the hash chain (chain.py)
                  checksum u32                             CRC-32 of the above and then of the serialized header,
                                                           begun from the record's position modulo 2^32

So a block is continued by putting more in its middle: nothing that is said of a record changes.

Every bit of a record is covered: entry and header by the entry's checksum, the payload by the digest in the header.
So damage is found in the record that is damaged, and the others of its block can be read. The checksum in front is for
whoever goes by the number of records or the time.

Exceptions: StoreCorrupt (see replay.store) for bytes that are no such block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from replay.store import StoreCorrupt, StoredRecord, StoreError

BLOCK_RECORDS_MAX = 256
BLOCK_BYTES_TARGET = 256 * 1024
"""A block is closed once it holds this much; one larger record has a block of its own."""

_CONTINUED_BYTES_MAX = 40 * 1024
_CONTINUED_NS_MAX = 1_000_000_000
_CONTINUATION_BYTES_MAX = 24 * 1024
"""Blocks that are smaller and younger than this are continued by commits as small as this. What is written anew leaves
gaps in the file: larger commits waste less in blocks of their own. And age is told by the block: none may span much."""

_MAGIC = b"TMB2"
_HEAD = struct.Struct("<4sIQqI")
_HEAD_CHECKED = _HEAD.size - 4
_ENTRY = struct.Struct("<IIIIIH32sI")
_ENTRY_CHECKED = _ENTRY.size - 4
_SIZES = np.dtype(
    {
        "names": ["header_bytes", "payload_bytes"],
        "formats": ["<u4", "<u4"],
        "offsets": [8, 16],
        "itemsize": _ENTRY.size,
    }
)
_DIGEST_BYTES = 32
_CRC_MASK = 0xFFFFFFFF


class BlockRecord(NamedTuple):
    """A record as a block holds it."""

    origin_id: int
    header: bytes
    payload: bytes
    payload_digest: bytes
    chain: bytes


class BlockSummary(NamedTuple):
    """What an index needs to know of a block."""

    first_position: int
    records: int
    header_bytes: int
    payload_bytes: int
    commit_time_ns: int


class EncodedBlock(NamedTuple):
    """The two values of a block, and its summary."""

    headers: bytes
    payloads: bytes
    summary: BlockSummary

    def may_be_continued(self, time_ns: int, added_bytes: int) -> bool:
        """Whether a commit of so many bytes of headers and payloads, at `time_ns`, should continue it."""
        _, records, header_bytes, payload_bytes, commit_time_ns = self.summary
        return (
            records < BLOCK_RECORDS_MAX
            and added_bytes <= _CONTINUATION_BYTES_MAX
            and header_bytes + payload_bytes < _CONTINUED_BYTES_MAX
            and time_ns - commit_time_ns < _CONTINUED_NS_MAX
        )


def encode_blocks(
    first_position: int, commit_time_ns: int, records: Sequence[BlockRecord], last: EncodedBlock | None
) -> list[EncodedBlock]:
    """The blocks of consecutive records that are committed together.

    Args:
      first_position: of the first of them.
      commit_time_ns: for the blocks that begin here.
      records: at least one.
      last: the block before, if the first of those returned is to continue it, and so to take its place.

    Raises:
      StoreError: a header does not hold its payload's digest.
    """
    blocks = []
    position = first_position
    for group in _groups(records, last):
        blocks.append(_encode(position, commit_time_ns, group, last))
        last = None
        position += len(group)
    return blocks


def _groups(records: Sequence[BlockRecord], last: EncodedBlock | None) -> Iterator[Sequence[BlockRecord]]:
    start = 0
    count, size = (last.summary.records, len(last.headers) + len(last.payloads)) if last is not None else (0, 0)
    for index, record in enumerate(records):
        if count == BLOCK_RECORDS_MAX or size >= BLOCK_BYTES_TARGET:
            yield records[start:index]
            start = index
            count = size = 0
        count += 1
        size += len(record.header) + len(record.payload)
    yield records[start:]


def _encode(
    first_position: int, commit_time_ns: int, records: Sequence[BlockRecord], last: EncodedBlock | None
) -> EncodedBlock:
    position, header_offset, payload_offset = first_position, _HEAD.size, 0
    if last is not None:
        first_position, _, header_bytes, payload_offset, commit_time_ns = last.summary
        header_offset += header_bytes
    entries = []
    for origin_id, header, payload, payload_digest, chain in records:
        digest_offset = header.find(payload_digest)
        if digest_offset < 0:
            raise StoreError("a header does not hold the digest of its payload: nothing was stored")
        entry = _ENTRY.pack(
            origin_id, header_offset, len(header), payload_offset, len(payload), digest_offset, chain, 0
        )[:_ENTRY_CHECKED]
        entries.append(entry + crc32(header, crc32(entry, position & _CRC_MASK)).to_bytes(4, "little"))
        position += 1
        header_offset += len(header)
        payload_offset += len(payload)
    head = _HEAD.pack(_MAGIC, position - first_position, first_position, commit_time_ns, 0)[:_HEAD_CHECKED]
    headers = [record.header for record in records]
    payloads = [record.payload for record in records]
    entries.reverse()
    if last is not None:
        middle = _HEAD.size + last.summary.header_bytes
        headers.insert(0, last.headers[_HEAD.size : middle])
        payloads.insert(0, last.payloads)
        entries.append(last.headers[middle:])
    summary = BlockSummary(
        first_position, position - first_position, header_offset - _HEAD.size, payload_offset, commit_time_ns
    )
    value = b"".join((head, crc32(head).to_bytes(4, "little"), *headers, *entries))
    return EncodedBlock(value, b"".join(payloads), summary)


class BlockReader:
    """Reads records out of one block without copying the rest of it.

    Args:
      first_position: position in the log of the block's first record.
      headers: the block's headers; need only stay valid while this reader is used.
    """

    __slots__ = ("_first_position", "_headers")

    def __init__(self, first_position: int, headers: bytes | memoryview) -> None:
        self._first_position = first_position
        self._headers = headers

    def record(self, position: int, payloads: bytes | memoryview | None, lend: bool = False) -> StoredRecord:
        """The record at `position`, header and payload checked. Raises StoreCorrupt.

        Args:
          position: in the log.
          payloads: the block's payloads; None for a record with an empty one, which is then not checked.
          lend: whether its payload is a view into `payloads` instead of a copy.
        """
        headers = self._headers
        end = len(headers) - (position - self._first_position) * _ENTRY.size
        if not _ENTRY.size <= end <= len(headers):
            raise self._damage(position)
        start = end - _ENTRY.size
        origin_id, header_offset, header_bytes, payload_offset, payload_bytes, digest_offset, chain, checksum = (
            _ENTRY.unpack_from(headers, start)
        )
        header = bytes(headers[header_offset : header_offset + header_bytes])
        if crc32(header, crc32(headers[start : end - 4], position & _CRC_MASK)) != checksum:
            raise self._damage(position)
        digest = header[digest_offset : digest_offset + _DIGEST_BYTES]
        if payloads is None:
            return StoredRecord(position, origin_id, header, b"", digest, chain)
        payload: bytes | memoryview = payloads[payload_offset : payload_offset + payload_bytes]
        if not lend:
            payload = bytes(payload)  # before it is checked: what is checked is what is returned
        if sha256(payload).digest() != digest:
            raise StoreCorrupt(f"the payload at position {position} does not match its digest", (position,))
        return StoredRecord(position, origin_id, header, payload, digest, chain)

    def sizes(self) -> NDArray[np.void]:
        """Structured array [records] of header_bytes and payload_bytes of each record. Raises StoreCorrupt."""
        records, _ = self._head()
        return np.frombuffer(self._headers, _SIZES, records, len(self._headers) - records * _ENTRY.size)[::-1]

    def summary(self) -> BlockSummary:
        """The summary that the index should hold. Raises StoreCorrupt."""
        records, commit_time_ns = self._head()
        sizes = self.sizes()
        header_bytes, payload_bytes = (
            int(sizes[name].sum(dtype=np.int64)) for name in ("header_bytes", "payload_bytes")
        )
        return BlockSummary(self._first_position, records, header_bytes, payload_bytes, commit_time_ns)

    def _head(self) -> tuple[int, int]:
        """Number of records, and commit time. Raises StoreCorrupt."""
        headers = self._headers
        if len(headers) >= _HEAD.size:
            magic, records, first_position, commit_time_ns, checksum = _HEAD.unpack_from(headers)
            if (
                magic == _MAGIC
                and first_position == self._first_position
                and crc32(headers[:_HEAD_CHECKED]) == checksum
                and len(headers) >= _HEAD.size + records * _ENTRY.size
            ):
                return records, commit_time_ns
        raise StoreCorrupt(
            f"the block at position {self._first_position} is damaged: {len(headers)} bytes, not a block"
        )

    def _damage(self, position: int) -> StoreCorrupt:
        """What is wrong with a record whose entry or header is not what it should be."""
        try:
            records, _ = self._head()
        except StoreCorrupt as error:
            return StoreCorrupt(str(error), (position,))
        if not 0 <= position - self._first_position < records:
            what = (
                f"position {position} is missing from the block at {self._first_position}, which has {records} records"
            )
            return StoreCorrupt(what, (position,))
        return StoreCorrupt(f"the header at position {position} does not match its checksum", (position,))
