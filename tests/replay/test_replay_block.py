"""Blocks: what goes in comes out, byte by byte as specified, and damage never comes out as a record."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections.abc import Sequence

import pytest

from protos.common.v1 import common_pb2
from replay.block import (
    BLOCK_BYTES_TARGET,
    BLOCK_RECORDS_MAX,
    BlockReader,
    BlockRecord,
    BlockSummary,
    EncodedBlock,
    encode_blocks,
)
from replay.store import StoreCorrupt, StoreError


def _record(index: int, size: int = 40) -> BlockRecord:
    payload = random.Random(index).randbytes(size)
    digest = hashlib.sha256(payload).digest()
    header = common_pb2.RecordHeader(sequence=index, payload_digest=digest)
    return BlockRecord(index % 3, header.SerializeToString(), payload, digest, bytes([index % 256]) * 32)


def _block(first_position: int, time_ns: int, records: Sequence[BlockRecord]) -> EncodedBlock:
    (block,) = encode_blocks(first_position, time_ns, records, None)
    return block


def test_records_come_back() -> None:
    records = [_record(index, size=index) for index in range(20)]
    headers, payloads, summary = _block(100, 7, records)
    reader = BlockReader(100, memoryview(headers))
    for index, record in enumerate(records):
        stored = reader.record(100 + index, memoryview(payloads))
        assert (stored.origin_id, stored.header_bytes, stored.payload, stored.payload_digest, stored.chain) == record
        assert stored.header.sequence == index
        assert reader.record(100 + index, None) == stored._replace(payload=b"")
        lent = reader.record(100 + index, memoryview(payloads), lend=True).payload
        assert isinstance(lent, memoryview)
        assert lent == record.payload
    assert reader.sizes()["payload_bytes"].tolist() == list(range(20))
    assert reader.sizes()["header_bytes"].tolist() == [len(record.header) for record in records]
    assert reader.summary() == summary == BlockSummary(100, 20, sum(len(r.header) for r in records), 190, 7)


@pytest.mark.parametrize("outside", [99, 120, 121, 10**12])
def test_a_position_of_another_block_is_missing(outside: int) -> None:
    headers, payloads, _ = _block(100, 7, [_record(index) for index in range(20)])
    with pytest.raises(StoreCorrupt, match=f"position {outside} is missing from the block at 100") as error:
        BlockReader(100, headers).record(outside, payloads)
    assert error.value.positions == (outside,)


def test_the_bytes_are_those_specified() -> None:
    payload, link = b"payload", b"\xaa" * 32
    digest = hashlib.sha256(payload).digest()
    header = b"\x72\x20" + digest  # field 14, 32 bytes
    one = _block(2**32 + 5, 9, [BlockRecord(3, header, payload, digest, link)])
    headers, payloads, _ = one
    head = b"TMB2" + struct.pack("<IQq", 1, 2**32 + 5, 9)
    entry = struct.pack("<IIIIIH", 3, 28, 34, 0, 7, 2) + link
    expected = head + struct.pack("<I", zlib.crc32(head)) + header
    expected += entry + struct.pack("<I", zlib.crc32(entry + header, 5))
    assert headers == expected
    assert payloads == payload
    # Continued: more headers after those there, more entries before them, and all that was there as it was.
    (longer,) = encode_blocks(2**32 + 6, 11, [BlockRecord(4, header, payload, digest, link)], one)
    head = b"TMB2" + struct.pack("<IQq", 2, 2**32 + 5, 9)
    another = struct.pack("<IIIIIH", 4, 28 + 34, 34, 7, 7, 2) + link
    another += struct.pack("<I", zlib.crc32(another + header, 6))
    assert longer.headers == head + struct.pack("<I", zlib.crc32(head)) + header + header + another + headers[-58:]
    assert longer.payloads == payload + payload
    assert longer.summary == BlockSummary(2**32 + 5, 2, 68, 14, 9)


def test_splitting_keeps_order_and_bounds() -> None:
    small = [_record(index) for index in range(BLOCK_RECORDS_MAX + 1)]
    large = [_record(index, BLOCK_BYTES_TARGET) for index in range(2)]
    blocks = encode_blocks(5, 0, small + large, None)
    sizes = [BLOCK_RECORDS_MAX, 2, 1]
    assert [block.summary.records for block in blocks] == sizes
    assert [block.summary.first_position for block in blocks] == [5, 5 + sizes[0], 5 + sizes[0] + 2]


def test_small_commits_continue_blocks() -> None:
    records = [_record(index, size=400 + index % 7) for index in range(564)]
    blocks: list[EncodedBlock] = []
    position = 0
    for count in [1, 2, 25, 5, 100, 8] * 4:
        last = blocks.pop() if blocks and blocks[-1].may_be_continued(3, 400 * count) else None
        blocks += encode_blocks(position, 3, records[position : position + count], last)
        position += count
    assert position == len(records)
    assert [block.summary.records for block in blocks] == [33, 100, 41, 100, 41, 100, 41, 100, 8]
    restored = [
        BlockReader(block.summary.first_position, block.headers).record(position, block.payloads)
        for block in blocks
        for position in range(block.summary.first_position, block.summary.first_position + block.summary.records)
    ]
    assert [record.payload for record in restored] == [record.payload for record in records]
    assert [record.chain for record in restored] == [record.chain for record in records]
    assert all(block.summary == BlockReader(block.summary.first_position, block.headers).summary() for block in blocks)


@pytest.mark.parametrize(
    ("count", "size", "age_ns", "added_bytes", "continued"),
    [
        (10, 40, 0, 100, True),
        (256, 40, 0, 100, False),
        (10, 10_000, 0, 100, False),
        (10, 40, 999_999_999, 100, True),
        (10, 40, 10**9, 100, False),
        (10, 40, 0, 30_000, False),
    ],
)
def test_a_small_young_block_is_continued_by_a_small_commit(
    count: int, size: int, age_ns: int, added_bytes: int, continued: bool
) -> None:
    block = _block(0, 50, [_record(index, size) for index in range(count)])
    assert block.may_be_continued(50 + age_ns, added_bytes) == continued


def test_any_flipped_byte_damages_one_record_or_none() -> None:
    records = [_record(index) for index in range(3)]
    headers, payloads, _ = _block(0, 0, records)
    data = headers + payloads
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        reader = BlockReader(0, memoryview(damaged)[: len(headers)])
        failed = []
        for index, record in enumerate(records):
            try:
                stored = reader.record(index, memoryview(damaged)[len(headers) :])
            except StoreCorrupt as error:
                assert error.positions == (index,)
                failed.append(index)
            else:
                assert (stored.origin_id, stored.header_bytes, stored.payload) == record[:3]
                assert stored.chain == record.chain
        # Records do not depend on the head, whoever counts does.
        assert len(failed) == (at >= 28)
        if at < 28:
            with pytest.raises(StoreCorrupt, match="the block at position 0 is damaged"):
                reader.summary()


def test_a_block_in_the_place_of_another_is_noticed() -> None:
    headers, payloads, _ = _block(256, 0, [_record(0)])
    with pytest.raises(StoreCorrupt, match="the block at position 512 is damaged"):
        BlockReader(512, headers).record(512, payloads)


def test_what_is_no_block_is_refused() -> None:
    for data in (b"", b"TMB2", bytes(28)):
        with pytest.raises(StoreCorrupt, match="the block at position 0 is damaged"):
            BlockReader(0, memoryview(data)).record(0, None)
    for data in (b"", b"TMB2", bytes(28), b"XXXX" + _block(0, 0, [_record(0)]).headers[4:]):
        with pytest.raises(StoreCorrupt, match="the block at position 0 is damaged"):
            BlockReader(0, memoryview(data)).sizes()


def test_a_header_without_its_digest_is_refused() -> None:
    with pytest.raises(StoreError, match="does not hold the digest of its payload: nothing was stored"):
        _block(0, 0, [_record(0)._replace(payload_digest=bytes(32))])
