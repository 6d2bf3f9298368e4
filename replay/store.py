"""What a store of trajectories is: its interface, the values that cross it, and its exceptions.

A store is an append-only log of records with positions 0, 1, 2, ... that are never reused. It deduplicates by
(actor_id, run_id, sequence), evicts from the old end only, and keeps a few counters with it. `commit` is all or
nothing. Implementations: memory_store.MemoryStore and lmdb_store.LmdbStore; `testing.StoreContract` is the test that
each of them runs. A store knows neither tables' policies, nor limiters, nor the wire.

Exceptions:
    StoreError            a store cannot do what was asked
      StoreFull           no space to write: nothing of the commit is stored, reading goes on
      StoreCorrupt        what was read is not what was written
      StoreFormatError    the directory was written in another format
      StoreBusy           the directory is open already
    RecordInvalid         a record breaks the contract of common.proto (a ValueError)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from protos.common.v1 import common_pb2

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


class AppendOutcome(NamedTuple):
    """What became of an Append: how many records were new, how many stored before, or why none was taken."""

    inserted: int
    duplicates: int
    refusal: RecordInvalid | None = None


class TableState(NamedTuple):
    """What a table must never forget: the first position not consumed (FIFO tables), and records ever drawn."""

    cursor: int = 0
    samples: int = 0


class StoredRecord(NamedTuple):
    """A record read back, its payload checked against its digest. Header and chain are as they were stored."""

    position: int
    origin_id: int
    header: common_pb2.RecordHeader
    header_bytes: bytes
    payload: bytes
    chain: bytes


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
    """What every store needs to know: how much to keep, and which signals to total."""

    records_max: int
    payload_bytes_max: int
    signal_names: tuple[str, ...] = ()


class Store(Protocol):
    """The interface. One thread commits, any thread may read meanwhile."""

    def commit(self, appends: Sequence[Append], tables: Mapping[str, TableState]) -> list[AppendOutcome]:
        """Stores new records, table states, counters and the chain head together, durably; then evicts.

        Returns one outcome for each append, in order. Raises StoreFull or StoreError with nothing changed.
        """
        ...

    def counters(self) -> StoreCounters:
        """The numbers after the newest commit."""
        ...

    def tables(self) -> Mapping[str, TableState]:
        """The table states committed last, by table name."""
        ...

    def next_sequence(self, run: bytes) -> int:
        """The sequence below which every record of the run has been stored (evicted ones included)."""
        ...

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        """The records at these positions, in this order, without those not in the store. Raises StoreCorrupt."""
        ...

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        """Like `read`, with empty payloads, which are neither read nor checked."""
        ...

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """The interned origin that a StoredRecord names. Raises StoreCorrupt for an id never given out."""
        ...

    def sizes(self) -> tuple[int, int]:
        """Bytes of the data file, and of the pages in use in it."""
        ...

    def close(self) -> None:
        """Releases everything. A second call does nothing."""
        ...


def run_key(origin: common_pb2.Origin) -> bytes:
    """Key of an actor run: its ids, which hold no NUL, joined by one."""
    return origin.actor_id.encode() + b"\0" + origin.run_id.encode()


def origin_digest(origin: common_pb2.Origin) -> bytes:
    """SHA-256 of the deterministic serialization: equal origins are stored once."""
    return hashlib.sha256(origin.SerializeToString(deterministic=True)).digest()
