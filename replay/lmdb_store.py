"""The durable store: a log of LMDB segments, written by one thread in synced group commits.

What lies where on disk, and what holds after every crash, is specified in segment.py. Here is the writer: it commits to
the active segment, begins the next one when that is full, and removes the oldest ones that hold evicted records only.

What each durability may lose:
  sync   Nothing that was committed: data and commit are on disk when a call returns.
  async  The data of a commit is on disk when it returns, the page that makes it the newest one is not yet: the next
         commit, or `sync`, at the latest async_ms_max later if somebody heeds `sync_due_s`, brings it there. A crash of
         the machine before that undoes the last commit as a whole. What the process had written, a crash of the process
         does not undo. Quarantines are on disk when they return, and a full segment before the next one is begun.

A full disk is found before a transaction begins, for space is allocated ahead. The file `reserve` beside the data lets
draws and evictions go on when the disk is full (disk_reserve.py). After any other failure of the active segment nothing
more is written, for what LMDB holds in memory can no longer be trusted; reading goes on.

Readers keep a transaction for one batch only: in the active segment an old one would keep every page freed since.
Closing waits for transactions under way, whose memory would be unmapped under them.

Exceptions: StoreFull, StoreCorrupt, StoreFormatError, StoreBusy, StoreError (see replay.store).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.block import BlockRecord, EncodedBlock, encode_blocks
from replay.commit_plan import CommitPlan, plan_commit
from replay.disk_reserve import RESERVE_BYTES, DiskReserve
from replay.lmdb_environment import MAP_BYTES, EnvironmentOptions, Transaction
from replay.log_view import LogView, Moment
from replay.priority_file import PriorityFile
from replay.quarantines import Quarantines
from replay.segment import Segment, commit_bytes, put_blocks, put_signals
from replay.segment_log import SegmentLog
from replay.segment_state import (
    delete_table,
    put_counters,
    put_origins,
    put_quarantines,
    put_sequences,
    put_tables,
    read_counters,
    read_origins,
    read_quarantines,
    read_sequences,
    read_tables,
    reading_state,
)
from replay.sequences import RunSequences
from replay.store import (
    Append,
    AppendOutcome,
    Quarantine,
    StoreCorrupt,
    StoreCounters,
    StoreError,
    StoreFull,
    StoreSettings,
    origin_digest,
)
from replay.store_directory import RESERVE, StoreDirectory

_UPKEEP_COMMITS = 1000
_FILE_TO_LIVE_MAX = 1.5
_LIVE_BYTES_TO_MATTER = 64 * 1024**2

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class LmdbStore(LogView):
    """A Store in a directory.

    Args:
      directory: created if need be; held exclusively until `close`.
      settings: may differ from those of earlier openings.
      map_bytes: address space of a segment, to begin with.

    Raises:
      StoreBusy, StoreFormatError, StoreCorrupt, StoreFull, StoreError.
    """

    def __init__(self, directory: Path, settings: StoreSettings, *, map_bytes: int = MAP_BYTES) -> None:
        super().__init__()
        self.directory = directory
        self._settings = settings
        self._is_async = settings.durability == "async"
        self._closed = False
        self._failure = ""
        self._unsynced_since_s: float | None = None
        self._commits = 0
        self._runs: dict[bytes, RunSequences] = {}
        self._last_block: EncodedBlock | None = None
        """That of the last commit, for the next to continue; None where there was none since a segment began."""
        self._reserve = DiskReserve(directory / RESERVE)
        with contextlib.ExitStack() as undo:
            self._place = StoreDirectory(directory)
            undo.callback(self._place.close)
            options = EnvironmentOptions(writable=True, map_bytes=map_bytes, metasync=not self._is_async)
            self._log = SegmentLog(self._place.segments, self._place.store_id, settings, options)
            undo.callback(self._log.close)
            self._load()
            undo.pop_all()

    def _load(self) -> None:
        active = self._log.active
        with active.reading() as transaction, reading_state(active.directory):
            counters = read_counters(transaction)
            self._origins = read_origins(transaction)
            self._tables = read_tables(transaction)
            self._quarantines = read_quarantines(transaction)
            parsed = (common_pb2.Origin.FromString(origin) for origin in self._origins)
            self._origin_ids = {origin_digest(origin): index for index, origin in enumerate(parsed)}
        # Older segments may have gone with a machine whose last commit, that evicted them, went too.
        first = max(counters.first_position, self._log.segments[0].first_position)
        self._counters = dataclasses.replace(counters, first_position=first)
        moment = self._moment()
        payload_bytes = moment.block_index.payload_bytes - self._bytes_below(first, moment)[0]
        self._counters = dataclasses.replace(self._counters, payload_bytes=payload_bytes)
        times_ns = moment.block_index.times_ns
        self._commit_time_ns = int(times_ns[-1]) if len(times_ns) else 0
        self._upkeep()

    @property
    def store_id(self) -> bytes:
        """Random id of the store (16 bytes), the one in format.json."""
        return bytes.fromhex(self._place.store_id)

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        """See Store.commit. Always from the same thread."""
        first_position = max(self._counters.first_position, min(retain_from, self._counters.next_position))
        if not (appends or tables or first_position > self._counters.first_position):
            return []  # not worth a synced transaction, nor on a full disk the reserve
        if appends and not self._reserve.take():
            raise StoreFull(f"commit failed: less than {RESERVE_BYTES} bytes left on the disk; nothing was stored")
        try:
            return self._commit(appends, tables, first_position)
        except StoreFull:
            if appends or not self._reserve.release():
                raise
            return self._commit(appends, tables, first_position)

    def _commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], first_position: int
    ) -> list[AppendOutcome]:
        plan = plan_commit(appends, self._counters, self._sequences, self._origin_ids, self._settings)
        if plan.records:
            self._begin_segment_if_full()
        blocks = self._blocks(plan)
        continued = bool(blocks) and blocks[0].summary.first_position < plan.first_position
        self._make_room(plan, blocks)
        counters = self._counters_after(plan, first_position)
        runs_before = {run: self._sequences(run) for run in plan.runs}

        def change(transaction: Transaction) -> None:
            if blocks:
                put_blocks(transaction, blocks, continued=continued)
            put_origins(transaction, len(self._origins), plan.origins.values())
            put_sequences(transaction, plan.runs, runs_before)
            put_tables(transaction, tables)
            put_counters(transaction, counters)

        self._write(self._log.active, "commit", change)
        # Only now, with the transaction on disk, does memory follow; the counters come last, for readers begin there.
        self._log.index.extend([block.summary for block in blocks])
        self._last_block = blocks[-1] if blocks else self._last_block
        for digest, origin in plan.origins.items():
            self._origin_ids[digest] = len(self._origins)
            self._origins.append(origin)
        self._runs.update(plan.runs)
        self._tables = {**self._tables, **{name: _copied(state) for name, state in tables.items()}}
        self._counters = counters
        self._log.drop_below(counters.first_position)
        self._commits += 1
        if self._commits % _UPKEEP_COMMITS == 0:
            self._upkeep()
        return plan.outcomes

    def tables(self) -> Mapping[str, replay_pb2.TableState]:
        """See StoreView.tables."""
        return self._tables

    def next_sequence(self, run: bytes) -> int:
        """See Store.next_sequence."""
        return self._sequences(run).next

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """See StoreView.origin."""
        if not 0 <= origin_id < len(self._origins):
            raise StoreCorrupt(f"origin {origin_id} was never stored; there are {len(self._origins)}")
        return common_pb2.Origin.FromString(self._origins[origin_id])

    def drop_table(self, name: str) -> None:
        """See Store.drop_table."""
        self._write(self._log.active, "drop_table", lambda transaction: delete_table(transaction, name))
        self._tables = {other: state for other, state in self._tables.items() if other != name}
        self.sync()
        for segment in self._log.segments:
            PriorityFile(segment.directory, name).delete()

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See Store.annotate."""
        moment = self._moment()
        there = moment.those_there(sorted(signals))
        for segment, positions in moment.by_segment(there):
            of_segment = {position: signals[position] for position in positions if signals[position]}
            if of_segment:
                self._write(segment, "annotate", partial(put_signals, signals=of_segment))
                if self._is_async:
                    segment.environment.sync()
        return len(there)

    def quarantine(self, entry: replay_pb2.QuarantineEntry, positions: BitMap64) -> replay_pb2.QuarantineEntry:
        """See Store.quarantine."""
        counters = self._counters
        planned = self._quarantines.planned(entry, positions, counters.first_position, counters.next_position)
        return self._put_quarantine("quarantine", planned)

    def lift_quarantine(self, quarantine_id: int, why: str, time_ns: int) -> replay_pb2.QuarantineEntry:
        """See Store.lift_quarantine."""
        return self._put_quarantine("lift_quarantine", self._quarantines.planned_lift(quarantine_id, why, time_ns))

    def put_priorities(self, table: str, positions: NDArray[np.uint64], priorities: NDArray[np.float64]) -> None:
        """See Store.put_priorities. Not part of a transaction (priority_file.py)."""
        counters, segments, _ = self._moment()
        wanted = positions.astype(np.int64)
        there = (wanted >= counters.first_position) & (wanted < counters.next_position)
        wanted, priorities = wanted[there], priorities[there]
        ends = np.searchsorted(wanted, [*(segment.first_position for segment in segments[1:]), counters.next_position])
        start = 0
        for segment, end in zip(segments, ends.tolist(), strict=True):
            if end > start:
                offsets = wanted[start:end] - segment.first_position
                PriorityFile(segment.directory, table).put(offsets, priorities[start:end])
            start = end

    def sync_due_s(self) -> float | None:
        """When `sync` should be called at the latest (time.monotonic, s); None: everything is on disk."""
        since_s = self._unsynced_since_s
        return None if since_s is None else since_s + self._settings.async_ms_max / 1e3

    def sync(self) -> None:
        """Returns once every commit is on disk. Raises StoreError. Always from the thread that commits."""
        if self._unsynced_since_s is not None:
            self._log.active.environment.sync()
            self._unsynced_since_s = None

    def close(self) -> None:
        """See StoreView.close."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(StoreError):  # everything is as it would be after a crash of the process
                self.sync()
            self._log.close()
            self._place.close()

    def _moment(self) -> Moment:
        if self._closed:
            raise StoreError("the store is closed")
        return Moment(self._counters, self._log.segments, self._log.index.view)

    def _quarantines_now(self) -> Quarantines:
        return self._quarantines

    def _sequences(self, run: bytes) -> RunSequences:
        known = self._runs.get(run)
        if known is not None:
            return known
        self._moment()  # raises where the store is closed
        active = self._log.active
        with active.reading() as transaction, reading_state(active.directory):
            return read_sequences(transaction, run)

    def _blocks(self, plan: CommitPlan) -> list[EncodedBlock]:
        if not plan.records:
            return []
        records = [
            BlockRecord(origin_id, record.header, record.payload, record.payload_digest, chain)
            for origin_id, record, chain in plan.records
        ]
        # A clock that jumps back makes no record older than the one before it.
        self._commit_time_ns = max(self._commit_time_ns, time.time_ns())
        last = self._last_block
        added_bytes = sum(len(record.header) + len(record.payload) for record in records)
        if last is not None and not last.may_be_continued(self._commit_time_ns, added_bytes):
            last = None
        return encode_blocks(plan.first_position, self._commit_time_ns, records, last)

    def _counters_after(self, plan: CommitPlan, first_position: int) -> StoreCounters:
        moment = self._moment()
        evicted, _ = self._bytes_below(first_position, moment)
        added = plan.counters.payload_bytes - self._counters.payload_bytes
        payload_bytes = moment.block_index.payload_bytes - evicted + added
        return dataclasses.replace(plan.counters, first_position=first_position, payload_bytes=payload_bytes)

    def _begin_segment_if_full(self) -> None:
        if not self._log.is_full(self._counters.next_position, self._live_bytes()):
            return
        self._check_failure("commit")
        try:
            self._log.begin_next(self._counters, self._quarantines, self._live_bytes())
        except StoreFull:
            raise
        except StoreError as error:
            self._fail("commit", error)
        self._last_block = None

    def _make_room(self, plan: CommitPlan, blocks: Sequence[EncodedBlock]) -> None:
        small_values = 2 * len(plan.runs) + sum(len(sequences.ahead) for sequences in plan.runs.values())
        needed_bytes = commit_bytes(blocks, small_values + len(plan.origins))
        # Without records a few pages that others have left will do.
        if not self._log.allocate(needed_bytes, self._live_bytes()) and blocks:
            raise StoreFull(f"commit failed: no space on the disk for {needed_bytes} bytes; nothing was stored")

    def _live_bytes(self) -> int:
        moment = self._moment()
        return moment.block_index.bytes - self._bytes_below(self._counters.first_position, moment)[1]

    def _put_quarantine(self, what: str, quarantine: Quarantine) -> replay_pb2.QuarantineEntry:
        self._write(self._log.active, what, lambda transaction: put_quarantines(transaction, [quarantine]))
        self._quarantines = self._quarantines.with_one(quarantine)
        self.sync()
        return _copied(quarantine.entry)

    def _write(self, segment: Segment, what: str, change: Callable[[Transaction], None]) -> None:
        self._moment()  # raises where the store is closed
        self._check_failure(what)
        try:
            segment.write(what, change)
        except (StoreFull, StoreCorrupt):
            raise
        except StoreError as error:
            if segment is not self._log.active:
                raise
            self._fail(what, error)
        if self._is_async and segment is self._log.active:
            self._unsynced_since_s = time.monotonic()

    def _check_failure(self, what: str) -> None:
        if self._failure:
            raise StoreError(
                f"{what} failed: an earlier write did ({self._failure}); restart the service, reading goes on meanwhile"
            )

    def _fail(self, what: str, error: StoreError) -> NoReturn:
        self._failure = str(error)
        with contextlib.suppress(StoreError):  # then what it holds cannot be read either
            self._log.active.environment.make_readable_again()
        raise StoreError(
            f"{what} failed: {error}; nothing was stored, nor will anything be: restart the service, reading goes on"
        ) from error

    def _upkeep(self) -> None:
        self._log.check_readers()
        file_bytes, live_bytes, _ = self.sizes()
        if live_bytes > _LIVE_BYTES_TO_MATTER and file_bytes > _FILE_TO_LIVE_MAX * live_bytes:
            _log.warning(
                "the store takes %d bytes for %d of records, more than %.1f times: is an old reader holding pages?",
                file_bytes,
                live_bytes,
                _FILE_TO_LIVE_MAX,
            )


def _copied(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
