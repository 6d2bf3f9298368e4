"""What a table is: a window of the log, a way to draw from it, and the counts that its limiter goes by.

All tables are views of one log. A table holds positions only, never records; what differs between kinds is which
positions may be drawn and how likely each is. A table neither waits nor reads nor commits: it is told what happened to
the log (`refresh`, `on_inserted`, `on_marked`, `exclude`), asked whether it may draw (`can_sample`), and makes picks.

Making one: `making.make_table`, then `load`, in as many parts as its caller likes; until that is complete a table of a
kind that must be loaded draws from what it has been shown.

Exceptions: TableSpecError (replay.table_spec) for a change that is none a table can make.
"""

from __future__ import annotations

import abc
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.record import LoggedRecord
from replay.store import StoreCounters
from replay.table_spec import TableSpecError, check_spec, limiter_of
from replay.tables.exclusion import Exclusion

Priorities = Iterable[tuple[NDArray[np.uint64], NDArray[np.float64]]]
"""As StoreView.priorities gives them."""


class LogView(Protocol):
    """What a table asks of a store; see StoreView."""

    def counters(self) -> StoreCounters:
        """The numbers after the newest commit."""
        ...

    def window(self, records_max: int, payload_bytes_max: int, newer_than_ns: int) -> int:
        """First position of the newest records that keep to all three bounds; 0 for a bound: none."""
        ...


class InsertedRecord(NamedTuple):
    """A record that has been committed. In `load` its header's signals are overlaid with those of its marks."""

    position: int
    header: common_pb2.RecordHeader
    origin: common_pb2.Origin


class Pick(NamedTuple):
    """Positions [B] chosen for one batch, and the table's state once they are drawn."""

    positions: NDArray[np.uint64]
    probabilities: NDArray[np.float64]
    """With which each was chosen in this draw; 1 for a table that gives each record in its turn."""
    available: int
    """Records that could have been drawn, N."""
    state: replay_pb2.TableState


