"""Blocks: what goes in comes out, and damage never comes out as a record."""

from __future__ import annotations

import hashlib
import random

import pytest

from protos.common.v1 import common_pb2
from replay.block import (
    BLOCK_BYTES_TARGET,
    BLOCK_RECORDS_MAX,
    BlockReader,
    BlockRecord,
    encode_block,
    split_into_blocks,
)
from replay.block_index import BlockIndex
from replay.store import StoreCorrupt


def _record(index: int, size: int = 40) -> BlockRecord:
    payload = random.Random(index).randbytes(size)
    header = common_pb2.RecordHeader(sequence=index, payload_digest=hashlib.sha256(payload).digest())
    return BlockRecord(index % 3, header.SerializeToString(), payload, bytes([index % 256]) * 32)


def test_records_come_back() -> None:
    records = [_record(index, size=index) for index in range(20)]
    reader = BlockReader(100, memoryview(encode_block(records)))
    assert reader.payload_sizes() == list(range(20))
    for index, record in enumerate(records):
        stored = reader.record(100 + index)
        assert (stored.origin_id, stored.header_bytes, stored.payload, stored.chain) == record
        assert stored.header.sequence == index
        assert reader.header(100 + index) == stored._replace(payload=b"")
    for outside in (99, 120):
        with pytest.raises(StoreCorrupt, match=f"position {outside} is missing"):
            reader.record(outside)


def test_splitting_keeps_order_and_bounds() -> None:
    small = [_record(index) for index in range(BLOCK_RECORDS_MAX + 1)]
    large = [_record(index, BLOCK_BYTES_TARGET) for index in range(2)]
    records = small + large
    blocks = list(split_into_blocks(records))
    assert [record for block in blocks for record in block] == records
    assert [len(block) for block in blocks] == [BLOCK_RECORDS_MAX, 2, 1]
    assert list(split_into_blocks([])) == []


def test_any_flipped_byte_is_noticed_or_harmless_to_payloads() -> None:
    records = [_record(index) for index in range(3)]
    data = encode_block(records)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        try:
            payloads = [BlockReader(0, memoryview(damaged)).record(index).payload for index in range(3)]
        except StoreCorrupt:
            continue
        assert payloads == [record.payload for record in records]


def test_what_is_no_block_is_refused() -> None:
    for data in (b"", b"TMB1", b"TMB1\0\0\0\0", b"TMB1\1\0\0\0", b"XXXX" + encode_block([_record(0)])[4:]):
        with pytest.raises(StoreCorrupt, match="damaged"):
            BlockReader(0, memoryview(data))


def test_index_locates_drops_and_adds() -> None:
    index = BlockIndex([10, 20, 30])
    assert index.locate([9, 10, 19, 20, 99]) == [-1, 10, 10, 20, 30]
    index.replace(dropped=2, added=[40])
    assert list(index.oldest(5)) == [30, 40]
    assert index.locate([29, 39, 40]) == [-1, 30, 40]
    index.replace(dropped=3, added=[50])
    assert list(index.oldest(5)) == []
