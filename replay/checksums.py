"""Checksums of the small values of a store: each value ends with the CRC-32 of its key and itself.

LMDB checks nothing that it reads. Blocks carry checksums of their own (block.py).

Exceptions: ValueError for a value that does not match.
"""

from __future__ import annotations

from zlib import crc32

_BYTES = 4


def with_checksum(key: bytes, value: bytes) -> bytes:
    """The value as it is stored under `key`."""
    return value + crc32(value, crc32(key)).to_bytes(_BYTES, "little")


def without_checksum(key: bytes, stored: bytes | memoryview) -> bytes:
    """The value that was given to `with_checksum`. Raises ValueError."""
    value, checksum = bytes(stored[:-_BYTES]), bytes(stored[-_BYTES:])
    if crc32(value, crc32(key)).to_bytes(_BYTES, "little") != checksum:
        raise ValueError(f"the value of {len(stored)} bytes under {key!r} does not match its checksum")
    return value
