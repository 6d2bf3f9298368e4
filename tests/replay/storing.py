"""Durable stores of small segments for tests, and ways to damage them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from protos.common.v1 import common_pb2
from replay.lmdb_environment import MAP_BYTES
from replay.lmdb_store import LmdbStore
from replay.segment_files import SEGMENTS
from replay.store import StoreSettings
from replay.testing import make_append, make_origin

SMALL = StoreSettings(("steps",), segment_records=8)
LARGE = StoreSettings(("steps",))


@contextlib.contextmanager
def opened(directory: Path, settings: StoreSettings = SMALL, map_bytes: int = MAP_BYTES) -> Iterator[LmdbStore]:
    store = LmdbStore(directory, settings, map_bytes=map_bytes)
    try:
        yield store
    finally:
        store.close()


def append(
    store: LmdbStore,
    start: int,
    end: int,
    step: int = 4,
    retain: int = 0,
    origin: common_pb2.Origin | None = None,
    steps: int = 2,
) -> None:
    """Commits the sequences [start, end) of one run, `step` at a time, keeping the newest `retain` records (0: all)."""
    for first in range(start, end, step):
        made = make_append(origin or make_origin(), range(first, min(first + step, end)), steps=steps)
        store.commit([made], {}, retain_from=max(0, store.counters().next_position - retain) if retain else 0)


def segment_paths(directory: Path) -> list[Path]:
    return sorted((directory / SEGMENTS).iterdir())


def overwrite(file: Path, found: bytes, replacement: bytes) -> None:
    """Puts bytes in the place of others of the same length, wherever they stand: LMDB leaves old copies of pages."""
    data = file.read_bytes()
    assert found in data
    assert len(found) == len(replacement)
    file.write_bytes(data.replace(found, replacement))


def flip(file: Path, found: bytes) -> None:
    """Changes a bit of these bytes."""
    overwrite(file, found, bytes([found[0] ^ 1]) + found[1:])
