"""One segment of the log: a directory with an LMDB environment that holds consecutive blocks and what is said of them.

On disk, format version 2 (recorded in format.json, see store_directory.py; engine pinned to LMDB 0.9, data format 1):

    DIR/segments/<position of its first record, 20 digits>/
        data.mdb, lock.mdb     the environment
        priorities-<table>     see priority_file.py; the table's name as in a URL
    DIR/segments/<...>.new      a segment being made; whoever opens the store for writing removes it
    DIR/segments/<...>.dropped  a segment being removed; likewise
    DIR/spare/                  the segment that was dropped last, see segment_spare.py; likewise

Databases of the environment. Integers in keys are big-endian, so that key order is log order; integers in values are
little-endian. The values of headers and payloads are specified in block.py; gaps have none; every other value ends with
the CRC-32 of its key and itself (checksums.py).

    headers      first position u64 -> entries and headers of a block of consecutive records
    payloads     first position u64 -> the block's payloads
    blocks       first position u64 -> records u32, header bytes u32, payload bytes u64, commit time i64: the index
    marks        position u64 -> RecordMarks, of which only the signals are used
    meta         "segment"  -> JSON: store_id, first_position, link_before (of the record before the first one, hex)
                 "counters" -> JSON of StoreCounters (chain head in hexadecimal)
    origins      origin id u32 -> serialized Origin; ids count from 0, equal origins share one
    runs         actor_id NUL run_id -> u64, the sequence below which everything of the run is stored
    gaps         actor_id NUL run_id NUL sequence u64 -> nothing; sequences stored ahead of that
    tables       table name -> TableState
    quarantines  id u32 -> size of the entry u32, serialized QuarantineEntry, serialized roaring bitmap (64 bit)

The newest segment is the active one. All commits go there, and the databases from meta on are the state of the store;
in older segments they are what it was when the next one was made, but for the origins of their records of no use.

Invariants, true after every commit and therefore after every crash, for a commit is one LMDB transaction:

  1. The segments' blocks cover [first position of the oldest, next_position) without gap or overlap. A segment is named
     by next_position as it was when it was made: the next one, if there is any, has the name that the counters give.
  2. A record is in the log, its sequence is in runs or gaps, and it counts in the counters, or none of the three.
  3. The records below first_position are evicted. Segments that hold no others are removed, oldest first, soon after;
     in the oldest that is left there may be some. So retention is exact to the record, and space lags by a segment.
  4. The counters' chain head is the link of record next_position - 1 (chain.py), or link_before in an empty segment.
  5. A segment named by digits alone is complete: it was synced under its name with .new before it was renamed.
  6. Nothing is changed in an older segment but marks and priorities.

A new segment's file is that of a dropped one, or allocated ahead of its use, which makes syncing it faster and says
that a disk is full before a transaction begins; what is left over is cut when the next segment is made.

Exceptions: StoreFull, StoreCorrupt, StoreFormatError, StoreError (see replay.store).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.block import BlockReader, BlockSummary, EncodedBlock
from replay.broken_environment import BrokenEnvironment
from replay.checksums import with_checksum, without_checksum
from replay.lmdb_environment import (
    EnvironmentOptions,
    LmdbEnvironment,
    Transaction,
)
from replay.lmdb_files import DATA_FILE, allocate, check_size
from replay.segment_state import STATE_DATABASES, read_info, reading_state
from replay.store import StoreCorrupt, StoredRecord, StoreError, StoreFull

DATABASES = (b"headers", b"payloads", b"blocks", b"marks", *STATE_DATABASES)

_SUMMARY = struct.Struct("<IIQq")
_PAGE_BYTES = 4096
_BLOCKS_KNOWN_MAX = 4096
"""Blocks of one segment that are remembered while it is read."""

_PAGES_OF_SMALL_VALUES = 64
"""What a commit may take beside its blocks: a path of pages in each database."""

T = TypeVar("T")


def open_segment(directory: Path, store_id: str, options: EnvironmentOptions) -> Segment:
    """Opens the segment in a directory. Raises StoreCorrupt, StoreFormatError, StoreFull, StoreError."""
    check_size(directory / DATA_FILE)  # a file that is missing is not to be made anew
    environment = LmdbEnvironment(directory, DATABASES, options)
    try:
        with environment.reading() as transaction, reading_state(directory):
            info = read_info(transaction)
        if info[:2] != (store_id, int(directory.name)):
            raise StoreCorrupt(f"{directory} holds the segment at {info.first_position} of store {info.store_id}")
    except BaseException:  # whatever went wrong, the environment is not left open
        environment.close()
        raise
    return Segment(directory, environment, info.link_before)


def damaged_segment(directory: Path, error: StoreError) -> Segment:
    """Stands for a segment that cannot be opened: its records are all damaged, and those of others can be read."""
    return Segment(directory, BrokenEnvironment(error), None)


class Payloads(enum.Enum):
    """What to do about payloads when records are read."""

    NONE = enum.auto()
    COPY = enum.auto()
    LEND = enum.auto()


class Blocks:
    """The blocks of a segment in one read transaction, each looked up once: that costs more than to read a record."""

    __slots__ = ("_headers", "_lock", "_payloads", "_transaction")

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._lock = threading.Lock()
        self._headers: dict[int, BlockReader] = {}
        self._payloads: dict[int, memoryview] = {}

    def block(self, start: int) -> BlockReader:
        """The block that begins at a position. Raises lmdb.Error."""
        reader = self._headers.get(start)
        if reader is None:
            reader = self._headers[start] = BlockReader(start, self._look_up(b"headers", start, self._headers))
        return reader

    def payloads(self, start: int) -> memoryview:
        """The payloads of that block. Raises lmdb.Error."""
        found = self._payloads.get(start)
        if found is None:
            found = self._payloads[start] = self._look_up(b"payloads", start, self._payloads)
        return found

    def _look_up(self, database: bytes, start: int, known: dict[int, Any]) -> memoryview:
        txn, databases = self._transaction
        with self._lock:  # one thread at a time may be in a transaction
            if len(known) >= _BLOCKS_KNOWN_MAX:
                known.clear()
            value: memoryview = txn.get(_key(start), b"", databases[database])
            return value


class _ReadingBlocks:
    """A reading of blocks that nobody else is in."""

    __slots__ = ("_reading",)

    def __init__(self, reading: contextlib.AbstractContextManager[Transaction]) -> None:
        self._reading = reading

    def __enter__(self) -> Blocks:
        return Blocks(self._reading.__enter__())

    def __exit__(self, *raised: Any) -> None:
        self._reading.__exit__(*raised)


class Segment:
    """A segment of a store. Any thread may read; one writes. Close it, or let go of it.

    Args:
      directory: of the segment.
      environment: in it; closed with the segment.
      link_before: of the record before its first one.
    """

    def __init__(
        self, directory: Path, environment: LmdbEnvironment | BrokenEnvironment, link_before: bytes | None
    ) -> None:
        self.directory = directory
        self.first_position = int(directory.name)
        self.environment = environment
        self._link_before = link_before
        self._data_file = directory / DATA_FILE
        self._allocated_bytes = 0

    def reading(self) -> contextlib.AbstractContextManager[Transaction]:
        """A read transaction. Raises EnvironmentClosed, StoreError."""
        return self.environment.reading()

    def write(self, what: str, change: Callable[[Transaction], T]) -> T:
        """Calls `change` in a write transaction (see LmdbEnvironment.write). Raises StoreFull, StoreError."""
        try:
            return self.environment.write(what, change)
        except StoreError as error:
            # A full disk makes a write short, and LMDB says EIO; so does a broken disk.
            if getattr(error.__cause__, "code", 0) == errno.EIO and not self.make_room(_PAGE_BYTES):
                raise StoreFull(f"{what} failed: no space on the disk ({error}); nothing was stored") from error
            raise

    def make_room(self, needed_bytes: int, ahead_bytes: int = 0) -> bool:
        """Allocates disk space beyond what is used, and some more ahead; returns whether there is what is needed."""
        wanted = self.environment.used_bytes() + needed_bytes
        self._allocated_bytes = self._allocated_bytes or self._data_file.stat().st_size
        if wanted <= self._allocated_bytes:
            return True
        for size in (wanted + ahead_bytes, wanted):
            with contextlib.suppress(OSError):
                allocate(self._data_file, self._allocated_bytes, size)
                self._allocated_bytes = size
                return True
        return False

    def cut(self) -> None:
        """Gives back the space allocated beyond what is used."""
        with contextlib.suppress(OSError, StoreError):  # then it is kept, until the segment is dropped
            used = self.environment.used_bytes()
            if self._data_file.stat().st_size > used:
                os.truncate(self._data_file, used)
            self._allocated_bytes = used

    def reading_blocks(self, *, sealed: bool) -> contextlib.AbstractContextManager[Blocks]:
        """Its blocks; where it is sealed, in a transaction that is shared with other readings, before and after.

        Raises EnvironmentClosed, StoreError.
        """
        if sealed:
            return self.environment.reading_kept(Blocks)
        return _ReadingBlocks(self.environment.reading())

    def collect(
        self,
        source: Blocks,
        blocks: Mapping[int, Sequence[int]],
        payloads: Payloads,
        found: dict[int, StoredRecord],
        damage: dict[int, str],
    ) -> None:
        """Reads records, and what is wrong with those that are damaged, by position.

        Args:
          source: the blocks of this segment.
          blocks: positions wanted, by the first position of their block.
          payloads: what to do about them.
          found: records are added here.
          damage: descriptions are added here.
        """
        with_payload, lend = payloads is not Payloads.NONE, payloads is Payloads.LEND
        for start, positions in blocks.items():
            try:
                reader = source.block(start)
                data = source.payloads(start) if with_payload else None
            except (StoreCorrupt, lmdb.Error) as error:
                damage.update(dict.fromkeys(positions, f"the block at position {start} cannot be read: {error}"))
                continue
            for position in positions:
                try:
                    found[position] = reader.record(position, data, lend)
                except StoreCorrupt as error:
                    damage[position] = str(error)

    def sizes(self, start: int) -> NDArray[np.void]:
        """See BlockReader.sizes: of the records in the block that begins at `start`. Raises StoreError."""
        with self.reading() as transaction:
            return _block(transaction, start).sizes().copy()

    def link_before(self, position: int, start: int) -> bytes | None:
        """Link of the record before `position`, which begins this segment, or follows one of the block at `start`.

        Raises StoreCorrupt, StoreError.
        """
        if position == self.first_position:
            return self._link_before
        with self.reading() as transaction:
            return _block(transaction, start).record(position - 1, None).chain

    def close(self) -> None:
        """Waits for what is being read, and closes it. A second call does nothing."""
        self.environment.close()

    def let_go(self) -> None:
        """Closes it without waiting: what is being read can be read to its end."""
        self.environment.let_go()


def put_blocks(transaction: Transaction, blocks: Sequence[EncodedBlock], *, continued: bool) -> None:
    """Writes blocks at the new end; the first takes the place of the last one there if it is that, `continued`."""
    keys = [_key(block.summary.first_position) for block in blocks]
    values = {
        b"headers": [block.headers for block in blocks],
        b"payloads": [block.payloads for block in blocks],
        b"blocks": [
            with_checksum(key, _SUMMARY.pack(*block.summary[1:])) for key, block in zip(keys, blocks, strict=True)
        ],
    }
    for name, of_name in values.items():
        items = list(zip(keys, of_name, strict=True))
        if continued:
            transaction.txn.put(*items.pop(0), db=transaction.databases[name])
        # One call for all: every call into LMDB lets other threads take the interpreter lock.
        transaction.txn.cursor(transaction.databases[name]).putmulti(items, append=True)


def read_summaries(transaction: Transaction, from_position: int = 0) -> list[BlockSummary]:
    """The index of its blocks that begin at `from_position` or later; made anew where it is damaged."""
    cursor = transaction.txn.cursor(transaction.databases[b"blocks"])
    found: list[BlockSummary] = []
    if cursor.set_range(_key(from_position)):
        for name, value in cursor.iternext():
            key = bytes(name)
            try:
                fields = _SUMMARY.unpack(without_checksum(key, value))
            except (ValueError, struct.error):
                found.append(_summary_again(transaction, int.from_bytes(key, "big")))
            else:
                found.append(BlockSummary(int.from_bytes(key, "big"), *fields))
    return found


def read_signals(transaction: Transaction, positions: Sequence[int]) -> dict[int, dict[str, float]]:
    """Signals written about records. Raises StoreCorrupt, lmdb.Error."""
    txn, databases = transaction
    database = databases[b"marks"]
    if not txn.stat(database)["entries"]:
        return {}
    found = {}
    for position in positions:
        key = _key(position)
        value = txn.get(key, None, database)
        if value is not None:
            with reading_state(f"the mark of position {position}"):
                found[position] = dict(common_pb2.RecordMarks.FromString(without_checksum(key, value)).signals)
    return found


def put_signals(transaction: Transaction, signals: Mapping[int, Mapping[str, float]]) -> None:
    """Writes signals about records, over those there of the same names. Raises StoreCorrupt."""
    before = read_signals(transaction, list(signals))
    items = []
    for position, of_record in sorted(signals.items()):
        if of_record:
            marks = common_pb2.RecordMarks(signals={**before.get(position, {}), **of_record})
            items.append((_key(position), with_checksum(_key(position), marks.SerializeToString(deterministic=True))))
    if items:
        transaction.txn.cursor(transaction.databases[b"marks"]).putmulti(items)


def commit_bytes(blocks: Sequence[EncodedBlock], small_values: int) -> int:
    """Most disk space that a commit of blocks, and of so many other values, takes beyond what is used (bytes)."""
    # Each large value has whole pages of its own, with a page header; each small one may split a page.
    pages = sum((len(value) + 16) // _PAGE_BYTES + 1 for block in blocks for value in block[:2])
    return _PAGE_BYTES * (pages + len(blocks) + small_values + _PAGES_OF_SMALL_VALUES)


def _key(position: int) -> bytes:
    return position.to_bytes(8, "big")


def _block(transaction: Transaction, start: int) -> BlockReader:
    return BlockReader(start, transaction.txn.get(_key(start), b"", transaction.databases[b"headers"]))


def _summary_again(transaction: Transaction, start: int) -> BlockSummary:
    try:
        return _block(transaction, start).summary()
    except StoreCorrupt:
        return BlockSummary(start, 0, 0, 0, 0)  # whoever reads the block will be told
