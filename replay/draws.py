"""The way of a draw: wait for the table's limiter, choose, read, commit that it was drawn, deliver.

A draw of a table that gives each record once is on disk before it is delivered: no crash can deliver a record twice. A
stream of its only consumer may say how far that has come (`Followed`): it is then given every record from there on, and
what was drawn before does not count again.
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
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64

from replay.change import Change
from replay.config import ReplayConfig
from replay.ingest import StreamsExhausted
from replay.schema import PAYLOAD_BYTES_MAX
from replay.store import Store, StoreCorrupt, StoredRecord, StoreError
from replay.table_set import TableSet
from replay.tables.table import Pick, Table
from replay.writer import TABLE_S_MAX, GroupCommitter

_READ_ATTEMPTS = 16
_READ_AGAIN_S = 0.002
_INLINE_READ_BYTES = 512 * 1024
"""A batch expected to be larger is read in a thread, so that hashing it does not hold up the loop."""


class BatchSizeInvalid(ValueError):
    """A batch of so many records, or of so many bytes, can never be drawn; the message names the bound."""


class Draw(NamedTuple):
    """A batch drawn from a table: positions [B], probability of each, and how many records could have been drawn."""

    positions: NDArray[np.uint64]
    records: Sequence[StoredRecord]
    """In the order of the positions; none where only keys were asked for."""
    probabilities: NDArray[np.float64]
    available: int


@dataclass
class Followed:
    """How far the consumer of a stream has come, where it has said so."""

    position: int | None = None
    """The first one that it has not been given; None: it takes what has not been drawn yet."""


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
        self.config = config
        self.streams = 0
        self._store = store
        self._committer = committer
        self._tables = tables
        self._change = change
        self._choosing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def open(self) -> None:
        """Counts a sample stream in. Raises StreamsExhausted."""
        if self.streams >= self.config.sample_streams_max:
            raise StreamsExhausted(
                f"{self.streams} sample streams are open, the limit is replay.sample_streams_max: try later"
            )
        self.streams += 1

    def close(self) -> None:
        """Counts a sample stream out."""
        self.streams -= 1

    def expected_bytes(self, count: int) -> int:
        """Payload bytes of so many records of mean size."""
        counters = self._store.counters()
        return min(counters.payload_bytes * count // max(1, counters.records), self.config.sample_bytes_max)

    async def draw(self, name: str, count: int, *, keys_only: bool, followed: Followed | None = None) -> Draw:
        """Draws `count` records from the table `name`, once its limiter allows all of them.

        Cancellation either happens before anything changed, or the records count as drawn. Draws for one consumer are
        to be begun in the order in which it is to get them.

        Args:
          name: of the table.
          count: records.
          keys_only: whether the records themselves are not wanted.
          followed: how far the consumer has come; moved on.

        Raises:
          UnknownTable, BatchSizeInvalid, StoreError.
        """
        table = self._checked_table(name, count)
        followed = followed or Followed()
        async with self._choosing[name]:
            records, pick, new = await self._choose(table, count, followed, keys_only=keys_only)
            if followed.position is not None and table.draws_once:
                followed.position = int(pick.positions[-1]) + 1
            committed = self._commit(table, pick) if new else None
        if table.draws_once and committed is not None:
            # Outside the lock: the next draw goes on from here and may share this one's commit.
            await asyncio.shield(committed)
        return Draw(pick.positions, records, pick.probabilities, pick.available)

    def _checked_table(self, name: str, count: int) -> Table:
        table = self._tables[name]
        largest = min(self.config.sample_batch_max, table.limiter.sample_batch_max)
        if not 1 <= count <= largest:
            raise BatchSizeInvalid(
                f"batch_size = {count} of table {name!r} must be 1 to {int(largest)}: more than its limiter lets in, "
                "or replay.sample_batch_max allows, would be waited for forever"
            )
        return table

    async def _choose(
        self, table: Table, count: int, followed: Followed, *, keys_only: bool
    ) -> tuple[Sequence[StoredRecord], Pick, int]:
        """Records, which they are, and how many of them have not been drawn before."""
        attempts = _READ_ATTEMPTS
        while attempts:
            attempts -= 1
            while (pick := _pick(table, count, followed)) is None:
                table.sample_wait_s += await self._change.wait()
                self._checked_table(table.name, count)  # its limiter may have been changed meanwhile
            new = pick.state.samples - table.state.samples
            if keys_only:
                return (), pick, new
            excluded = self._tables.excluded
            try:
                records = await self._read(table, pick.positions.tolist())
            except StoreCorrupt as error:
                if not error.positions:
                    raise
                # Whatever is found is found once, so it does not count as an attempt: a segment that cannot be read is
                # thousands of records, which may take hundreds of draws to come across.
                attempts += bool(self._tables.exclude_damaged(error.positions))
                await asyncio.sleep(0)
                continue
            if self._tables.excluded is not excluded and self._tables.excluded.intersect(BitMap64(pick.positions)):
                continue  # some of these were quarantined, or found damaged, while they were read
            if len(records) == count:
                return records, pick, new
            # Retention overtook the reading, and the tables may be about to hear of it: choose again once they have.
            await asyncio.sleep(_READ_AGAIN_S)
            self._tables.refresh()
        raise StoreError(
            f"{count} records of table {table.name!r} were evicted or damaged before they could be read, "
            f"{_READ_ATTEMPTS} times over: raise replay.records_max or replay.payload_bytes_max"
        )

    async def _read(self, table: Table, positions: Sequence[int]) -> list[StoredRecord]:
        if self.expected_bytes(len(positions)) > _INLINE_READ_BYTES:
            return await asyncio.to_thread(self._read_bounded, table, positions)
        return self._read_bounded(table, positions)

    def _read_bounded(self, table: Table, positions: Sequence[int]) -> list[StoredRecord]:
        """Reads so many at a time that even the largest records there may be take no more than a batch may."""
        bytes_max = self.config.sample_bytes_max
        step = max(1, bytes_max // PAYLOAD_BYTES_MAX)
        records: list[StoredRecord] = []
        payload_bytes = 0
        for start in range(0, len(positions), step):
            part = self._store.read(positions[start : start + step])
            payload_bytes += sum([len(record.payload) for record in part])
            if payload_bytes > bytes_max:
                raise BatchSizeInvalid(
                    f"a batch of {len(positions)} records of table {table.name!r} has more than "
                    f"replay.sample_bytes_max = {bytes_max} payload bytes: ask for fewer, or raise it; none was drawn"
                )
            records += part
        return records

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


def _pick(table: Table, count: int, followed: Followed) -> Pick | None:
    """`count` records, first those that were drawn before where they are wanted again; None: the limiter holds it."""
    again = table.drawn_from(followed.position, count) if followed.position is not None else np.empty(0, np.uint64)
    left = count - len(again)
    if not left:
        return Pick(again, np.ones(count), table.available(), table.state)
    if not table.can_sample(left):
        return None
    pick = table.pick(left)
    if not len(again):
        return pick
    certain = np.concatenate([np.ones(len(again)), pick.probabilities])
    return Pick(np.concatenate([again, pick.positions]), certain, pick.available, pick.state)
