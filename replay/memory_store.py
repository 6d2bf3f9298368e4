"""A store in memory: the same contract as the durable one, for tests and for runs that need no durability.

"Committed" means "in this process's memory" here: everything is lost when it ends.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from protos.common.v1 import common_pb2
from replay.commit_plan import CommitPlan, eviction_budget, plan_commit
from replay.sequences import RunSequences
from replay.store import (
    Append,
    AppendOutcome,
    StoreCorrupt,
    StoreCounters,
    StoredRecord,
    StoreSettings,
    TableState,
)


class _Row(NamedTuple):
    origin_id: int
    header: bytes
    payload: bytes
    payload_digest: bytes
    chain: bytes


class MemoryStore:
    """A Store whose commits last as long as the process. Thread-safe."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._counters = StoreCounters()
        self._rows: dict[int, _Row] = {}
        self._runs: dict[bytes, RunSequences] = {}
        self._tables: dict[str, TableState] = {}
        self._origins: list[bytes] = []
        self._origin_ids: dict[bytes, int] = {}

    def commit(self, appends: Sequence[Append], tables: Mapping[str, TableState]) -> list[AppendOutcome]:
        """See Store.commit; never full, never fails."""
        with self._lock:
            plan = plan_commit(appends, self._counters, self._sequences, self._settings.signal_names)
            for position, (append, record, chain) in enumerate(plan.records, plan.first_position):
                origin_id = self._intern(append)
                self._rows[position] = _Row(origin_id, record.header, record.payload, record.payload_digest, chain)
            self._runs.update(plan.runs)
            self._tables.update(tables)
            self._counters = self._evict(plan)
            return plan.outcomes

    def counters(self) -> StoreCounters:
        """See Store.counters."""
        return self._counters

    def tables(self) -> Mapping[str, TableState]:
        """See Store.tables."""
        return dict(self._tables)

    def next_sequence(self, run: bytes) -> int:
        """See Store.next_sequence."""
        return self._sequences(run).next

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See Store.read."""
        records = []
        for position, row in self._found(positions):
            if hashlib.sha256(row.payload).digest() != row.payload_digest:
                raise StoreCorrupt(f"the payload at position {position} does not match its digest")
            records.append(_stored(position, row, row.payload))
        return records

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See Store.read_headers."""
        return [_stored(position, row, b"") for position, row in self._found(positions)]

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """See Store.origin."""
        if not 0 <= origin_id < len(self._origins):
            raise StoreCorrupt(f"origin {origin_id} was never stored; there are {len(self._origins)}")
        return common_pb2.Origin.FromString(self._origins[origin_id])

    def sizes(self) -> tuple[int, int]:
        """Payload bytes, twice: there is no file, and nothing in it is unused."""
        return self._counters.payload_bytes, self._counters.payload_bytes

    def close(self) -> None:
        """See Store.close."""

    def _sequences(self, run: bytes) -> RunSequences:
        return self._runs.get(run) or RunSequences()

    def _intern(self, append: Append) -> int:
        origin_id = self._origin_ids.setdefault(append.origin_digest, len(self._origins))
        if origin_id == len(self._origins):
            self._origins.append(append.origin)
        return origin_id

    def _found(self, positions: Sequence[int]) -> list[tuple[int, _Row]]:
        with self._lock:
            return [(position, self._rows[position]) for position in positions if position in self._rows]

    def _evict(self, plan: CommitPlan) -> StoreCounters:
        counters, settings = plan.counters, self._settings
        first, payload_bytes = counters.first_position, counters.payload_bytes
        last = min(counters.next_position, first + eviction_budget(plan))
        while first < last and (
            counters.next_position - first > settings.records_max or payload_bytes > settings.payload_bytes_max
        ):
            payload_bytes -= len(self._rows.pop(first).payload)
            first += 1
        return dataclasses.replace(counters, first_position=first, payload_bytes=payload_bytes)


def _stored(position: int, row: _Row, payload: bytes) -> StoredRecord:
    header = common_pb2.RecordHeader.FromString(row.header)
    return StoredRecord(position, row.origin_id, header, row.header, payload, row.chain)
