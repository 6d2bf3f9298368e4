"""What the replay service does, free of gRPC: appends and draws (ingest.py, draws.py), and everything about the log.

Puts the parts of a service together and answers what is neither an append nor a draw: listing, counting, marks,
priorities, quarantines, tables. One asyncio loop owns it; only the committer's thread, and threads that read, run
beside it.

Exceptions: those of ingest, draws, table_set, filters; RequestInvalid for a request that breaks the contract.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.change import Change
from replay.config import ReplayConfig
from replay.draws import Draws
from replay.ingest import Ingest, StreamsExhausted
from replay.listing import Group, Listing
from replay.provenance import SIGNAL_MAX
from replay.record import LoggedRecord
from replay.source import ANNOTATIONS_MAX, POSITIONS_MAX
from replay.store import Store, StoreError
from replay.table_set import TableSet
from replay.writer import GroupCommitter

WHY_CHARACTERS_MAX = 1_000
SIGNALS_MAX = 100
SIGNAL_NAME_CHARACTERS_MAX = 128
PRIORITIES_MAX = 100_000

_MAINTAIN_S = 1.0

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class RequestInvalid(ValueError):
    """A request breaks the contract of replay.proto; the message names value, bound and consequence."""


class ReplayHandlers:
    """The service's state and what can be done with it. Call `start` before anything else.

    Args:
      config: checked by `check_config`.
      store: read here; written through `committer` only.
      committer: the store's writer.
      shard: the number of the service among several.
    """

    def __init__(self, config: ReplayConfig, store: Store, committer: GroupCommitter, shard: int = 0) -> None:
        change = Change()
        self.config = config
        self.store = store
        self.tables = TableSet(config, store, committer, change, shard)
        self.ingest = Ingest(config, store, committer, self.tables, change)
        self.draws = Draws(config, store, committer, self.tables, change)
        self.lists = 0
        """List calls open now."""
        self._committer = committer
        self._changes: set[asyncio.Task[Any]] = set()
        self._quarantining = asyncio.Lock()
        self._marking = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether anything goes on that needs the store: streams, or changes that are being made."""
        return bool(self.ingest.streams + self.draws.streams + self.lists + len(self._changes))

    async def start(self) -> None:
        """Makes the tables from what the store holds."""
        await self.tables.load()

    async def maintain(self) -> None:
        """Evicts what has grown too old, and saves changed priorities, until cancelled."""
        save_due_s = time.monotonic() + self.config.priorities_interval_s
        while True:
            await asyncio.sleep(min(_MAINTAIN_S, self.config.priorities_interval_s))
            try:
                self.tables.evict_if_due()
                if time.monotonic() >= save_due_s:
                    save_due_s = time.monotonic() + self.config.priorities_interval_s
                    await self.tables.save_priorities()
            except StoreError as error:
                _log.warning("eviction by age, or saving priorities, failed and will be tried again: %s", error)

    async def list_records(self, request: replay_pb2.ListRequest) -> AsyncGenerator[Group, None]:
        """Groups of records in log order, without those evicted meanwhile; to be closed.

        Raises FilterError, StoreError, RequestInvalid, StreamsExhausted.
        """
        if self.lists >= self.config.list_streams_max:
            raise StreamsExhausted(
                f"{self.lists} lists are being read, the limit is replay.list_streams_max: try later"
            )
        if len(request.positions) > POSITIONS_MAX:
            raise RequestInvalid(
                f"{len(request.positions)} positions in one request, at most {POSITIONS_MAX} may be: nothing was read; "
                "send several"
            )
        listing = Listing(
            self.store,
            filter_text=request.filter,
            from_position=max(request.from_position, self.tables.first_position),
            limit=request.limit,
            with_payload=request.with_payload,
            positions=_ascending(request.positions),
        )
        groups = listing.groups()
        self.lists += 1
        try:
            while (group := await asyncio.to_thread(next, groups, None)) is not None:
                if listing.damaged:
                    self.tables.exclude_damaged(listing.damaged)
                    listing.damaged.clear()
                yield group
        finally:
            self.lists -= 1

    async def annotate(self, request: replay_pb2.AnnotateRequest) -> int:
        """Writes signals about records; returns how many of these are in the store. Raises RequestInvalid."""
        if len(request.annotations) > ANNOTATIONS_MAX:
            raise RequestInvalid(
                f"{len(request.annotations)} annotations in one request, at most {ANNOTATIONS_MAX} may be: nothing was "
                "written; send several"
            )
        signals: dict[int, dict[str, float]] = {}
        for annotation in request.annotations:
            _check_signals(annotation.position, annotation.signals)
            signals.setdefault(annotation.position, {}).update(annotation.signals)
        return await self._to_its_end(self._annotate(signals))

    def update_priorities(self, request: replay_pb2.UpdatePrioritiesRequest) -> int:
        """Changes priorities of a prioritised table. Raises UnknownTable, RequestInvalid."""
        table = self.tables[request.table]
        if table.kind != "prioritised":
            raise RequestInvalid(f"table {request.table!r} is {table.kind}: only a prioritised table has priorities")
        if len(request.positions) != len(request.priorities) or len(request.positions) > PRIORITIES_MAX:
            raise RequestInvalid(
                f"{len(request.positions)} positions with {len(request.priorities)} priorities: they must pair, at "
                f"most {PRIORITIES_MAX} in a request; nothing was changed"
            )
        priorities = np.array(request.priorities, np.float64)
        if not np.all((priorities >= 0) & (priorities <= SIGNAL_MAX)):
            raise RequestInvalid(f"a priority is negative, above {SIGNAL_MAX:.0e} or no number: nothing was changed")
        return table.update_priorities(np.array(request.positions, np.uint64), priorities)

    async def quarantine(self, request: replay_pb2.QuarantineRequest) -> tuple[replay_pb2.QuarantineEntry, BitMap64]:
        """Puts records under quarantine, or lifts one. Raises RequestInvalid, FilterError, StoreError."""
        if not request.dry_run and not 1 <= len(request.why.strip()) <= WHY_CHARACTERS_MAX:
            raise RequestInvalid(
                f"why has {len(request.why)} characters, must have 1 to {WHY_CHARACTERS_MAX}: say why, for whoever "
                "reads of it later; nothing was changed"
            )
        return await self._to_its_end(self._lift(request) if request.lift else self._quarantine(request))

    def stats(self) -> replay_pb2.StatsResponse:
        """All counters. Those of refusals, commits and waits count from the start of the service."""
        counters, commits, sizes = self.store.counters(), self._committer.statistics(), self.store.sizes()
        return replay_pb2.StatsResponse(
            records=counters.records,
            payload_bytes=counters.payload_bytes,
            appended_records=counters.next_position,
            appended_steps=counters.appended_steps,
            evicted_records=counters.first_position,
            duplicate_records=counters.duplicate_records,
            refused_records=self.ingest.refused_records,
            file_bytes=sizes.file_bytes,
            live_bytes=sizes.live_bytes,
            commits=commits.commits,
            commit_ms_mean=commits.commit_ms_mean,
            append_streams=self.ingest.streams,
            tables=[self.tables.stats(table) for table in self.tables],
            signal_totals=counters.signal_totals,
            chain_head=counters.chain_head,
            quarantined_records=self.store.quarantined().range_cardinality(
                counters.first_position, counters.next_position
            ),
            damaged_records=self.tables.damaged_records,
            segments=sizes.segments,
            durability=self.config.durability,
            disk_wait_s=self.ingest.disk_wait_s,
            pending_bytes=self.ingest.pending_bytes,
        )

    async def set_table(self, request: replay_pb2.SetTableRequest) -> replay_pb2.TableStats:
        """Makes or changes a table. Raises TableSpecError, LimiterError, StoreError."""
        return self.tables.stats(await self._to_its_end(self.tables.specify(request.spec)))

    async def _to_its_end(self, change: Coroutine[object, object, Result]) -> Result:
        """Makes a change that goes on if whoever asked is gone: half of one would leave tables and store apart."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._end_change)
        return await asyncio.shield(task)

    def _end_change(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has been told, or is gone

    async def _annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        annotated = await asyncio.wrap_future(self._committer.call(lambda: self.store.annotate(signals)))
        if any(table.needs_headers for table in self.tables):
            async with self._marking:  # in turn: what was read before a later mark must not be told after it
                self.tables.marked(await asyncio.to_thread(self._logged, sorted(signals)))
        return annotated

    async def _quarantine(self, request: replay_pb2.QuarantineRequest) -> tuple[replay_pb2.QuarantineEntry, BitMap64]:
        if not request.filter.strip():
            raise RequestInvalid("a quarantine needs a filter: nothing was changed ('position >= 0' is everything)")
        async with self._quarantining:
            listing = Listing(self.store, filter_text=request.filter)
            positions = await asyncio.to_thread(_positions, listing)
            self.tables.exclude_damaged(listing.damaged)
            entry = replay_pb2.QuarantineEntry(
                filter=request.filter, why=request.why, time_ns=time.time_ns(), records=len(positions)
            )
            if request.dry_run:
                return entry, positions
            # From here on, not from when it is on disk: a draw under way may be delivered, a new one not.
            with self.tables.quarantining(positions):
                entry = await asyncio.wrap_future(self._committer.call(lambda: self.store.quarantine(entry, positions)))
            return entry, positions

    async def _lift(self, request: replay_pb2.QuarantineRequest) -> tuple[replay_pb2.QuarantineEntry, BitMap64]:
        if request.filter:
            raise RequestInvalid("lift and filter exclude each other: nothing was changed")
        async with self._quarantining:
            known = {quarantine.entry.id: quarantine for quarantine in self.store.quarantines()}
            held = [str(number) for number, quarantine in known.items() if not quarantine.entry.lifted_time_ns]
            if str(request.lift) not in held:
                raise RequestInvalid(
                    f"quarantine {request.lift} is not in force; in force are: {', '.join(held) or 'none'}: "
                    "nothing was changed"
                )
            positions = known[request.lift].positions
            if request.dry_run:
                return known[request.lift].entry, positions
            entry = await asyncio.wrap_future(
                self._committer.call(lambda: self.store.lift_quarantine(request.lift, request.why, time.time_ns()))
            )
            self.tables.renew_exclusions()
            return entry, positions

    def _logged(self, positions: Sequence[int]) -> list[LoggedRecord]:
        listing = Listing(self.store, positions=positions)
        return [record for group in listing.groups() for record in listing.logged(group)]


def _positions(listing: Listing) -> BitMap64:
    return BitMap64(record.position for group in listing.groups() for record in group.records)


def _ascending(positions: Sequence[int]) -> Sequence[int]:
    if any(left >= right for left, right in itertools.pairwise(positions)):
        raise RequestInvalid("the positions wanted do not ascend: nothing was read")
    return positions


def _check_signals(position: int, signals: Mapping[str, float]) -> None:
    if len(signals) > SIGNALS_MAX:
        raise RequestInvalid(
            f"{len(signals)} signals of position {position} in one request, at most {SIGNALS_MAX} may be: nothing was "
            "written"
        )
    for name, value in signals.items():
        if not 1 <= len(name) <= SIGNAL_NAME_CHARACTERS_MAX:
            raise RequestInvalid(
                f"a signal of position {position} has a name of {len(name)} characters, must have 1 to "
                f"{SIGNAL_NAME_CHARACTERS_MAX}: nothing was written"
            )
        if math.isnan(value) or abs(value) > SIGNAL_MAX:
            raise RequestInvalid(
                f"signal {name!r} of position {position} is {value}, must be finite and within +-{SIGNAL_MAX:.0e}: "
                "nothing was written"
            )
