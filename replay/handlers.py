"""What the replay service does, free of gRPC: admits appends, draws batches, lists records, counts.

One asyncio loop owns everything here; only the committer's thread runs beside it. The way of an append: check all of
it, take room in the stream's window and in the service's, wait for the tables' limiters, submit to the group commit.
The way of a draw: wait for the table's limiter, choose, read, commit that it was drawn, only then deliver.

Exceptions:
    RecordInvalid      (replay.store) what was sent breaks the contract
    UnknownTable       no table of that name; the message lists those there are
    BatchSizeInvalid   a batch that can never be drawn
    StreamsExhausted   too many streams are open
    StoreError         (replay.store) and below
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.config import ReplayConfig
from replay.limiter import min_size_limiter, queue_limiter, ratio_limiter
from replay.provenance import check_batch, check_origin
from replay.store import (
    Append,
    AppendOutcome,
    PendingRecord,
    RecordInvalid,
    Store,
    StoredRecord,
    StoreError,
    TableState,
    origin_digest,
    run_key,
)
from replay.tables import FreshTable, Pick, Table, UniformTable
from replay.window import Window
from replay.writer import GroupCommitter

_READ_ATTEMPTS = 16
_READ_AGAIN_S = 0.002
_LIST_RECORDS = 256
_LIST_BYTES = 8 * 1024**2
_WAIT_SHOWN_S = 1.0
_INLINE_READ_BYTES = 512 * 1024
"""A batch expected to be larger is read in a thread, so that hashing it does not hold up the loop."""


class UnknownTable(LookupError):
    """No table of that name; the message lists those there are."""


class BatchSizeInvalid(ValueError):
    """A batch of this size can never be drawn; the message names the bound."""


class StreamsExhausted(Exception):
    """Too many streams are open at once."""


class Draw(NamedTuple):
    """A batch drawn from a table, and the probability of each record in this draw."""

    records: Sequence[StoredRecord]
    probability: float


class Acknowledgement(NamedTuple):
    """The sequences of one message, all committed and synced, and how many of them had been stored before."""

    sequences: list[int]
    duplicates: int


class ReplayHandlers:
    """The service's state and what can be done with it.

    Args:
      config: checked by `check_config`.
      store: read here; written through `committer` only.
      committer: the store's writer.
    """

    def __init__(self, config: ReplayConfig, store: Store, committer: GroupCommitter) -> None:
        self.config = config
        self.store = store
        self._committer = committer
        self._tables = _make_tables(config, store)
        self._pending = Window(config.pending_bytes_max, config.pending_bytes_max)
        self._inserting = asyncio.Lock()
        self._sampling = {name: asyncio.Lock() for name in self._tables}
        self._changed = asyncio.Event()
        self._append_streams = 0
        self._sample_streams = 0
        self._refused_records = 0

    @property
    def open_streams(self) -> int:
        """Append and sample streams open now."""
        return self._append_streams + self._sample_streams

    def open_append(self, origin: common_pb2.Origin) -> AppendSession:
        """Opens an append stream; close it. Raises RecordInvalid, StreamsExhausted."""
        if self._append_streams >= self.config.append_streams_max:
            raise StreamsExhausted(
                f"{self._append_streams} append streams are open, the limit is replay.append_streams_max: try later"
            )
        session = AppendSession(self, origin)
        self._append_streams += 1
        return session

    def close_append(self) -> None:
        """Ends one append stream; what it submitted is still committed."""
        self._append_streams -= 1

    def open_sample(self) -> None:
        """Counts a sample stream in. Raises StreamsExhausted."""
        if self._sample_streams >= self.config.sample_streams_max:
            raise StreamsExhausted(
                f"{self._sample_streams} sample streams are open, the limit is replay.sample_streams_max: try later"
            )
        self._sample_streams += 1

    def close_sample(self) -> None:
        """Counts a sample stream out."""
        self._sample_streams -= 1

    def refuse(self, records: int) -> None:
        """Counts records that were refused as invalid."""
        self._refused_records += records

    async def submit(
        self, session: AppendSession, records: Sequence[PendingRecord]
    ) -> list[asyncio.Future[AppendOutcome]]:
        """Submits checked records as the limiters allow, in as many parts as that takes, and returns one future each.

        Waits while a limiter holds them back or too much is pending; when cancelled, what was submitted stays so.
        """
        payload_bytes = _payload_bytes(records)
        await session.window.acquire(len(records), payload_bytes)
        try:
            await self._pending.acquire(len(records), payload_bytes + _header_bytes(records))
        except asyncio.CancelledError:
            session.window.release(len(records), payload_bytes)
            raise
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

    async def draw(self, name: str, count: int) -> Draw:
        """Draws `count` records from the table `name`, once its limiter allows all of them.

        Cancellation either happens before anything changed, or the records count as drawn.

        Raises:
          UnknownTable, BatchSizeInvalid, StoreError.
        """
        table = self._checked_table(name, count)
        async with self._sampling[name]:
            records, pick = await self._choose(table, count)
            committed = self._commit_draw(table, pick.state)
        # Outside the lock: the next draw goes on from here and may share this one's commit.
        await asyncio.shield(committed)
        return Draw(records, pick.probability)

    async def _choose(self, table: Table, count: int) -> tuple[list[StoredRecord], Pick]:
        for _ in range(_READ_ATTEMPTS):
            await self._until_sampleable(table, count)
            pick = table.pick(count, self.store.counters())
            records = await self._read(pick.positions)
            if len(records) == count:
                return records, pick
            # Retention overtook the reading, and the counters may be about to say so: choose again once they have.
            await asyncio.sleep(_READ_AGAIN_S)
        raise StoreError(
            f"{count} records of table {table.name!r} were evicted before they could be read, {_READ_ATTEMPTS} times "
            "over: raise replay.records_max or replay.payload_bytes_max"
        )

    async def list_records(self, request: replay_pb2.ListRequest) -> AsyncIterator[list[StoredRecord]]:
        """Groups of records of bounded size in log order, without those evicted meanwhile. Raises StoreCorrupt."""
        counters = self.store.counters()
        start = max(request.from_position, counters.first_position)
        limit = request.limit or counters.next_position
        end = min(counters.next_position, start + limit)
        read, group = self.store.read_headers, _LIST_RECORDS
        if request.with_payload:
            mean_bytes = counters.payload_bytes // max(1, counters.records)
            read, group = self.store.read, max(1, min(_LIST_RECORDS, _LIST_BYTES // max(1, mean_bytes)))
        for first in range(start, end, group):
            yield await asyncio.to_thread(read, range(first, min(first + group, end)))

    def stats(self) -> replay_pb2.StatsResponse:
        """All counters. Those of refusals, commits and waits count from the start of the service."""
        counters, commits = self.store.counters(), self._committer.statistics()
        file_bytes, live_bytes = self.store.sizes()
        return replay_pb2.StatsResponse(
            records=counters.records,
            payload_bytes=counters.payload_bytes,
            appended_records=counters.next_position,
            appended_steps=counters.appended_steps,
            evicted_records=counters.first_position,
            duplicate_records=counters.duplicate_records,
            refused_records=self._refused_records,
            file_bytes=file_bytes,
            live_bytes=live_bytes,
            commits=commits.commits,
            commit_ms_mean=commits.commit_ms_mean,
            append_streams=self._append_streams,
            tables=[self._table_stats(table) for table in self._tables.values()],
            signal_totals=counters.signal_totals,
            chain_head=counters.chain_head,
        )

    def _table_stats(self, table: Table) -> replay_pb2.TableStats:
        counters = self.store.counters()
        return replay_pb2.TableStats(
            name=table.name,
            kind=table.kind,
            available=table.available(counters),
            inserts=counters.next_position,
            samples=table.state.samples,
            samples_per_insert=table.limiter.samples_per_insert,
            min_size=table.limiter.min_size_to_sample,
            min_diff=table.limiter.min_diff,
            max_diff=table.limiter.max_diff,
            insert_wait_s=table.insert_wait_s,
            sample_wait_s=table.sample_wait_s,
        )

    def _checked_table(self, name: str, count: int) -> Table:
        table = self._tables.get(name)
        if table is None:
            raise UnknownTable(f"there is no table {name!r}; there are: {', '.join(sorted(self._tables))}")
        largest = min(self.config.sample_batch_max, table.limiter.sample_batch_max)
        if not 1 <= count <= largest:
            raise BatchSizeInvalid(
                f"batch_size = {count} of table {name!r} must be 1 to {int(largest)}: more than its limiter lets in, "
                "or replay.sample_batch_max allows, would be waited for forever"
            )
        return table

    async def _reserve(self, wanted: int) -> int:
        """Waits until at least one record may be inserted into every table, reserves and returns how many of `wanted`.

        One stream at a time waits here, so that all get their turn and waiting is counted once.
        """
        async with self._inserting:
            while True:
                counters = self.store.counters()
                granted = {table: table.insertable(wanted, counters) for table in self._tables.values()}
                count = min(granted.values())
                if count:
                    break
                waited_s = await self._wait_for_change()
                for table in (table for table, allowed in granted.items() if not allowed):
                    table.insert_wait_s += waited_s
            for table in self._tables.values():
                table.reserve(count)
            return count

    def _submit_part(self, session: AppendSession, records: Sequence[PendingRecord]) -> asyncio.Future[AppendOutcome]:
        append = Append(session.run, session.origin, session.origin_digest, records)
        future = asyncio.wrap_future(self._committer.append(append))

        def settle(done: asyncio.Future[AppendOutcome]) -> None:
            if not done.cancelled():
                done.exception()  # taken notice of here, for the stream that asked may be gone
            for table in self._tables.values():
                table.settle(len(records))
            self._release(session, records)

        future.add_done_callback(settle)
        return future

    def _release(self, session: AppendSession, records: Sequence[PendingRecord]) -> None:
        payload_bytes = _payload_bytes(records)
        session.window.release(len(records), payload_bytes)
        self._pending.release(len(records), payload_bytes + _header_bytes(records))
        self._notify()

    async def _until_sampleable(self, table: Table, count: int) -> None:
        while not table.can_sample(count, self.store.counters()):
            table.sample_wait_s += await self._wait_for_change()

    async def _read(self, positions: Sequence[int]) -> list[StoredRecord]:
        counters = self.store.counters()
        if counters.payload_bytes * len(positions) > _INLINE_READ_BYTES * max(1, counters.records):
            return await asyncio.to_thread(self.store.read, positions)
        return self.store.read(positions)

    def _commit_draw(self, table: Table, state: TableState) -> asyncio.Future[None]:
        """Starts to commit that a pick was drawn, which goes on even if nobody waits for it."""
        table.begin_draw(state)
        future = asyncio.wrap_future(self._committer.put_table(table.name, state))

        def end(done: asyncio.Future[None]) -> None:
            table.end_draw(state, committed=not done.cancelled() and done.exception() is None)
            self._notify()

        future.add_done_callback(end)
        return future

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for_change(self) -> float:
        start_s = time.monotonic()
        with contextlib.suppress(TimeoutError):  # so that a long wait shows in the statistics while it lasts
            # Not wait_for, which in Python 3.11 can swallow a cancellation: a stream that is gone would go on waiting.
            async with asyncio.timeout(_WAIT_SHOWN_S):
                await self._changed.wait()
        return time.monotonic() - start_s


class AppendSession:
    """One append stream: its checked origin, its window, its next sequence at opening."""

    def __init__(self, handlers: ReplayHandlers, origin: common_pb2.Origin) -> None:
        self._handlers = handlers
        self._layout = check_origin(origin)
        self.run = run_key(origin)
        self.origin = origin.SerializeToString(deterministic=True)
        self.origin_digest = origin_digest(origin)
        self.window = Window(handlers.config.window_records, handlers.config.window_bytes)
        self.next_sequence = handlers.store.next_sequence(self.run)

    async def append(self, records: Sequence[common_pb2.Record]) -> Submission:
        """Checks one message's records and submits them all; raises RecordInvalid with none submitted."""
        try:
            pending = check_batch(records, self._layout)
        except RecordInvalid:
            self._handlers.refuse(max(1, len(records)))
            raise
        parts = await self._handlers.submit(self, pending)
        return Submission([record.sequence for record in pending], parts, self._handlers.refuse)


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


def _make_tables(config: ReplayConfig, store: Store) -> dict[str, Table]:
    states = store.tables()
    ratio = config.uniform_samples_per_insert
    uniform_limiter = (
        ratio_limiter(ratio, config.uniform_min_size, config.uniform_error_buffer)
        if ratio
        else min_size_limiter(config.uniform_min_size)
    )
    fresh = FreshTable("fresh", queue_limiter(config.fresh_unconsumed_max), states.get("fresh", TableState()))
    uniform = UniformTable(
        "uniform",
        uniform_limiter,
        states.get("uniform", TableState()),
        inserts=store.counters().next_position,
        seed=config.sample_seed,
    )
    return {table.name: table for table in (fresh, uniform)}
