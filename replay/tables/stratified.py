"""`stratified`: first a stratum is drawn, each that is not empty as likely as another, then a record uniformly in it.

    P(i) = 1 / (strata that are not empty * records in the stratum of i)

The strata are the values of one field: a task, an environment, a signal. So what is rare is drawn as often as what is
common. A record without a value is in a stratum of those without. There are at most STRATA_MAX; while there are that
many, records with a further value share one more. A stratum whose last record goes makes room for another.

Takes 4 to 6 bytes for each record in the largest window there was, and some 200 for a stratum.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from protos.replay.v1 import replay_pb2
from replay.filters import field_reader
from replay.record import LoggedRecord
from replay.record_fields import Value
from replay.tables.exclusion import Exclusion
from replay.tables.position_ring import PositionRing
from replay.tables.position_set import PositionSet
from replay.tables.record_table import RecordTable, as_logged
from replay.tables.table import InsertedRecord, LogView, Pick

STRATA_MAX = 1_024

MISSING, OTHERS = "(missing)", "(others)"
"""What the strata of records without a value, and of those beyond STRATA_MAX, are called in statistics."""

_NOWHERE, _OTHERS = 0, 1


class StratifiedTable(RecordTable):
    """Independent draws, uniform over strata and then within one."""

    kind = "stratified"

    def __init__(
        self,
        spec: replay_pb2.TableSpec,
        state: replay_pb2.TableState,
        view: LogView,
        seed: int = 0,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._value = field_reader(spec.stratify_by)
        self._stratum_of = PositionRing(np.uint16)
        self._clear()
        super().__init__(spec, state, view, seed, clock_ns=clock_ns)

    def available(self) -> int:
        """Records that are not excluded."""
        return self._available

    def strata(self) -> Mapping[str, int]:
        """Records that could be drawn by stratum."""
        return {self._label(stratum): size for stratum, size in self._sizes.items()}

    def pick(self, count: int) -> Pick:
        """`count` draws with replacement."""
        strata = self._drawable_strata()
        sizes = np.fromiter((self._sizes[stratum] for stratum in strata), np.int64, len(strata))
        generator = self._generator()
        chosen = generator.integers(0, len(strata), size=count)
        ranks = generator.integers(0, sizes[chosen])
        positions = np.empty(count, np.uint64)
        for index in np.unique(chosen).tolist():
            of_stratum = chosen == index
            positions[of_stratum] = self._members[strata[index]].at(ranks[of_stratum])
        return Pick(positions, 1.0 / (len(strata) * sizes[chosen]), self._available, self._drawn(count))

    def _clear(self) -> None:
        self._members: dict[int, PositionSet] = {}
        self._sizes: dict[int, int] = {}
        self._available = 0
        self._order: list[int] | None = None
        self._ids: dict[Value, int] = {}
        self._values: dict[int, Value] = {}
        self._free = list(range(_OTHERS + STRATA_MAX, _OTHERS, -1))
        self._stratum_of.values[:] = _NOWHERE

    def _take_in(self, records: Sequence[InsertedRecord], *, loaded: bool = False) -> None:
        del loaded
        first, end = self._first, self._next
        strata, mask = self._stratum_of.values, self._stratum_of.capacity - 1
        by_stratum: defaultdict[int, list[int]] = defaultdict(list)
        for record in records:
            if first <= record.position < end and strata[record.position & mask] == _NOWHERE:
                by_stratum[self._stratum(self._value(as_logged(record)))].append(record.position)
        for stratum, positions in by_stratum.items():
            self._put(stratum, positions)

    def _move(self, record: LoggedRecord) -> None:
        slot = self._stratum_of.slot(record.position)
        before, after = int(self._stratum_of.values[slot]), self._stratum(self._value(record))
        if before == after:
            return
        self._put(after, [record.position])
        if before != _NOWHERE:
            self._members[before].discard(record.position)
            self._recount(before)

    def _put(self, stratum: int, positions: Sequence[int]) -> None:
        self._members.setdefault(stratum, PositionSet()).add(positions, self._excluded.positions)
        self._stratum_of.values[self._stratum_of.slots(np.array(positions))] = stratum
        self._recount(stratum)

    def _stratum(self, value: Value) -> int:
        """The stratum of a value, a new one if need be."""
        if value != value:  # noqa: PLR0124  nan, which would be a stratum of its own each time
            value = None
        stratum = self._ids.get(value)
        if stratum is None:
            if not self._free:
                return _OTHERS
            stratum = self._ids[value] = self._free.pop()
            self._values[stratum] = value
        return stratum

    def _recount(self, stratum: int) -> None:
        """Brings the counts in step after a stratum's members have changed; drops one that has none left."""
        members = self._members[stratum]
        size, before = len(members), self._sizes.get(stratum, 0)
        self._sizes[stratum] = size
        self._available += size - before
        if not size or not before:
            self._order = None
        if members.is_empty:
            del self._members[stratum], self._sizes[stratum]
            if stratum != _OTHERS:
                del self._ids[self._values.pop(stratum)]
                self._free.append(stratum)

    def _label(self, stratum: int) -> str:
        if stratum == _OTHERS:
            return OTHERS
        value = self._values[stratum]
        return MISSING if value is None else str(value)

    def _drawable_strata(self) -> list[int]:
        """Strata with records to draw, in an order that does not depend on when each came up."""
        if self._order is None:
            drawable = [stratum for stratum, size in self._sizes.items() if size]
            self._order = sorted(drawable, key=lambda stratum: (self._label(stratum), stratum))
        return self._order

    def _window_moved(self, first: int, end: int) -> None:
        ring = self._stratum_of
        gone = np.unique(ring.values[ring.slots_between(ring.first, max(ring.first, min(first, ring.end)))])
        for stratum in gone[gone != _NOWHERE].tolist():
            self._members[stratum].discard_before(first)
            self._recount(stratum)
        ring.move(first, end)

    def _exclusion_changed(self, before: Exclusion) -> None:
        del before
        for stratum, members in list(self._members.items()):
            members.exclude(self._excluded.positions)
            self._recount(stratum)

    def _respecified(self, before: replay_pb2.TableSpec, *, grows: bool) -> bool:
        reload = grows or self.spec.stratify_by != before.stratify_by
        if self.spec.stratify_by != before.stratify_by:
            self._value = field_reader(self.spec.stratify_by)
            self._clear()
        if reload:
            self._load_anew()
        return reload
