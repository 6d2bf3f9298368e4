"""How a payload's bytes stand for its columns: as they are, or as one zstd frame.

Whether to compress is the writer's choice, record by record: frames of pixels shrink many times over, and with them the
work of everybody on their way; a few floats do not. What is stored, digested and sent is the encoded payload; only who
needs the columns decodes it. A frame must say how large its content is, and that must be what the schema requires, so
that no frame can make a reader allocate more than its record's columns take; nor may it be much larger itself.

Exceptions: EncodingError (a ValueError) for bytes that are not what their encoding says.
"""

from __future__ import annotations

import threading

from protos.common.v1 import common_pb2

RAW = common_pb2.PAYLOAD_ENCODING_RAW
ZSTD = common_pb2.PAYLOAD_ENCODING_ZSTD

ENCODINGS = {"none": RAW, "zstd": ZSTD}
"""By the names that settings use."""

_LEVEL = 1
"""The fastest regular level: what more would save is not worth an actor's time."""

_codecs = threading.local()


class EncodingError(ValueError):
    """Bytes are not what their encoding says; the message gives the sizes."""


def encode_payload(raw: bytes, encoding: common_pb2.PayloadEncoding) -> bytes:
    """The payload's bytes in an encoding. Raises EncodingError for one that is not known."""
    if encoding == RAW:
        return raw
    _check_known(encoding)
    import zstandard  # noqa: PLC0415  most actors never compress

    if not hasattr(_codecs, "compressor"):
        _codecs.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    encoded: bytes = _codecs.compressor.compress(raw)
    return encoded


def encoded_bytes_max(raw_bytes: int) -> int:
    """Size of the largest payload in any encoding that so many bytes of columns ever need (bytes)."""
    return raw_bytes + raw_bytes // 128 + 256  # twice what a zstd frame of what does not shrink adds


def content_bytes(payload: bytes | memoryview, encoding: common_pb2.PayloadEncoding) -> int:
    """Size of the columns that a payload stands for (bytes), by its frame header: nothing is decompressed.

    Raises EncodingError for an encoding that is not known, and for bytes that do not begin as a frame with its size.
    """
    if encoding == RAW:
        return len(payload)
    _check_known(encoding)
    import zstandard  # noqa: PLC0415

    try:
        size: int = zstandard.frame_content_size(payload)
    except zstandard.ZstdError as error:
        raise EncodingError(f"a payload of {len(payload)} bytes is no zstd frame: {error}") from error
    if size < 0:
        raise EncodingError(
            f"the zstd frame of a payload of {len(payload)} bytes does not say how large its content is"
        )
    return size


def decode_payload(
    payload: bytes | memoryview, encoding: common_pb2.PayloadEncoding, raw_bytes: int
) -> bytes | memoryview:
    """The columns' bytes, exactly `raw_bytes` of them. Raises EncodingError where there are more, fewer, or none."""
    if encoding == RAW:
        return payload
    found = content_bytes(payload, encoding)
    if found != raw_bytes:
        raise EncodingError(f"a payload stands for {found} bytes, the schema requires {raw_bytes}")
    import zstandard  # noqa: PLC0415

    if not hasattr(_codecs, "decompressor"):
        _codecs.decompressor = zstandard.ZstdDecompressor()
    try:
        raw: bytes = _codecs.decompressor.decompress(payload, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise EncodingError(f"a payload of {len(payload)} bytes cannot be decompressed: {error}") from error
    if len(raw) != raw_bytes:
        raise EncodingError(f"a payload decompressed to {len(raw)} bytes, the schema requires {raw_bytes}")
    return raw


def _check_known(encoding: int) -> None:
    if encoding not in ENCODINGS.values():
        known = ", ".join(f"{value} ({name})" for name, value in ENCODINGS.items())
        raise EncodingError(f"payload encoding {encoding} is not known; known are {known}")
