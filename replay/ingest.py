"""The way of an append into the store: check all of it, wait for room, wait for the limiters, submit to the commit.

What is on the way is bounded twice: by each stream's window, given back with the acknowledgement, and over all streams
together, so that a slow disk holds the writers back instead of filling the memory; besides, each stream may have one
message read that waits for room. The time lost to that is counted apart from the time lost to limiters. One asyncio
loop owns everything here. It knows no gRPC, and of tables only how many records they let in.

Exceptions: RecordInvalid (replay.store) for what breaks the contract; StreamsExhausted; StoreError from a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from protos.common.v1 import common_pb2
from replay.change import Change
from replay.config import ReplayConfig
from replay.provenance import check_batch, check_origin
from replay.store import (
    SEQUENCE_LEAD_MAX,
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

MESSAGE_RECORDS_MAX = 8192
"""Most records of one message: some times what one of the size to aim for can hold, and no long work for the loop."""

_ACKNOWLEDGED_MAX = 2**63

_RECORD_BYTES = 1024
"""What a small record takes in memory at least, whatever its size."""


class StreamsExhausted(Exception):
    """Too many streams are open at once."""


class Acknowledgement(NamedTuple):
    """The sequences of one message, all committed, their payloads, and how many of them had been stored before."""

    sequences: list[int]
    payload_bytes: int
    duplicates: int


class _DiskWait:
    """The time that streams wait for room, all together, but for the time in which a limiter is why there is none."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._since_s = time.monotonic()
        self._waiting = 0
        self._limited = False

    @property
    def total_s(self) -> float:
        """Until now."""
        now_s = time.monotonic()
        if not self._limited:
            self._total_s += self._waiting * (now_s - self._since_s)
        self._since_s = now_s
        return self._total_s

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A stream waits for room."""
        self._set(self._waiting + 1, self._limited)
        try:
            yield
        finally:
            self._set(self._waiting - 1, self._limited)

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """A limiter lets nothing in."""
        self._set(self._waiting, limited=True)
        try:
            yield
        finally:
            self._set(self._waiting, limited=False)

    def _set(self, waiting: int, limited: bool) -> None:
        _ = self.total_s  # what has passed counts as it was
        self._waiting, self._limited = waiting, limited


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
        self._disk_wait = _DiskWait()
        self._committer = committer
        self._tables = tables
        self._change = change
        self._pending = Window(max(1, config.pending_bytes_max // _RECORD_BYTES), config.pending_bytes_max)
        self._inserting = asyncio.Lock()

    @property
    def pending_bytes(self) -> int:
        """Bytes of records waiting for a commit, all streams together."""
        return self._pending.held_bytes

    @property
    def disk_wait_s(self) -> float:
        """Time that records have waited for room because too much was waiting for the disk (s)."""
        return self._disk_wait.total_s

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

        Waits while a limiter holds them back or too much is pending. When cancelled, what was submitted stays so, and
        the session is of no more use: its window is not given back.
        """
        payload_bytes = _payload_bytes(records)
        await session.window.acquire(len(records), payload_bytes)
        with self._disk_wait.waiting():
            await self._pending.acquire(len(records), payload_bytes + _header_bytes(records))
        parts = []
        left = records
        try:
            while left:
                count = await self._reserve(len(left))
                parts.append(self._submit_part(session, left[:count]))
                left = left[count:]
        except asyncio.CancelledError:
            self._release(left)
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
                with self._disk_wait.limited():
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
            try:
                if not done.cancelled() and done.exception() is None:
                    self._tables.inserted(session.origin, records, done.result())
            finally:
                self._tables.settle(len(records))
                self._release(records)

        future.add_done_callback(settle)
        return future

    def _release(self, records: Sequence[PendingRecord]) -> None:
        self._pending.release(len(records), _payload_bytes(records) + _header_bytes(records))
        self._change.notify()


class AppendSession:
    """One append stream: its checked origin, its window, its next sequence at opening."""

    def __init__(self, ingest: Ingest, origin: common_pb2.Origin, acknowledged_below: int) -> None:
        self._ingest = ingest
        self._layout = check_origin(origin)
        if acknowledged_below > _ACKNOWLEDGED_MAX:
            raise RecordInvalid(
                f"acknowledged_below = {acknowledged_below}, must be at most {_ACKNOWLEDGED_MAX}: what follows it "
                "could not be counted; the stream was not opened"
            )
        self.run = run_key(origin)
        self.origin = origin
        self.origin_bytes = origin.SerializeToString(deterministic=True)
        self.origin_digest = origin_digest(origin)
        self.window = Window(ingest.config.window_records, ingest.config.window_bytes)
        # A store that promises that nothing acknowledged is lost has nothing to forgive.
        self.acknowledged_below = acknowledged_below if ingest.config.durability == "async" else 0
        self.next_sequence = self._expected()
        self._submitted: Sequence[asyncio.Future[AppendOutcome]] = ()

    async def append(self, records: Sequence[common_pb2.Record]) -> Submission:
        """Checks one message's records and submits them all; raises RecordInvalid with none submitted."""
        try:
            if len(records) > MESSAGE_RECORDS_MAX:
                raise RecordInvalid(
                    f"{len(records)} records in one message, at most {MESSAGE_RECORDS_MAX} may be: nothing of it was "
                    "stored; send several"
                )
            pending = check_batch(records, self._layout)
            await self._check_lead(pending[-1].sequence)
        except RecordInvalid:
            self._ingest.refuse(max(1, len(records)))
            raise
        self._submitted = await self._ingest.submit(self, pending)
        return Submission(pending, self._submitted, self._ingest.refuse)

    def delivered(self, acknowledgement: Acknowledgement) -> None:
        """Gives back the room of what the client has been told of."""
        self.window.release(len(acknowledgement.sequences), acknowledgement.payload_bytes)

    async def _check_lead(self, sequence: int) -> None:
        """Raises RecordInvalid for what the store would refuse: it sees single parts, the first of which may pass."""
        if sequence - self._expected() < SEQUENCE_LEAD_MAX:
            return
        if self._submitted:
            await asyncio.wait(self._submitted)
        if sequence - self._expected() >= SEQUENCE_LEAD_MAX:
            raise RecordInvalid(
                f"sequence {sequence} is {sequence - self._expected()} ahead of the next expected, {self._expected()}; "
                f"the limit is {SEQUENCE_LEAD_MAX}: send the missing ones first; nothing of the batch was stored"
            )

    def _expected(self) -> int:
        return max(self._ingest.store.next_sequence(self.run), self.acknowledged_below)


class Submission:
    """A message's records on their way into the store, in one or more parts."""

    def __init__(
        self,
        records: Sequence[PendingRecord],
        parts: Sequence[asyncio.Future[AppendOutcome]],
        refuse: Callable[[int], None],
    ) -> None:
        # Not the records: what was committed need not be kept until its turn to be acknowledged.
        self._sequences = [record.sequence for record in records]
        self._payload_bytes = _payload_bytes(records)
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
        return Acknowledgement(self._sequences, self._payload_bytes, duplicates)


def _payload_bytes(records: Sequence[PendingRecord]) -> int:
    return sum(len(record.payload) for record in records)


def _header_bytes(records: Sequence[PendingRecord]) -> int:
    return sum(len(record.header) for record in records)
