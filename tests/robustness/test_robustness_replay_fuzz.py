"""Bytes at random: to the payload codec, to the reader of blocks, and to a real service (see replay_fuzz.py)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.common.v1 import common_pb2
from replay.block import BlockReader, BlockRecord, EncodedBlock, encode_blocks
from replay.payload_encoding import RAW, ZSTD, encode_payload
from replay.schema import DTYPES, PAYLOAD_BYTES_MAX, Encoding, PayloadLayout, SchemaError
from replay.store import StoreCorrupt, StoredRecord
from tests.robustness.replay_fuzz import run_fuzz
from tests.robustness.replay_records import make_header

FIRST_POSITION = 7
ENCODINGS = st.sampled_from((RAW, ZSTD, 2))

columns = st.builds(
    common_pb2.Column,
    name=st.one_of(st.sampled_from(("a", "b/c", "")), st.text(max_size=4)),
    dtype=st.one_of(st.sampled_from(DTYPES), st.text(max_size=3)),
    shape=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)), max_size=7),
    rows_beyond_steps=st.one_of(st.integers(0, 1), st.integers(0, 2**32 - 1)),
    once=st.booleans(),
)
schemas = st.builds(common_pb2.Schema, columns=st.lists(columns, max_size=4))


@pytest.mark.robustness
@pytest.mark.timeout(120)
def test_a_service_answers_whatever_it_is_sent() -> None:
    lines: list[str] = []
    result = run_fuzz(600, 0, lines.append)
    assert result["records"] > 0
    # Each kind of answer came, or the messages were not what they should be.
    met = {status.partition(" ")[2] for status in result["statuses"]}
    assert met >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN"}


@given(schema=schemas, payload=st.binary(max_size=200), steps=st.integers(-1, 40), encoding=ENCODINGS)
@settings(max_examples=400)
def test_any_bytes_are_arrays_of_the_schema_or_refused(
    schema: common_pb2.Schema, payload: bytes, steps: int, encoding: Encoding
) -> None:
    try:
        layout = PayloadLayout(schema)
        arrays = layout.decode(payload, steps, encoding)
    except SchemaError as error:
        assert "\n" not in str(error)
        return
    assert list(arrays) == [column.name for column in schema.columns]
    assert sum(array.nbytes for array in arrays.values()) == layout.payload_bytes(steps)
    for column in schema.columns:
        rows = 1 if column.once else steps + column.rows_beyond_steps
        assert arrays[column.name].shape == (rows, *column.shape)


@given(
    shape=st.lists(st.integers(1, 3), max_size=2),
    steps=st.integers(1, 20),
    encoding=st.sampled_from((RAW, ZSTD)),
    edits=st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=4), st.integers(0, 4)), max_size=3),
    dtype=st.sampled_from(DTYPES),
    once=st.booleans(),
)
@settings(max_examples=400)
def test_altered_payloads_are_arrays_of_the_same_shape_or_refused(
    shape: list[int],
    steps: int,
    encoding: Encoding,
    edits: list[tuple[int, bytes, int]],
    dtype: str,
    once: bool,
) -> None:
    columns = [
        common_pb2.Column(name="a", dtype=dtype, shape=shape, once=once),
        common_pb2.Column(name="b", dtype="|u1"),
    ]
    layout = PayloadLayout(common_pb2.Schema(columns=columns))
    payload = bytearray(encode_payload(bytes(range(256)) * 30, RAW)[: layout.payload_bytes(steps)])
    payload = bytearray(encode_payload(bytes(payload), encoding))
    for at, replacement, removed in edits:
        payload[at : at + removed] = replacement
    try:
        decoded = layout.decode(bytes(payload), steps, encoding)["a"]
    except SchemaError as error:
        assert edits
        assert "\n" not in str(error)
        return
    rows = 1 if once else steps
    assert decoded.shape == (rows, *shape)
    batch = layout.decode_batch([bytes(payload)] * 2, steps, [encoding] * 2)["a"]
    assert batch.shape == (rows, 2, *shape)
    assert batch[:, 0].tobytes() == np.ascontiguousarray(decoded).tobytes()


def test_a_frame_that_lies_about_its_size_is_refused_before_it_is_decompressed() -> None:
    layout = PayloadLayout(common_pb2.Schema(columns=[common_pb2.Column(name="a", dtype="|u1", shape=[1000])]))
    bomb = encode_payload(bytes(10 * PAYLOAD_BYTES_MAX), ZSTD)
    with pytest.raises(SchemaError, match=f"stands for {10 * PAYLOAD_BYTES_MAX} bytes, the schema requires 1000"):
        layout.decode(bomb, 1, ZSTD)
    # As large as it should be by its own account, and in truth ten times that: a frame of one segment has its size,
    # less 256, in the two bytes behind its first five.
    forged = bytearray(encode_payload(bytes(10_000), ZSTD))
    assert int.from_bytes(forged[5:7], "little") + 256 == 10_000
    forged[5:7] = (1000 - 256).to_bytes(2, "little")
    with pytest.raises(SchemaError, match="cannot be decompressed"):
        layout.decode(bytes(forged), 1, ZSTD)


def make_block() -> tuple[EncodedBlock, list[StoredRecord]]:
    """A block of five records, and what it should give back."""
    records = []
    for number in range(5):
        payload = bytes([number]) * (10 * number)
        header = make_header("actor-0.run-0", number)
        header.payload_digest = hashlib.sha256(payload).digest()
        chain = hashlib.sha256(bytes([number])).digest()
        records.append(BlockRecord(number % 2, header.SerializeToString(), payload, header.payload_digest, chain))
    (block,) = encode_blocks(FIRST_POSITION, 123, records, None)
    expected = [
        StoredRecord(FIRST_POSITION + number, record.origin_id, record.header, record.payload, *record[3:])
        for number, record in enumerate(records)
    ]
    return block, expected


BLOCK, EXPECTED = make_block()


@given(
    edits=st.lists(st.tuples(st.integers(0, 1_000), st.binary(max_size=8), st.integers(0, 8)), max_size=3),
    payload_edits=st.lists(st.tuples(st.integers(0, 110), st.binary(max_size=4), st.integers(0, 4)), max_size=2),
)
@settings(max_examples=600)
def test_an_altered_block_gives_a_record_as_it_was_or_none(
    edits: list[tuple[int, bytes, int]], payload_edits: list[tuple[int, bytes, int]]
) -> None:
    headers, payloads = bytearray(BLOCK.headers), bytearray(BLOCK.payloads)
    for at, replacement, removed in edits:
        headers[at : at + removed] = replacement
    for at, replacement, removed in payload_edits:
        payloads[at : at + removed] = replacement
    reader = BlockReader(FIRST_POSITION, bytes(headers))
    for expected in EXPECTED:
        try:
            assert reader.record(expected.position, bytes(payloads)) == expected
        except StoreCorrupt as error:
            assert bytes(headers) != BLOCK.headers or bytes(payloads) != BLOCK.payloads
            assert error.positions == (expected.position,)


@given(headers=st.binary(max_size=400), payloads=st.binary(max_size=100), position=st.integers(0, 2**64 - 1))
@settings(max_examples=400)
def test_any_bytes_are_no_block(headers: bytes, payloads: bytes, position: int) -> None:
    reader = BlockReader(position, headers)
    for read in (lambda: reader.record(position, payloads), reader.summary, reader.sizes):
        with pytest.raises(StoreCorrupt):
            read()
