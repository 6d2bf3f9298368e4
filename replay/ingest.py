"""The way of an append into the store: check all of it, wait for room, wait for the limiters, submit to the commit.

What is on the way is bounded twice: by each stream's window, and over all streams together, so that a slow disk holds
the writers back instead of filling the memory. The time lost to that is counted apart from the time lost to limiters.
One asyncio loop owns everything here. It knows no gRPC, and of tables only how many records they let in.

Exceptions: RecordInvalid (replay.store) for what breaks the contract; StreamsExhausted; StoreError from a commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from protos.common.v1 import common_pb2
from replay.change import Change
from replay.config import ReplayConfig
from replay.provenance import check_batch, check_origin
from replay.store import (
    Append,
    AppendOutcome,
    PendingRecord,
    RecordInvalid,
    Store,
    origin_digest,
    run_key,
)
from replay.table_set import TableSet
from replay.window import Window
from replay.writer import GroupCommitter


class StreamsExhausted(Exception):
    """Too many streams are open at once."""


class Acknowledgement(NamedTuple):
    """The sequences of one message, all committed, and how many of them had been stored before."""

    sequences: list[int]
    duplicates: int


class Ingest:
    """All append streams of a service.

    Args:
      config: windows and bounds.
      store: asked what a run has stored.
      committer: what is admitted goes there.
      tables: their limiters are waited for; they are told of what was stored.
      change: notified when something was stored or room was given back.
    """

    def __init__(
        self, config: ReplayConfig, store: Store, committer: GroupCommitter, tables: TableSet, change: Change
    ) -> None:
        self.config = config
        self.store = store
        self.streams = 0
        self.refused_records = 0
        self.disk_wait_s = 0.0
        self._committer = committer
        self._tables = tables
        self._change = change
        self._pending = Window(config.pending_bytes_max, config.pending_bytes_max)
        self._inserting = asyncio.Lock()

    @property
    def pending_bytes(self) -> int:
        """Bytes of records waiting for a commit, all streams together."""
        return self._pending.held_bytes

    def open(self, origin: common_pb2.Origin, acknowledged_below: int) -> AppendSession:
        """Opens an append stream; close it. Raises RecordInvalid, StreamsExhausted."""
        if self.streams >= self.config.append_streams_max:
            raise StreamsExhausted(
                f"{self.streams} append streams are open, the limit is replay.append_streams_max: try later"
            )
        session = AppendSession(self, origin, acknowledged_below)
        self.streams += 1
        return session

    def close(self) -> None:
        """Ends one append stream; what it submitted is still committed."""
        self.streams -= 1

    def refuse(self, records: int) -> None:
        """Counts records that were refused as invalid."""
        self.refused_records += records

    async def submit(
        self, session: AppendSession, records: Sequence[PendingRecord]
    ) -> list[asyncio.Future[AppendOutcome]]:
        """Submits checked records as the limiters allow, in as many parts as that takes, and returns one future each.

        Waits while a limiter holds them back or too much is pending; when cancelled, what was submitted stays so.
        """
        payload_bytes = _payload_bytes(records)
        await session.window.acquire(len(records), payload_bytes)
        start_s = time.monotonic()
        try:
            await self._pending.acquire(len(records), payload_bytes + _header_bytes(records))
        except asyncio.CancelledError:
            session.window.release(len(records), payload_bytes)
            raise
        finally:
            self.disk_wait_s += time.monotonic() - start_s
        parts = []
        left = records
        try:
            while left:
                count = await self._reserve(len(left))
                parts.append(self._submit_part(session, left[:count]))
                left = left[count:]
        except asyncio.CancelledError:
            self._release(session, left)
            raise
        return parts

    async def _reserve(self, wanted: int) -> int:
        """Waits until at least one record may be inserted into every table, reserves and returns how many of `wanted`.

        One stream at a time waits here, so that all get their turn and waiting is counted once.
        """
        async with self._inserting:
            while True:
                granted = {table: table.insertable(wanted) for table in self._tables}
                count = min(granted.values())
                if count:
                    break
                waited_s = await self._change.wait()
                for table in (table for table, allowed in granted.items() if not allowed):
                    table.insert_wait_s += waited_s
            self._tables.reserve(count)
            return count

    def _submit_part(self, session: AppendSession, records: Sequence[PendingRecord]) -> asyncio.Future[AppendOutcome]:
        append = Append(session.run, session.origin_bytes, session.origin_digest, records, session.acknowledged_below)
        future = asyncio.wrap_future(self._committer.append(append))

        def settle(done: asyncio.Future[AppendOutcome]) -> None:
            # The exception is taken notice of here, for the stream that asked may be gone.
            if not done.cancelled() and done.exception() is None:
                self._tables.inserted(session.origin, records, done.result())
            self._tables.settle(len(records))
            self._release(session, records)

        future.add_done_callback(settle)
        return future

    def _release(self, session: AppendSession, records: Sequence[PendingRecord]) -> None:
        payload_bytes = _payload_bytes(records)
        session.window.release(len(records), payload_bytes)
        self._pending.release(len(records), payload_bytes + _header_bytes(records))
        self._change.notify()


class AppendSession:
    """One append stream: its checked origin, its window, its next sequence at opening."""

    def __init__(self, ingest: Ingest, origin: common_pb2.Origin, acknowledged_below: int) -> None:
        self._ingest = ingest
        self._layout = check_origin(origin)
        self.run = run_key(origin)
        self.origin = origin
        self.origin_bytes = origin.SerializeToString(deterministic=True)
        self.origin_digest = origin_digest(origin)
        self.window = Window(ingest.config.window_records, ingest.config.window_bytes)
        # A store that promises that nothing acknowledged is lost has nothing to forgive.
        self.acknowledged_below = acknowledged_below if ingest.config.durability == "async" else 0
        self.next_sequence = max(ingest.store.next_sequence(self.run), self.acknowledged_below)

    async def append(self, records: Sequence[common_pb2.Record]) -> Submission:
        """Checks one message's records and submits them all; raises RecordInvalid with none submitted."""
        try:
            pending = check_batch(records, self._layout)
        except RecordInvalid:
            self._ingest.refuse(max(1, len(records)))
            raise
        parts = await self._ingest.submit(self, pending)
        return Submission([record.sequence for record in pending], parts, self._ingest.refuse)


class Submission:
    """A message's records on their way into the store, in one or more parts."""

    def __init__(
        self, sequences: list[int], parts: Sequence[asyncio.Future[AppendOutcome]], refuse: Callable[[int], None]
    ) -> None:
        self._sequences = sequences
        self._parts = parts
        self._refuse = refuse

    async def acknowledged(self) -> Acknowledgement:
        """Waits until all of it is committed. Raises RecordInvalid, StoreError."""
        duplicates = 0
        for part in self._parts:
            outcome = await asyncio.shield(part)
            if outcome.refusal is not None:
                self._refuse(len(self._sequences))
                raise outcome.refusal
            duplicates += outcome.duplicates
        return Acknowledgement(self._sequences, duplicates)


def _payload_bytes(records: Sequence[PendingRecord]) -> int:
    return sum(len(record.payload) for record in records)


def _header_bytes(records: Sequence[PendingRecord]) -> int:
    return sum(len(record.header) for record in records)
