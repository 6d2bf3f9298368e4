"""Encoded payloads: they give the columns back, and no frame can make a reader allocate more than the schema says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.payload_encoding import (
    RAW,
    ZSTD,
    EncodingError,
    content_bytes,
    decode_payload,
    encode_payload,
    encoded_bytes_max,
)
from replay.schema import PayloadLayout, SchemaError, schema_of

FRAMES = np.zeros((4, 20, 20), np.uint8)
COLUMNS: dict[str, NDArray[Any]] = {"observation": FRAMES, "reward": np.arange(3, dtype=np.float32)}
LAYOUT = PayloadLayout(schema_of(COLUMNS, 3))


@given(st.binary(max_size=400), st.sampled_from([RAW, ZSTD]))
def test_what_was_encoded_comes_out_again(raw: bytes, encoding: common_pb2.PayloadEncoding) -> None:
    payload = encode_payload(raw, encoding)
    assert content_bytes(payload, encoding) == len(raw)
    assert bytes(decode_payload(payload, encoding, len(raw))) == raw


def test_frames_shrink() -> None:
    assert len(LAYOUT.encode(COLUMNS, ZSTD)) < len(LAYOUT.encode(COLUMNS)) / 10


def test_a_batch_may_mix_encodings() -> None:
    raw, small = LAYOUT.encode(COLUMNS), LAYOUT.encode(COLUMNS, ZSTD)
    batch = LAYOUT.decode_batch([raw, small], 3, [RAW, ZSTD])
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(batch[name][:, 0], column)
        np.testing.assert_array_equal(batch[name][:, 1], column)


def test_large_payloads_are_stacked_as_small_ones_are() -> None:
    generator = np.random.default_rng(3)
    columns = [
        {
            "observation": generator.integers(0, 255, (6, 90, 90), np.uint8),
            "action": generator.integers(0, 4, 5, np.int32),
            "mask": generator.random(5) < 0.5,
        }
        for _ in range(3)
    ]
    layout = PayloadLayout(schema_of(columns[0], 5))
    batch = layout.decode_batch([memoryview(layout.encode(each)) for each in columns], 5)
    for name, first in columns[0].items():
        assert batch[name].dtype == first.dtype
        assert batch[name].flags.c_contiguous
        np.testing.assert_array_equal(batch[name], np.stack([each[name] for each in columns], axis=1))


def test_a_frame_of_another_size_is_refused_before_it_is_opened() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    with pytest.raises(EncodingError, match="stands for 50000000 bytes, the schema requires 1612"):
        decode_payload(bomb, ZSTD, LAYOUT.payload_bytes(3))
    with pytest.raises(SchemaError, match="50000000"):
        LAYOUT.check_payload(bomb, 3, ZSTD)


def test_a_frame_that_is_larger_than_its_content_ever_needs_is_refused() -> None:
    """Or records that look small could fill the memory of whoever reads many of them."""
    frame = LAYOUT.encode(COLUMNS, ZSTD)
    with pytest.raises(SchemaError, match=r"has 1000\d\d bytes and stands for 1612: at most 1880 may be"):
        LAYOUT.check_payload(frame + bytes(100_000), 3, ZSTD)


@given(st.integers(0, 300_000), st.integers(0, 2**32))
def test_what_does_not_shrink_is_never_refused_for_its_size(size: int, seed: int) -> None:
    raw = np.random.default_rng(seed).bytes(size)
    assert len(encode_payload(raw, ZSTD)) <= encoded_bytes_max(size)


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(EncodingError, match="does not say how large"):
        content_bytes(unsized, ZSTD)


@pytest.mark.parametrize("payload", [b"", b"not a frame at all", b"\x28\xb5\x2f\xfd"])
def test_what_is_no_frame_is_refused(payload: bytes) -> None:
    with pytest.raises(EncodingError):
        decode_payload(payload, ZSTD, 10)


def test_a_truncated_or_prolonged_frame_is_refused() -> None:
    payload = LAYOUT.encode({**COLUMNS, "reward": np.random.default_rng(0).random(3).astype(np.float32)}, ZSTD)
    for altered in (payload[:-1], payload + b"x"):
        with pytest.raises(SchemaError):
            LAYOUT.decode(altered, 3, ZSTD)


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(EncodingError, match=r"encoding 7 is not known; known are 0 \(none\), 1 \(zstd\)"):
        decode_payload(b"", 7, 0)  # type: ignore[arg-type]
