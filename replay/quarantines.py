"""The quarantines of a store: which records are kept from being sampled, since when, until when, and why.

A value: every change makes another one, so that readers on other threads always see a whole one. Knows no disk.

Exceptions: KeyError for a quarantine that cannot be lifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.store import Quarantine


class Quarantines:
    """All quarantines of a store, by id. Immutable."""

    def __init__(self, quarantines: Iterable[Quarantine] = ()) -> None:
        self._all = tuple(sorted(quarantines, key=lambda quarantine: quarantine.entry.id))
        self._in_force = tuple(quarantine for quarantine in self._all if not quarantine.entry.lifted_time_ns)
        self._positions = BitMap64.union(BitMap64(), *(quarantine.positions for quarantine in self._in_force))

    def all(self) -> Sequence[Quarantine]:
        """Every one, ascending by id, lifted ones included."""
        return self._all

    def in_force(self) -> BitMap64:
        """Positions under one that is in force. Not to be changed."""
        return self._positions

    def planned(
        self, entry: replay_pb2.QuarantineEntry, positions: BitMap64, first_position: int, next_position: int
    ) -> Quarantine:
        """A new one over those of `positions` that are in the store, with its id and its count."""
        there = positions & BitMap64(range(first_position, next_position))
        complete = replay_pb2.QuarantineEntry()
        complete.CopyFrom(entry)
        complete.id = self._all[-1].entry.id + 1 if self._all else 1
        complete.records = len(there)
        return Quarantine(complete, there)

    def planned_lift(self, quarantine_id: int, why: str, time_ns: int) -> Quarantine:
        """That one as it will be once lifted. Raises KeyError for an id never given, or one lifted already."""
        for quarantine in self._in_force:
            if quarantine.entry.id == quarantine_id:
                lifted = replay_pb2.QuarantineEntry()
                lifted.CopyFrom(quarantine.entry)
                lifted.lifted_time_ns, lifted.lifted_why = time_ns, why
                return quarantine._replace(entry=lifted)
        in_force = ", ".join(str(quarantine.entry.id) for quarantine in self._in_force) or "none"
        raise KeyError(f"quarantine {quarantine_id} is not in force; in force: {in_force}")

    def with_one(self, quarantine: Quarantine) -> Quarantines:
        """These, with one added, or put in the place of that of the same id."""
        others = (other for other in self._all if other.entry.id != quarantine.entry.id)
        return Quarantines([*others, quarantine])

    def from_position(self, first_position: int) -> Quarantines:
        """These, without the positions below: what was evicted need not be remembered."""
        evicted = BitMap64(range(first_position))
        return Quarantines(quarantine._replace(positions=quarantine.positions - evicted) for quarantine in self._all)

    def marks(
        self, positions: Sequence[int], signals: Mapping[int, Mapping[str, float]]
    ) -> dict[int, common_pb2.RecordMarks]:
        """The marks of those of `positions` that have any: their signals, and the oldest quarantine in force."""
        marks: dict[int, common_pb2.RecordMarks] = {}
        for position in positions:
            quarantine = self._of(position) if position in self._positions else 0
            if quarantine or position in signals:
                marks[position] = common_pb2.RecordMarks(signals=signals.get(position), quarantine=quarantine)
        return marks

    def _of(self, position: int) -> int:
        return next(quarantine.entry.id for quarantine in self._in_force if position in quarantine.positions)