class Table(abc.ABC):
    """One table of a service. Used from one thread.

    Args:
      spec: what it is told; checked by `check_spec`.
      state: as it was committed last, or an empty one.
      view: the log.
      seed: of its draws, together with its name and its count of samples: a restart goes on where it was.
      clock_ns: the time (ns since the epoch), for retention by age.

    Attributes:
      state: what is to be committed, draws included whose commit is still under way.
      needs_headers: whether `on_inserted` and `load` must be called with records, and `on_marked` at all.
      draws_once: whether a record must never be drawn twice, so that a draw's commit must be waited for.
      insert_wait_s, sample_wait_s: kept by whoever waits.
    """

    kind: ClassVar[str]
    draws_once: ClassVar[bool] = False

    def __init__(
        self,
        spec: replay_pb2.TableSpec,
        state: replay_pb2.TableState,
        view: LogView,
        seed: int = 0,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = spec.name
        self.spec = _copy(spec)
        self.limiter = limiter_of(spec)
        self.state = replay_pb2.TableState()
        self.state.CopyFrom(state)
        self.state.spec.CopyFrom(spec)
        self.insert_wait_s = 0.0
        self.sample_wait_s = 0.0
        self._view = view
        self._seed = (seed, zlib.crc32(spec.name.encode()))
        self._clock_ns = clock_ns
        self._committed = self.state
        self._draws = 0
        self._reserved = 0
        self._excluded = Exclusion(BitMap64())
        counters = view.counters()
        self._log_first = counters.first_position
        self._first = self._next = counters.next_position
        self._change_window(self._window_start(counters.next_position), counters.next_position)
        self._samples_of_other_limiters = 0
        self._restart_limiter()

    @property
    def needs_headers(self) -> bool:
        """See the class."""
        return False

    @property
    def inserts(self) -> int:
        """Records ever inserted: all of the log's, where the table's kind does not choose among them."""
        return self._next

    @abc.abstractmethod
    def available(self) -> int:
        """Records that could be drawn now."""

    @abc.abstractmethod
    def pick(self, count: int) -> Pick:
        """Chooses `count` records, without changing the table; `can_sample` was true for them."""

    def drawn_from(self, position: int, count: int) -> NDArray[np.uint64]:
        """The first positions, `count` at most, from `position` on that were drawn before and are still here.

        Of a table that gives each record once; none of another.
        """
        del position, count
        return np.empty(0, np.uint64)

    def first_position(self) -> int:
        """First position of the table's own window: it has no use for records before it."""
        return self._first

    def strata(self) -> Mapping[str, int]:
        """Records that could be drawn by stratum; none where there are no strata."""
        return {}

    def refresh(self, first_position: int, next_position: int) -> None:
        """Follows the log after commits and evictions: it now has [first_position, next_position).

        Retention by age goes on in time, so call it now and then without commits too.
        """
        self._log_first = max(self._log_first, first_position)
        end = max(self._next, next_position)
        # Never backwards, or a clock that is set back would bring records back that are no longer kept.
        self._change_window(max(self._first, self._window_start(end)), end)

    def on_inserted(self, records: Sequence[InsertedRecord]) -> None:
        """Takes in new records, in order of position; before or after the `refresh` that follows their commit."""
        del records  # most tables go by positions alone

    def on_marked(self, record: LoggedRecord) -> None:
        """Takes notice that a record's marks have changed."""
        del record

    def load(self, records: Iterable[InsertedRecord], priorities: Priorities = (), *, complete: bool = True) -> None:
        """Shows the table what the log holds already. Records that it has heard of meanwhile it knows better.

        Args:
          records: in any order; none needed unless `needs_headers`.
          priorities: as they were stored for it; all of them with the first part.
          complete: whether this was the last part.
        """
        del records, priorities, complete

    def exclude(self, positions: BitMap64) -> None:
        """From now on exactly these may not be drawn: they are quarantined, or damaged. Not changed by the caller."""
        if positions != self._excluded.positions:
            before, self._excluded = self._excluded, Exclusion(positions)
            self._exclusion_changed(before)

    def respec(self, spec: replay_pb2.TableSpec) -> bool:
        """Changes limiter, retention and parameters. Returns whether the table must be loaded anew.

        Counts go on; where they would hold one side up under the new limiter, see RateLimiter.samples_to_start_from.

        Raises:
          TableSpecError: with nothing changed; name and kind are fixed.
        """
        if (spec.name, spec.kind) != (self.name, self.kind):
            raise TableSpecError(
                f"table {self.name!r} is of kind {self.kind}, it cannot become {spec.name!r} of kind {spec.kind!r}: "
                "name and kind are fixed; make another table"
            )
        check_spec(spec)
        before, self.spec = self.spec, _copy(spec)
        state = replay_pb2.TableState()
        state.CopyFrom(self.state)
        state.spec.CopyFrom(spec)
        self.state = state
        first = min(self._window_start(self._next), self._next)
        grows = first < self._first
        self._change_window(first, self._next)
        reload = self._respecified(before, grows=grows)
        limiter = limiter_of(spec)
        if limiter != self.limiter:
            self.limiter = limiter
            self._restart_limiter()
        return reload

    def insertable(self, wanted: int) -> int:
        """How many of `wanted` records may be appended now, those reserved before counted in."""
        return self.limiter.insertable(
            wanted,
            inserts=self.inserts + self._reserved,
            samples=self._limiter_samples(),
            size=self.available() + self._reserved,
        )

    def reserve(self, count: int) -> None:
        """Counts `count` records as inserted until they are `settled`: they are on the way into the store."""
        self._reserved += count

    def settle(self, count: int) -> None:
        """Ends a reservation: the records are in the store, were duplicates, or failed."""
        self._reserved -= count

    def can_sample(self, count: int) -> bool:
        """Whether `count` records may be drawn now."""
        return self.limiter.can_sample(
            count, inserts=self.inserts, samples=self._limiter_samples(), size=self.available()
        )

    def begin_draw(self, state: replay_pb2.TableState) -> None:
        """Moves on to a pick's state; it is to be committed from here on, with what the table was told meanwhile."""
        state.spec.CopyFrom(self.spec)
        self.state = state
        self._draws += 1

    def end_draw(self, state: replay_pb2.TableState, *, committed: bool) -> None:
        """A draw's commit ended. Of a table that draws once, draws whose commits failed are taken back once none is
        under way.

        A failed one is not taken back if a later one was committed: records are skipped then, never drawn twice. One of
        another table has been delivered, and is not: the same random numbers would give the same records again.
        """
        self._draws -= 1
        if committed:
            self._committed = state
        if not self._draws and self.draws_once:
            restored = replay_pb2.TableState()
            restored.CopyFrom(self.state)
            restored.cursor, restored.samples = self._committed.cursor, self._committed.samples
            self.state = restored

    def update_priorities(self, positions: NDArray[np.uint64], priorities: NDArray[np.float64]) -> int:
        """Changes the priorities [n] of records at positions [n]; returns how many of them are in the table: here none.

        Raises ValueError for priorities that are not finite, not negative, and at most PRIORITY_MAX.
        """
        del positions, priorities
        return 0

    def dirty_priorities(self) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        """Positions [n], ascending, and priorities [n] that were changed since the last call, to be stored."""
        return np.empty(0, np.uint64), np.empty(0, np.float64)

    def priorities_not_stored(self, positions: NDArray[np.uint64]) -> None:
        """Storing what `dirty_priorities` gave for these failed: it is to give them again."""
        del positions

    def _window_moved(self, first: int, end: int) -> None:
        """The window becomes [first, end); self._first and self._next still say what it was."""
        del first, end

    def _exclusion_changed(self, before: Exclusion) -> None:
        """self._excluded is another one than `before`."""
        del before

    def _respecified(self, before: replay_pb2.TableSpec, *, grows: bool) -> bool:
        """self.spec is another one than `before`, and the window may have got records back; whether to load anew."""
        del before
        return grows and self.needs_headers

    def _limiter_samples(self) -> int:
        """Records that are no longer owed to a sampler."""
        return self.state.samples - self._samples_of_other_limiters

    def _restart_limiter(self) -> None:
        """Goes on from the counts that there are."""
        start = self.limiter.samples_to_start_from(inserts=self.inserts, samples=self._limiter_samples())
        self._samples_of_other_limiters = self.state.samples - start

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng((*self._seed, self.state.samples))

    def _drawn(self, count: int, cursor: int = 0) -> replay_pb2.TableState:
        """The state after `count` further draws; `cursor`: see TableState, and curated.py."""
        state = replay_pb2.TableState()
        state.CopyFrom(self.state)
        state.cursor, state.samples, state.inserts = cursor, self.state.samples + count, self.inserts
        return state

    def _window_start(self, end: int) -> int:
        spec, first = self.spec, self._log_first
        if spec.records_max:
            first = max(first, end - spec.records_max)
        if spec.payload_bytes_max or spec.age_s_max:
            newer_than_ns = self._clock_ns() - round(spec.age_s_max * 1e9) if spec.age_s_max else 0
            first = max(first, self._view.window(0, spec.payload_bytes_max, newer_than_ns))
        return first

    def _reach(self, records: Sequence[InsertedRecord]) -> None:
        """Extends the window to the newest of these records, which the log has: `refresh` may come later."""
        newest = max((record.position for record in records), default=-1)
        self._change_window(self._first, max(self._next, newest + 1))

    def _change_window(self, first: int, end: int) -> None:
        first = min(first, end)
        if (first, end) != (self._first, self._next):
            self._window_moved(first, end)
            self._first, self._next = first, end


def _copy(spec: replay_pb2.TableSpec) -> replay_pb2.TableSpec:
    copy = replay_pb2.TableSpec()
    copy.CopyFrom(spec)
    return copy
