"""The log of a directory, read without a service, and written to where no service has it open.

Reading works from any process, also beside a running server: it sees what was committed when it looks, and never holds
anything longer than a group of records. Writing opens the store exclusively, as a server would. A log of any size needs
the memory of one group of records.

Exceptions: SourceReadOnly, FilterError, SourceRefused for a quarantine that cannot be, StoreError (see replay.source).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.listing import Listing
from replay.provenance import SIGNAL_MAX
from replay.record import LoggedRecord
from replay.source import ANNOTATIONS_MAX, QuarantineResult, SourceReadOnly, SourceRefused
from replay.store import Store, StoreFormatError, StoreSettings, StoreView

_WHY_CHARACTERS_MAX = 1000

_WITH_CURSOR = "fresh"
"""The kind of table that consumes: what lies before its cursor is no longer available."""


_log = logging.getLogger(__name__)


class OfflineSource:
    """A RecordSource over the store in a directory. One thread at a time; use as a context manager, or close it.

    Args:
      directory: of the store.
      writable: whether to open it exclusively, so that marks and quarantines can be written.

    Raises StoreBusy where it is to be written and somebody has it open, and what else opening a store raises.
    """

    def __init__(self, directory: Path, *, writable: bool = False) -> None:
        self._directory = directory
        self._store: Store | None = _open_writable(directory) if writable else None
        self._view: StoreView = self._store or _open_readable(directory)
        self._damaged = BitMap64()

    @property
    def view(self) -> StoreView:
        """The store itself, for what needs more than records: the chain, for one."""
        return self._view

    def __enter__(self) -> OfflineSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        """See RecordSource.records. Damaged records are left out; `stats` has how many were come across."""
        return self._all(
            Listing(
                self._view, filter_text=filter_text, from_position=from_position, limit=limit, with_payload=with_payload
            )
        )

    def get(self, positions: Sequence[int], *, with_payload: bool = True) -> list[LoggedRecord]:
        """See RecordSource.get. Damaged records are left out, as by `records`."""
        wanted = sorted(set(positions))
        if not wanted:
            return []
        return list(self._all(Listing(self._view, positions=wanted, with_payload=with_payload)))

    def stats(self) -> replay_pb2.StatsResponse:
        """See RecordSource.stats: what only a service counts - refusals, commits, waits, streams - is 0."""
        counters, sizes = self._view.counters(), self._view.sizes()
        tables = sorted(self._view.tables().items())
        return replay_pb2.StatsResponse(
            records=counters.records,
            payload_bytes=counters.payload_bytes,
            appended_records=counters.next_position,
            appended_steps=counters.appended_steps,
            evicted_records=counters.first_position,
            duplicate_records=counters.duplicate_records,
            file_bytes=sizes.file_bytes,
            live_bytes=sizes.live_bytes,
            tables=[self._table_stats(name, state) for name, state in tables],
            signal_totals=counters.signal_totals,
            chain_head=counters.chain_head,
            quarantined_records=self._view.quarantined().range_cardinality(
                counters.first_position, counters.next_position
            ),
            damaged_records=len(self._damaged),
            segments=sizes.segments,
        )

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See RecordSource.annotate. Raises SourceReadOnly, and SourceRefused for a signal that cannot be stored."""
        store = self._writable()
        for position, values in signals.items():
            _check_signals(position, values)
        positions = iter(signals)
        annotated = 0
        while group := {position: signals[position] for position in islice(positions, ANNOTATIONS_MAX)}:
            annotated += store.annotate(group)
        return annotated

    def quarantine(self, filter_text: str, why: str, *, dry_run: bool = False) -> QuarantineResult:
        """See RecordSource.quarantine. Raises SourceReadOnly unless dry_run; SourceRefused without filter or why."""
        if not filter_text.strip():
            raise SourceRefused("an empty filter would quarantine every record: say which, e.g. 'position >= 0'")
        if dry_run:
            found = self._positions(filter_text)
            return QuarantineResult(replay_pb2.QuarantineEntry(filter=filter_text, records=len(found)), found)
        store = self._writable()
        _check_why(why)
        found = self._positions(filter_text)
        entry = replay_pb2.QuarantineEntry(filter=filter_text, why=why, time_ns=time.time_ns())
        return QuarantineResult(store.quarantine(entry, found), found)

    def lift_quarantine(self, quarantine_id: int, why: str) -> QuarantineResult:
        """See RecordSource.lift_quarantine. Raises SourceReadOnly; SourceRefused if not in force, or without why."""
        store = self._writable()
        _check_why(why)
        positions = {each.entry.id: each.positions for each in store.quarantines()}
        try:
            entry = store.lift_quarantine(quarantine_id, why, time.time_ns())
        except KeyError:
            in_force = [str(each.entry.id) for each in store.quarantines() if not each.entry.lifted_time_ns]
            raise SourceRefused(
                f"no quarantine {quarantine_id} is in force; in force: {', '.join(in_force) or 'none'}"
            ) from None
        return QuarantineResult(entry, positions[quarantine_id])

    def quarantines(self) -> Sequence[replay_pb2.QuarantineEntry]:
        """See RecordSource.quarantines."""
        return [each.entry for each in self._view.quarantines()]

    def close(self) -> None:
        """Lets go of the directory. A second call does nothing."""
        self._view.close()

    def _all(self, listing: Listing) -> Iterator[LoggedRecord]:
        for group in listing.groups():
            yield from listing.logged(group)
        new = BitMap64(listing.damaged) - self._damaged
        if new:
            self._damaged |= new
            first = ", ".join(str(position) for position in list(new)[:5])
            _log.warning("%d records are damaged and were left out: %s; an audit says what is wrong", len(new), first)

    def _positions(self, filter_text: str) -> BitMap64:
        found = BitMap64()
        for record in self.records(filter_text=filter_text):
            found.add(record.position)
        return found

    def _table_stats(self, name: str, state: replay_pb2.TableState) -> replay_pb2.TableStats:
        """Of a table as its state was committed; how many records a filter would let in, only a service knows."""
        counters, spec = self._view.counters(), state.spec
        first = self._view.window(spec.records_max, spec.payload_bytes_max, _newer_than_ns(spec.age_s_max))
        first = max(first, counters.first_position, state.cursor if spec.kind == _WITH_CURSOR else 0)
        return replay_pb2.TableStats(
            name=name,
            kind=spec.kind,
            available=max(0, counters.next_position - first),
            inserts=state.inserts,
            samples=state.samples,
            samples_per_insert=spec.samples_per_insert,
            min_size=spec.min_size,
            spec=spec,
            first_position=first,
        )

    def _writable(self) -> Store:
        if self._store is None:
            raise SourceReadOnly(
                f"replay directory {self._directory} was opened for reading: open it with writable=True to write to it"
            )
        return self._store


