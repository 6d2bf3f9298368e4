"""The tables of a service over the one log: what each is told, what none may draw, and what the store may drop.

Keeps the tables in step with the store (new records, evictions, marks), excludes quarantined and damaged records from
all of them, persists their states and priorities, and changes or adds one while the service runs. How a table draws is
its own business (replay/tables); who waits for it is that of ingest.py and draws.py. One asyncio loop owns it.

Exceptions:
    UnknownTable       no table of that name; the message lists those there are
    TableSpecError     (replay.table_spec) a table cannot be made, or not be changed, as asked
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence

from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.change import Change
from replay.config import ReplayConfig, table_specs
from replay.record import LoggedRecord
from replay.store import AppendOutcome, PendingRecord, Store, StoreCorrupt, StoreFull
from replay.table_spec import TableSpecError, check_spec
from replay.tables.making import effective_spec, make_table, new_state
from replay.tables.table import InsertedRecord, Priorities, Table
from replay.writer import LOG_AGAIN_S, GroupCommitter

TABLES_MAX = 64
"""Most tables of a service: each is told of every commit, and some take memory for every record."""

_LOAD_RECORDS = 1024
_STRATA_SHOWN = 64

_log = logging.getLogger(__name__)


class UnknownTable(LookupError):
    """No table of that name; the message lists those there are."""


class TableSet:
    """All tables of a service. Call `load` before anything else.

    Args:
      config: which tables there are, and how much the store keeps.
      store: read here; written through `committer` only.
      committer: told what may be evicted.
      change: notified when draws or inserts that had to wait may go on.
      shard: the number of the service among several.
    """

    def __init__(
        self, config: ReplayConfig, store: Store, committer: GroupCommitter, change: Change, shard: int = 0
    ) -> None:
        self._config = config
        self._store = store
        self._committer = committer
        self._change = change
        self._shard = shard
        self._tables: dict[str, Table] = {}
        self._damaged = BitMap64()
        self._log_damage_due_s = 0.0
        self._being_quarantined = BitMap64()
        self.excluded = BitMap64()
        """What no table may draw. Replaced, never mutated."""
        self._reserved = 0
        self._filled_to: dict[str, int] = {}
        self._refreshed = False
        self._specifying = asyncio.Lock()

    async def load(self) -> None:
        """Makes the tables that the configuration or an earlier service asked for, from what the store holds."""
        states = self._store.tables()
        configured = {spec.name: spec for spec in table_specs(self._config)}
        for name, spec in configured.items():
            state = states.get(name, replay_pb2.TableState())
            await self._add(effective_spec(state, spec), state, configured=spec)
        for name, state in states.items():
            if name not in configured:
                if state.HasField("configured"):
                    # It stood in the configuration and does so no longer.
                    await self._forget(name)
                else:
                    await self._add(state.spec, state, configured=None)
        # So that a reader of the store knows of each of them, drawn from or not.
        put = [asyncio.wrap_future(self._committer.put_table(table.name, table.state)) for table in self]
        try:
            await asyncio.gather(*put)
        except StoreFull as error:
            _log.warning("what tables there are will be written down with their first draws: %s", error)
        self.refresh()

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables.values())

    def __getitem__(self, name: str) -> Table:
        """The table of that name. Raises UnknownTable."""
        table = self._tables.get(name)
        if table is None:
            raise UnknownTable(f"there is no table {name!r}; there are: {', '.join(sorted(self._tables))}")
        return table

    @property
    def first_position(self) -> int:
        """Records below it are not kept: the store has dropped them, or will with its next commit."""
        return max(self._committer.retain_from, self._store.counters().first_position)

    @property
    def damaged_records(self) -> int:
        """Records found damaged since the start."""
        return len(self._damaged)

    def reserve(self, records: int) -> None:
        """Counts records on their way into the store as inserted, until they are settled."""
        self._reserved += records
        for table in self:
            table.reserve(records)

    def settle(self, records: int) -> None:
        """Ends a reservation: the records are in the store, were duplicates, or failed."""
        self._reserved -= records
        for table in self:
            table.settle(records)

    def inserted(self, origin: common_pb2.Origin, records: Sequence[PendingRecord], outcome: AppendOutcome) -> None:
        """Tells the tables of the records of one append that are new. In the order of the commits."""
        if not outcome.inserted:
            return
        listening = [table for table in self if table.needs_headers]
        if listening:
            new = [
                InsertedRecord(position, common_pb2.RecordHeader.FromString(records[index].header), origin)
                for position, index in enumerate(outcome.indices, outcome.first_position)
            ]
            for table in listening:
                # A table that was filled after these were committed, and before this was heard of, has them.
                known = self._filled_to[table.name] - outcome.first_position
                table.on_inserted(new[max(0, known) :])
        if not self._refreshed:
            # Once for all appends of a commit, whose outcomes arrive one after another; at once, for the records
            # would otherwise be neither on their way nor there.
            self.refresh()
            self._refreshed = True
            asyncio.get_running_loop().call_soon(self._end_refreshed)

    def refresh(self) -> None:
        """Brings every table in step with the store's bounds, and says what the store may drop."""
        config, counters = self._config, self._store.counters()
        newer_than_ns = time.time_ns() - round(config.age_s_max * 1e9) if config.age_s_max else 0
        kept = self._store.window(config.records_max, config.payload_bytes_max, newer_than_ns)
        first = max(counters.first_position, kept)
        for table in self:
            table.refresh(first, counters.next_position)
        wanted = min((table.first_position() for table in self), default=first)
        self._committer.retain_from = max(first, wanted)
        self._change.notify()

    def _end_refreshed(self) -> None:
        self._refreshed = False

    def evict_if_due(self) -> None:
        """Has the store evict what no table wants any more, also while nothing is appended."""
        self.refresh()
        if self._committer.retain_from > self._store.counters().first_position:
            self._committer.evict()

    def exclude_damaged(self, positions: Iterable[int]) -> int:
        """No table draws these any more: they cannot be read. Returns how many of them are news."""
        new = BitMap64(positions) - self._damaged
        if new:
            self._damaged |= new
            self._log_damage(new)
            self.renew_exclusions()
        return len(new)

    @contextlib.contextmanager
    def quarantining(self, positions: BitMap64) -> Iterator[None]:
        """No table draws these inside the context, nor afterwards if they are quarantined by then. One at a time."""
        self._being_quarantined = positions
        self.renew_exclusions()
        try:
            yield
        finally:
            self._being_quarantined = BitMap64()
            self.renew_exclusions()

    def renew_exclusions(self) -> None:
        """No table draws what is quarantined, is about to be, or is damaged."""
        self.excluded = self._store.quarantined() | self._damaged | self._being_quarantined
        for table in self:
            table.exclude(self.excluded)
        self._change.notify()

    def marked(self, records: Iterable[LoggedRecord]) -> None:
        """Tells the tables that signals of these records have changed."""
        for record in records:
            for table in self:
                table.on_marked(record)
        self._change.notify()

    async def specify(self, spec: replay_pb2.TableSpec) -> Table:
        """Makes a table, or changes one, durably.

        Raises:
          TableSpecError: nothing was changed.
          StoreError: it holds now, but a restart may undo it; do it again.
        """
        check_spec(spec)
        async with self._specifying:
            table = self._tables.get(spec.name)
            if table is None and len(self._tables) >= TABLES_MAX:
                raise TableSpecError(
                    f"there are {len(self._tables)} tables, and at most {TABLES_MAX} may be: {spec.name!r} was not "
                    "made; change one that is not needed"
                )
            if table is None:
                await self._add(spec, new_state(spec, self._end()), configured=None)
                table = self._tables[spec.name]
            elif table.kind != spec.kind:
                raise TableSpecError(
                    f"table {spec.name!r} is {table.kind}, not {spec.kind}: a table keeps its kind; "
                    "choose another name, or leave the kind as it is"
                )
            elif table.respec(spec):
                await self._fill(table)
            await asyncio.wrap_future(self._committer.put_table(spec.name, table.state))
        self.refresh()
        return table

    async def save_priorities(self) -> None:
        """Writes priorities that have changed since the last call. Raises StoreError: they are still to be written."""
        for table in self:
            positions, priorities = table.dirty_priorities()
            if len(positions):
                put = functools.partial(self._store.put_priorities, table.name, positions, priorities)
                try:
                    await asyncio.wrap_future(self._committer.call(put))
                except BaseException:  # cancelled too: it may not have begun
                    table.priorities_not_stored(positions)
                    raise

    def stats(self, table: Table) -> replay_pb2.TableStats:
        """The counters of one table."""
        strata = sorted(table.strata().items(), key=lambda item: -item[1])[:_STRATA_SHOWN]
        return replay_pb2.TableStats(
            name=table.name,
            kind=table.kind,
            available=table.available(),
            inserts=table.inserts,
            samples=table.state.samples,
            samples_per_insert=table.limiter.samples_per_insert,
            min_size=table.limiter.min_size_to_sample,
            min_diff=table.limiter.min_diff,
            max_diff=table.limiter.max_diff,
            insert_wait_s=table.insert_wait_s,
            sample_wait_s=table.sample_wait_s,
            spec=table.spec,
            first_position=table.first_position(),
            strata=dict(strata),
            cursor=table.state.cursor,
        )

    def _log_damage(self, new: BitMap64) -> None:
        now_s = time.monotonic()
        if now_s >= self._log_damage_due_s:
            self._log_damage_due_s = now_s + LOG_AGAIN_S
            shown = ", ".join(str(position) for position in list(new)[:5])
            _log.error(
                "%d records are damaged and no longer sampled, %d in all (more within %.0f s are not logged): %s",
                len(new),
                len(self._damaged),
                LOG_AGAIN_S,
                shown,
            )

    async def _add(
        self, spec: replay_pb2.TableSpec, state: replay_pb2.TableState, configured: replay_pb2.TableSpec | None
    ) -> None:
        if state.HasField("spec") and state.spec.kind != spec.kind:
            await self._forget(spec.name)
        table = make_table(spec, state, self._store, self._config.sample_seed, shard=self._shard)
        if configured is not None:
            table.state.configured.CopyFrom(configured)
        await self._fill(table)
        table.reserve(self._reserved)
        self._tables[table.name] = table
        self.renew_exclusions()

    async def _forget(self, name: str) -> None:
        try:
            await asyncio.wrap_future(self._committer.call(functools.partial(self._store.drop_table, name)))
        except StoreFull as error:
            _log.warning("table %r will be forgotten at another start: %s", name, error)

    async def _fill(self, table: Table) -> None:
        """Shows a table every record of the log, in groups, so that the service goes on meanwhile."""
        priorities: Priorities = self._store.priorities(table.name)
        position = self._store.counters().first_position if table.needs_headers else self._end()
        while position < (end := self._end()):
            end = min(position + _LOAD_RECORDS, end)
            group = await self._undamaged(range(position, end))
            table.load(group, priorities, complete=False)
            priorities, position = (), end
        # Nothing else ran since the log's end was looked at last: the table knows all of it.
        table.load((), priorities)
        self._filled_to[table.name] = position

    async def _undamaged(self, positions: Sequence[int]) -> list[InsertedRecord]:
        while True:
            try:
                return await asyncio.to_thread(self._read, positions)
            except StoreCorrupt as error:
                damaged = set(error.positions).intersection(positions)
                if not damaged:
                    raise
                self.exclude_damaged(damaged)
                positions = [position for position in positions if position not in damaged]

    def _end(self) -> int:
        return self._store.counters().next_position

    def _read(self, positions: Sequence[int]) -> list[InsertedRecord]:
        """The records at these positions, their headers' signals overlaid with those of their marks."""
        group = []
        marks = self._store.marks(positions)
        for record in self._store.read_headers(positions):
            header = record.header
            if record.position in marks:
                header.signals.update(marks[record.position].signals)
            group.append(InsertedRecord(record.position, header, self._store.origin(record.origin_id)))
        return group
