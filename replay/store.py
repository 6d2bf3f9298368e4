"""What a store of trajectories is: its interface, the values that cross it, and its exceptions.

A store is an append-only log of records with positions 0, 1, 2, ... that are never reused. It deduplicates by
(actor_id, run_id, sequence), evicts from the old end only, and keeps beside the log what changes: the states of tables,
signals written about records later (marks), priorities, and quarantines. A record itself never changes. `commit` is all
or nothing. Implementations: memory_store.MemoryStore and lmdb_store.LmdbStore; `store_contract` is the test that
each of them runs; reader.StoreReader is the reading half for other processes. A store knows neither tables' policies,
nor limiters, nor the wire.

Exceptions:
    StoreError            a store cannot do what was asked
      StoreFull           no space to write: nothing of the commit is stored, reading goes on
      StoreCorrupt        what was read is not what was written; `positions` says which records
      StoreFormatError    the directory was written in another format
      StoreBusy           the directory is open already
    RecordInvalid         a record breaks the contract of common.proto (a ValueError)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2

SEQUENCE_LEAD_MAX = 65_536
"""How far a sequence may lie ahead of the next one expected of its run: bounds what is kept about gaps."""

CHAIN_START = bytes(32)
"""Head of the hash chain of an empty store."""


class StoreError(Exception):
    """A store cannot do what was asked."""


class StoreFull(StoreError):
    """No space to write. Nothing of the commit is stored; reading goes on."""


class StoreCorrupt(StoreError):
    """What was read is not what was written; the message names the position."""

    def __init__(self, message: str, positions: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.positions = positions
        """The records that are damaged, where it is known which."""


class StoreFormatError(StoreError):
    """The directory was written in another format, or is none of a store's."""


class StoreBusy(StoreError):
    """The directory is open already, here or in another process."""


class RecordInvalid(ValueError):
    """A record or its origin breaks the contract; the message names value, bound and consequence."""


class PendingRecord(NamedTuple):
    """A validated record on its way into a store."""

    sequence: int
    steps: int
    header: bytes
    """Serialized RecordHeader, exactly as it will be stored."""
    payload: bytes
    payload_digest: bytes
    signals: Mapping[str, float]


class Append(NamedTuple):
    """Records of one actor run to be committed together, in ascending sequence."""

    run: bytes
    """`run_key` of the origin."""
    origin: bytes
    """Serialized Origin."""
    origin_digest: bytes
    records: Sequence[PendingRecord]
    acknowledged_below: int = 0
    """Sequences below it are never sent again: the run's watermark is raised to it if it is lower (async stores)."""


class AppendOutcome(NamedTuple):
    """What became of an Append: how many records were new, how many stored before, or why none was taken."""

    inserted: int
    duplicates: int
    refusal: RecordInvalid | None = None
    first_position: int = -1
    """The new records lie at consecutive positions from here on; -1 where there are none."""
    indices: Sequence[int] = ()
    """Which of the append's records were new, in order."""
    origin_id: int = -1
    """Under which the origin is interned; -1 where nothing was new."""


class StoredRecord(NamedTuple):
    """A record read back, its payload checked against its digest. Header and chain are as they were stored."""

    position: int
    origin_id: int
    header_bytes: bytes
    payload: bytes | memoryview
    """Empty where it was not asked for; a memoryview only inside `lend`."""
    payload_digest: bytes
    chain: bytes

    @property
    def header(self) -> common_pb2.RecordHeader:
        """The header, parsed anew at every call. Raises google.protobuf.message.DecodeError."""
        return common_pb2.RecordHeader.FromString(self.header_bytes)


@dataclass(frozen=True, slots=True)
class StoreCounters:
    """The numbers of a store after a commit."""

    first_position: int = 0
    next_position: int = 0
    payload_bytes: int = 0
    appended_steps: int = 0
    duplicate_records: int = 0
    chain_head: bytes = CHAIN_START
    signal_totals: Mapping[str, float] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Records in the store now."""
        return self.next_position - self.first_position


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What a store needs to know; may differ from those of earlier openings. How much to keep is each commit's matter.

    Durability of an LmdbStore (lmdb_store.py):
      "sync": a commit is on disk when it returns: neither a crash of the process nor one of the machine undoes it.
      "async": a crash of the process undoes nothing; a crash of the machine may undo the last commit, or those of the
        last async_ms_max, whichever is less. What is left is whole: nothing is ever corrupted or torn.
    """

    signal_names: tuple[str, ...] = ()
    """Header signals to total; "lease.*" means every one that begins with "lease.", see commit_plan.py."""
    segment_bytes: int = 64 * 1024**2
    """Size of a segment of the log (bytes, headers and payloads); less in a small store, more in a very large one."""
    segment_records: int = 1_000_000
    """Most records of a segment, but for the last commit to it."""
    durability: Literal["sync", "async"] = "sync"
    """What "durably" means."""
    async_ms_max: float = 200.0
    """Durability "async": longest time until a commit is on disk, provided that somebody heeds `sync_due_s` (ms)."""


