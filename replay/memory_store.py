"""A store in memory: the same contract as the durable one, for tests and for runs that need no durability.

"Committed" means "in this process's memory" here: everything is lost when it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.block import BlockSummary
from replay.block_index import BlockIndex
from replay.commit_plan import plan_commit
from replay.quarantines import Quarantines
from replay.sequences import RunSequences
from replay.store import (
    CHAIN_START,
    Append,
    AppendOutcome,
    Quarantine,
    StoreCorrupt,
    StoreCounters,
    StoredRecord,
    StoreSettings,
    StoreSizes,
)


class _Row(NamedTuple):
    origin_id: int
    header: bytes
    payload: bytes
    payload_digest: bytes
    chain: bytes


class MemoryStore:
    """A Store whose commits last as long as the process. Thread-safe. Of the settings it heeds the signals' names."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = dataclasses.replace(settings, durability="sync")
        self._lock = threading.Lock()
        self._counters = StoreCounters()
        self._rows: dict[int, _Row] = {}
        self._index = BlockIndex()
        """Each record is a block here."""
        self._runs: dict[bytes, RunSequences] = {}
        self._tables: dict[str, replay_pb2.TableState] = {}
        self._origins: list[bytes] = []
        self._origin_ids: dict[bytes, int] = {}
        self._signals: dict[int, dict[str, float]] = {}
        self._priorities: dict[str, dict[int, float]] = {}
        self._quarantines = Quarantines()
        self._link_before_first = CHAIN_START
        self._commit_time_ns = 0

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        """See Store.commit; never full, never fails."""
        with self._lock:
            before = self._counters
            plan = plan_commit(appends, before, self._sequences, self._origin_ids, self._settings)
            # As in the durable store: a clock that jumps back makes no record older than the one before it.
            self._commit_time_ns = max(self._commit_time_ns, time.time_ns())
            rows = []
            for position, (origin_id, record, chain) in enumerate(plan.records, plan.first_position):
                self._rows[position] = _Row(origin_id, record.header, record.payload, record.payload_digest, chain)
                sizes = len(record.header), len(record.payload)
                rows.append(BlockSummary(position, 1, *sizes, self._commit_time_ns))
            self._index.extend(rows)
            for digest, origin in plan.origins.items():
                self._origin_ids[digest] = len(self._origins)
                self._origins.append(origin)
            self._runs.update(plan.runs)
            self._tables = {**self._tables, **{name: _copied(state) for name, state in tables.items()}}
            self._counters = self._evict(plan.counters, min(retain_from, before.next_position))
            return plan.outcomes

    def counters(self) -> StoreCounters:
        """See StoreView.counters."""
        return self._counters

    def tables(self) -> Mapping[str, replay_pb2.TableState]:
        """See StoreView.tables."""
        return self._tables

    def sync_due_s(self) -> float | None:
        """See Store.sync_due_s: never."""
        return None

    def sync(self) -> None:
        """See Store.sync: nothing here outlives the process."""

    def next_sequence(self, run: bytes) -> int:
        """See Store.next_sequence."""
        return self._sequences(run).next

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See StoreView.read."""
        found = self._found(positions)
        damaged = [position for position, row in found if hashlib.sha256(row.payload).digest() != row.payload_digest]
        if damaged:
            raise StoreCorrupt(f"the payload at position {damaged[0]} does not match its digest", damaged)
        return [_stored(position, row, row.payload) for position, row in found]

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See StoreView.read_headers."""
        return [_stored(position, row, b"") for position, row in self._found(positions)]

    @contextlib.contextmanager
    def lend(self, positions: Sequence[int]) -> Iterator[list[StoredRecord]]:
        """See StoreView.lend."""
        views = [record._replace(payload=memoryview(record.payload)) for record in self.read(positions)]
        yield views

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """See StoreView.origin."""
        if not 0 <= origin_id < len(self._origins):
            raise StoreCorrupt(f"origin {origin_id} was never stored; there are {len(self._origins)}")
        return common_pb2.Origin.FromString(self._origins[origin_id])

    def marks(self, positions: Sequence[int]) -> dict[int, common_pb2.RecordMarks]:
        """See StoreView.marks."""
        with self._lock:
            there = [position for position in positions if position in self._rows]
            found = {position: self._signals[position] for position in there if position in self._signals}
            return self._quarantines.marks(there, found)

    def quarantines(self) -> Sequence[Quarantine]:
        """See StoreView.quarantines."""
        return self._quarantines.all()

    def quarantined(self) -> BitMap64:
        """See StoreView.quarantined."""
        return self._quarantines.in_force()

    def priorities(self, table: str) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float64]]]:
        """See StoreView.priorities."""
        with self._lock:
            pairs = sorted(self._priorities.get(table, {}).items())
        if pairs:
            yield np.array([pair[0] for pair in pairs], np.uint64), np.array([pair[1] for pair in pairs], np.float64)

    def window(self, records_max: int, payload_bytes_max: int, newer_than_ns: int) -> int:
        """See StoreView.window; exact in everything."""
        return self._index.view.window(self._counters, records_max, payload_bytes_max, newer_than_ns)

    def link_before(self, position: int) -> bytes | None:
        """See StoreView.link_before."""
        with self._lock:
            if position == self._counters.first_position:
                return self._link_before_first
            return self._rows[position - 1].chain if position - 1 in self._rows else None

    def sizes(self) -> StoreSizes:
        """Bytes of the records, twice: there is no file, and nothing is unused."""
        view = self._index.view
        live_bytes = view.bytes - int(view.bytes_before[0]) if len(view.starts) else 0
        return StoreSizes(live_bytes, live_bytes, 0)

    def drop_table(self, name: str) -> None:
        """See Store.drop_table."""
        with self._lock:
            self._tables = {other: state for other, state in self._tables.items() if other != name}
            self._priorities.pop(name, None)

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See Store.annotate."""
        with self._lock:
            there = [position for position in signals if position in self._rows]
            for position in there:
                if signals[position]:
                    self._signals.setdefault(position, {}).update(signals[position])
            return len(there)

    def quarantine(self, entry: replay_pb2.QuarantineEntry, positions: BitMap64) -> replay_pb2.QuarantineEntry:
        """See Store.quarantine."""
        with self._lock:
            counters = self._counters
            new = self._quarantines.planned(entry, positions, counters.first_position, counters.next_position)
            self._quarantines = self._quarantines.with_one(new)
            return _copied_entry(new.entry)

    def lift_quarantine(self, quarantine_id: int, why: str, time_ns: int) -> replay_pb2.QuarantineEntry:
        """See Store.lift_quarantine."""
        with self._lock:
            lifted = self._quarantines.planned_lift(quarantine_id, why, time_ns)
            self._quarantines = self._quarantines.with_one(lifted)
            return _copied_entry(lifted.entry)

    def put_priorities(self, table: str, positions: NDArray[np.uint64], priorities: NDArray[np.float64]) -> None:
        """See Store.put_priorities."""
        with self._lock:
            of_table = self._priorities.setdefault(table, {})
            pairs = zip(positions.tolist(), priorities.tolist(), strict=True)
            of_table.update((position, priority) for position, priority in pairs if position in self._rows)

    def close(self) -> None:
        """See StoreView.close."""

    def _sequences(self, run: bytes) -> RunSequences:
        return self._runs.get(run) or RunSequences()

    def _found(self, positions: Sequence[int]) -> list[tuple[int, _Row]]:
        with self._lock:
            return [(position, self._rows[position]) for position in positions if position in self._rows]

    def _evict(self, counters: StoreCounters, retain_from: int) -> StoreCounters:
        payload_bytes = counters.payload_bytes
        for position in range(counters.first_position, retain_from):
            row = self._rows.pop(position)
            payload_bytes -= len(row.payload)
            self._link_before_first = row.chain
            self._signals.pop(position, None)
            for of_table in self._priorities.values():
                of_table.pop(position, None)
        first_position = max(counters.first_position, retain_from)
        self._index.drop_before(first_position)
        return dataclasses.replace(counters, first_position=first_position, payload_bytes=payload_bytes)


def _copied(state: replay_pb2.TableState) -> replay_pb2.TableState:
    copy = replay_pb2.TableState()
    copy.CopyFrom(state)
    return copy


def _copied_entry(entry: replay_pb2.QuarantineEntry) -> replay_pb2.QuarantineEntry:
    copy = replay_pb2.QuarantineEntry()
    copy.CopyFrom(entry)
    return copy


def _stored(position: int, row: _Row, payload: bytes) -> StoredRecord:
    return StoredRecord(position, row.origin_id, row.header, payload, row.payload_digest, row.chain)