def _open_readable(directory: Path) -> StoreView:
    from replay.reader import StoreReader  # noqa: PLC0415  one of the two engines is enough

    return StoreReader(directory)


def _open_writable(directory: Path) -> Store:
    from replay.lmdb_store import LmdbStore  # noqa: PLC0415  one of the two engines is enough

    if not (directory / "format.json").is_file():
        # The store would make one here.
        raise StoreFormatError(f"{directory} is no replay directory: it has no format.json")
    return LmdbStore(directory, StoreSettings())


def _newer_than_ns(age_s_max: float) -> int:
    return time.time_ns() - int(age_s_max * 1e9) if age_s_max else 0


def _check_why(why: str) -> None:
    if not 1 <= len(why.strip()) <= _WHY_CHARACTERS_MAX:
        raise SourceRefused(
            f"why has {len(why.strip())} characters, must have 1 to {_WHY_CHARACTERS_MAX}: nothing changed"
        )


def _check_signals(position: int, signals: Mapping[str, float]) -> None:
    for name, value in signals.items():
        if not name or not -SIGNAL_MAX <= value <= SIGNAL_MAX:
            raise SourceRefused(
                f"signal {name!r} = {value} of position {position} must have a name, and be finite and within "
                f"+-{SIGNAL_MAX:.0e}: nothing was written"
            )