class StoreSizes(NamedTuple):
    """Disk space taken (bytes), bytes of the records in the store (headers and payloads), and segments of the log."""

    file_bytes: int
    live_bytes: int
    segments: int


class Quarantine(NamedTuple):
    """One quarantine, and the records that it took out of use (those evicted since may be missing)."""

    entry: replay_pb2.QuarantineEntry
    positions: BitMap64


class StoreView(Protocol):
    """The reading half of a store. Any thread may read while one thread commits."""

    def counters(self) -> StoreCounters:
        """The numbers after the newest commit."""
        ...

    def tables(self) -> Mapping[str, replay_pb2.TableState]:
        """The table states committed last, by table name. Not to be changed by the caller."""
        ...

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        """The records at these positions, in this order, without those not in the store.

        Raises:
          StoreCorrupt: some are damaged; `positions` of the exception names them, so that a caller can do without.
        """
        ...

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        """Like `read`, with empty payloads, which are neither read nor checked."""
        ...

    def lend(self, positions: Sequence[int]) -> AbstractContextManager[list[StoredRecord]]:
        """Like `read`, but payloads are memoryviews into the store's own memory, valid inside the context only.

        Keep it to milliseconds: what is lent out cannot be reused.
        """
        ...

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """The interned origin that a StoredRecord names. Raises StoreCorrupt for an id never given out."""
        ...

    def marks(self, positions: Sequence[int]) -> dict[int, common_pb2.RecordMarks]:
        """What was found out about these records later, quarantine included; those without any are left out.

        Raises:
          StoreCorrupt: some of the marks are damaged; `positions` of the exception names whose.
        """
        ...

    def quarantines(self) -> Sequence[Quarantine]:
        """Every quarantine, ascending by id, lifted ones included."""
        ...

    def quarantined(self) -> BitMap64:
        """Positions under a quarantine that is in force. Not to be changed by the caller; replaced, never mutated."""
        ...

    def priorities(self, table: str) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float64]]]:
        """Priorities put for a table: (positions [n], priorities [n]), ascending, without those of evicted records."""
        ...

    def window(self, records_max: int, payload_bytes_max: int, newer_than_ns: int) -> int:
        """First position of the newest records that keep to all three bounds; 0 for a bound: none.

        Exact in records; in bytes and in time (of commit, ns since the epoch) it may keep up to one block of the log
        less than it could, never more.
        """
        ...

    def link_before(self, position: int) -> bytes | None:
        """Link in the hash chain of the record before `position`, evicted or not; None where it is not known any more.

        Known for `first_position` and everything after it.
        """
        ...

    def sizes(self) -> StoreSizes:
        """What it takes up."""
        ...

    def close(self) -> None:
        """Releases everything. A second call does nothing."""
        ...


class Store(StoreView, Protocol):
    """The whole interface. All writing calls come from one thread."""

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        """Stores new records, table states, counters and the chain head together, durably; then evicts.

        Args:
          appends: in the order in which they arrived.
          tables: states to store; those of other tables stay.
          retain_from: records below this position are evicted: no longer readable when this returns. (At most the
            position up to which the log is committed before this call.) Disk space follows by whole segments.

        Returns one outcome for each append, in order. Raises StoreFull or StoreError with nothing changed.
        """
        ...

    def drop_table(self, name: str) -> None:
        """Forgets a table's state and priorities, durably."""
        ...

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """Writes signals about records, durably, and returns how many of the positions are in the store.

        Signals under other names stay. All of one segment's or none; not all or nothing over segments: call it again
        after a failure, which changes nothing that was written. Raises StoreFull, StoreError.
        """
        ...

    def quarantine(self, entry: replay_pb2.QuarantineEntry, positions: BitMap64) -> replay_pb2.QuarantineEntry:
        """Takes records out of use, durably and all at once; returns the entry with its id and its count."""
        ...

    def lift_quarantine(self, quarantine_id: int, why: str, time_ns: int) -> replay_pb2.QuarantineEntry:
        """Ends a quarantine. Raises KeyError for an id never given, or one that was lifted."""
        ...

    def put_priorities(self, table: str, positions: NDArray[np.uint64], priorities: NDArray[np.float64]) -> None:
        """Stores priorities [n] of records at positions [n], ascending; those not in the store are passed over."""
        ...

    def sync_due_s(self) -> float | None:
        """When `sync` is due (s, of time.monotonic), or None while everything is as durable as it is meant to be."""
        ...

    def sync(self) -> None:
        """Makes every commit so far durable. Raises StoreError."""
        ...

    def next_sequence(self, run: bytes) -> int:
        """The sequence below which every record of the run has been stored (evicted ones included)."""
        ...


def run_key(origin: common_pb2.Origin) -> bytes:
    """Key of an actor run: its ids, which hold no NUL, joined by one."""
    return origin.actor_id.encode() + b"\0" + origin.run_id.encode()


def origin_digest(origin: common_pb2.Origin) -> bytes:
    """SHA-256 of the deterministic serialization: equal origins are stored once."""
    return hashlib.sha256(origin.SerializeToString(deterministic=True)).digest()
