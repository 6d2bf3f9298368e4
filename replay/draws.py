"""The way of a draw: wait for the table's limiter, choose, read, commit that it was drawn, deliver.

A draw of a table that gives each record once is on disk before it is delivered: no crash can deliver a record twice.
One that draws with replacement need not wait for that: its count of samples follows within TABLE_S_MAX (writer.py), and
a crash before that makes it forget the draws since, which only lets its limiter count them again.

A record that cannot be read is excluded, loudly, and the draw is made anew: one damaged record stops nobody. One
asyncio loop owns everything here.

Exceptions:
    BatchSizeInvalid   a batch that can never be drawn
    UnknownTable       (replay.table_set)
    StoreError         (replay.store) and below
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64

from replay.change import Change
from replay.config import ReplayConfig
from replay.ingest import StreamsExhausted
from replay.store import Store, StoreCorrupt, StoredRecord, StoreError
from replay.table_set import TableSet
from replay.tables.table import Pick, Table
from replay.writer import TABLE_S_MAX, GroupCommitter

_READ_ATTEMPTS = 16
_READ_AGAIN_S = 0.002
_INLINE_READ_BYTES = 512 * 1024
"""A batch expected to be larger is read in a thread, so that hashing it does not hold up the loop."""


class BatchSizeInvalid(ValueError):
    """A batch of this size can never be drawn; the message names the bound."""


class Draw(NamedTuple):
    """A batch drawn from a table: positions [B], probability of each, and how many records could have been drawn."""

    positions: NDArray[np.uint64]
    records: Sequence[StoredRecord]
    """In the order of the positions; none where only keys were asked for."""
    probabilities: NDArray[np.float64]
    available: int


class Draws:
    """All sample streams of a service.

    Args:
      config: bounds.
      store: read here.
      committer: told what was drawn.
      tables: drawn from.
      change: waited for while a limiter holds a draw back, and notified after a draw.
    """

    def __init__(
        self, config: ReplayConfig, store: Store, committer: GroupCommitter, tables: TableSet, change: Change
    ) -> None:
        self.streams = 0
        self._config = config
        self._store = store
        self._committer = committer
        self._tables = tables
        self._change = change
        self._choosing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def open(self) -> None:
        """Counts a sample stream in. Raises StreamsExhausted."""
        if self.streams >= self._config.sample_streams_max:
            raise StreamsExhausted(
                f"{self.streams} sample streams are open, the limit is replay.sample_streams_max: try later"
            )
        self.streams += 1

    def close(self) -> None:
        """Counts a sample stream out."""
        self.streams -= 1

    async def draw(self, name: str, count: int, *, keys_only: bool) -> Draw:
        """Draws `count` records from the table `name`, once its limiter allows all of them.

        Cancellation either happens before anything changed, or the records count as drawn.

        Raises:
          UnknownTable, BatchSizeInvalid, StoreError.
        """
        table = self._checked_table(name, count)
        async with self._choosing[name]:
            records, pick = await self._choose(table, count, keys_only=keys_only)
            committed = self._commit(table, pick)
        if table.draws_once:
            # Outside the lock: the next draw goes on from here and may share this one's commit.
            await asyncio.shield(committed)
        return Draw(pick.positions, records, pick.probabilities, pick.available)

    def _checked_table(self, name: str, count: int) -> Table:
        table = self._tables[name]
        largest = min(self._config.sample_batch_max, table.limiter.sample_batch_max)
        if not 1 <= count <= largest:
            raise BatchSizeInvalid(
                f"batch_size = {count} of table {name!r} must be 1 to {int(largest)}: more than its limiter lets in, "
                "or replay.sample_batch_max allows, would be waited for forever"
            )
        return table

    async def _choose(self, table: Table, count: int, *, keys_only: bool) -> tuple[Sequence[StoredRecord], Pick]:
        for _ in range(_READ_ATTEMPTS):
            while not table.can_sample(count):
                table.sample_wait_s += await self._change.wait()
                self._checked_table(table.name, count)  # its limiter may have been changed meanwhile
            pick = table.pick(count)
            if keys_only:
                return (), pick
            excluded = self._tables.excluded
            try:
                records = await self._read(pick.positions.tolist())
            except StoreCorrupt as error:
                if not error.positions:
                    raise
                self._tables.exclude_damaged(error.positions)
                continue
            if self._tables.excluded is not excluded and self._tables.excluded.intersect(BitMap64(pick.positions)):
                continue  # some of these were quarantined, or found damaged, while they were read
            if len(records) == count:
                return records, pick
            # Retention overtook the reading, and the tables may be about to hear of it: choose again once they have.
            await asyncio.sleep(_READ_AGAIN_S)
            self._tables.refresh()
        raise StoreError(
            f"{count} records of table {table.name!r} were evicted or damaged before they could be read, "
            f"{_READ_ATTEMPTS} times over: raise replay.records_max or replay.payload_bytes_max"
        )

    async def _read(self, positions: Sequence[int]) -> list[StoredRecord]:
        counters = self._store.counters()
        if counters.payload_bytes * len(positions) > _INLINE_READ_BYTES * max(1, counters.records):
            return await asyncio.to_thread(self._store.read, positions)
        return self._store.read(positions)

    def _commit(self, table: Table, pick: Pick) -> asyncio.Future[None]:
        """Starts to commit that a pick was drawn, which goes on even if nobody waits for it."""
        table.begin_draw(pick.state)
        within_s = 0.0 if table.draws_once else TABLE_S_MAX
        future = asyncio.wrap_future(self._committer.put_table(table.name, pick.state, within_s=within_s))

        def end(done: asyncio.Future[None]) -> None:
            table.end_draw(pick.state, committed=not done.cancelled() and done.exception() is None)
            self._change.notify()

        future.add_done_callback(end)
        return future
