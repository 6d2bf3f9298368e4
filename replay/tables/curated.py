"""`curated`: the records that pass a filter, drawn uniformly and independently.

Membership follows what is found out about a record: one that is marked so that it passes comes in, one that is marked
so that it no longer does goes. Inserts are counted as records come in, so a ratio of samples to inserts is one to
records that passed; the state's cursor says up to where in the log they are counted. Quarantine is not the filter's
business here: it sees no record as quarantined, and those that are, are excluded. Of several shards each has such a
table over its own records; in its filter `position` is the global one, so that it holds what a list of the whole log
by the same filter shows.

Takes about 2 bytes for each record in it, less where they lie close together.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from protos.replay.v1 import replay_pb2
from replay.filters import parse_filter
from replay.record import LoggedRecord
from replay.tables.exclusion import Exclusion
from replay.tables.position_set import PositionSet
from replay.tables.record_table import RecordTable, as_logged
from replay.tables.table import InsertedRecord, LogView, Pick


class CuratedTable(RecordTable):
    """Independent uniform draws of the records that pass a filter."""

    kind = "curated"

    def __init__(
        self,
        spec: replay_pb2.TableSpec,
        state: replay_pb2.TableState,
        view: LogView,
        seed: int = 0,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        first_position: int = 0,
    ) -> None:
        """See Table; `first_position` is where this log lies in that of all shards."""
        self._first_position = first_position
        self._accepts = parse_filter(spec.filter)
        self._members = PositionSet()
        same = state.spec.filter == spec.filter
        self._inserts = state.inserts if same else 0
        self._counted_to = state.cursor if same else 0
        super().__init__(spec, state, view, seed, clock_ns=clock_ns)

    @property
    def inserts(self) -> int:
        """Records that ever came in."""
        return self._inserts

    def available(self) -> int:
        """Records that pass and are not excluded."""
        return len(self._members)

    def pick(self, count: int) -> Pick:
        """`count` draws with replacement."""
        available = self.available()
        positions = self._members.at(self._generator().integers(0, available, size=count))
        return Pick(positions, np.full(count, 1.0 / available), available, self._drawn(count, cursor=self._next))

    def _passes(self, record: LoggedRecord) -> bool:
        if self._first_position:
            record = dataclasses.replace(record, position=self._first_position + record.position)
        return self._accepts(record)

    def _take_in(self, records: Sequence[InsertedRecord], *, loaded: bool = False) -> None:
        passed = [
            record.position
            for record in records
            if self._first <= record.position < self._next
            and self._passes(as_logged(record))
            and record.position not in self._members
        ]
        self._members.add(passed, self._excluded.positions)
        counted_to = self._counted_to if loaded else 0
        self._inserts += sum(position >= counted_to for position in passed)

    def _move(self, record: LoggedRecord) -> None:
        if not self._passes(record):
            self._members.discard(record.position)
        elif record.position not in self._members:
            self._members.add((record.position,), self._excluded.positions)
            self._inserts += 1

    def _window_moved(self, first: int, end: int) -> None:
        del end
        self._members.discard_before(first)

    def _exclusion_changed(self, before: Exclusion) -> None:
        del before
        self._members.exclude(self._excluded.positions)

    def _respecified(self, before: replay_pb2.TableSpec, *, grows: bool) -> bool:
        reload = grows or self.spec.filter != before.filter
        if self.spec.filter != before.filter:
            self._accepts = parse_filter(self.spec.filter)
            self._members = PositionSet()
            self._inserts = self._counted_to = 0
        elif grows:
            self._counted_to = self._next  # what the window gets back has been counted
        if reload:
            self._load_anew()
        return reload
