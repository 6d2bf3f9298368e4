"""`prioritised`: records drawn in proportion to a power of their priority, independently and with replacement.

    P(i) = p_i^alpha / sum_j p_j^alpha

(Schaul et al. 2016, "Prioritized Experience Replay", arXiv:1511.05952, section 3.3, the proportional variant.) Clients
change priorities. A record whose priority was never changed has an initial one: the magnitude of a signal, if the table
is told one and the record has it, also where the signal is written later; otherwise the largest priority so far, so
that every record is likely to be drawn once. A record of priority 0 is never drawn. An excluded record is not drawn
either, and keeps its priority.

Draws are independent, not stratified over the batch as in the paper, so that the probability of each is exactly P(i).
What draws in proportion are biased by, importance.py undoes.

Takes 25 to 50 bytes for each record in the largest window there was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.record import LoggedRecord
from replay.sum_tree import SumTree
from replay.tables.exclusion import Exclusion
from replay.tables.position_ring import PositionRing
from replay.tables.table import InsertedRecord, LogView, Pick, Priorities, Table

PRIORITY_MAX = 2.0**53
"""Largest priority, that of a signal: sums of powers of it stay finite."""

_WEIGHT_MIN = 1e-280
"""Of a priority above 0, whatever its power rounds to: only 0 means never."""

_INITIAL, _EXCLUDED = 1, 2


class PrioritisedTable(Table):
    """Independent draws in proportion to p^alpha."""

    kind = "prioritised"

    def __init__(
        self,
        spec: replay_pb2.TableSpec,
        state: replay_pb2.TableState,
        view: LogView,
        seed: int = 0,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._priorities = PositionRing(np.float64)
        self._flags = PositionRing(np.uint8)
        self._tree = SumTree(self._priorities.capacity)
        self._drawable = 0
        self._largest = 1.0
        self._dirty = BitMap64()
        super().__init__(spec, state, view, seed, clock_ns=clock_ns)

    @property
    def needs_headers(self) -> bool:
        """If the first priorities are those of a signal."""
        return bool(self.spec.priority_signal)

    def available(self) -> int:
        """Records that are not excluded and whose priority is above 0."""
        return self._drawable

    def pick(self, count: int) -> Pick:
        """`count` draws with replacement."""
        tree = self._tree
        total = tree.total
        slots = tree.find(self._generator().random(count) * total)
        first = self._first
        positions = (first + self._priorities.slots(slots - first)).astype(np.uint64)
        return Pick(positions, tree.weights[slots] / total, self._drawable, self._drawn(count))

    def on_inserted(self, records: Sequence[InsertedRecord]) -> None:
        """Gives them the priority that their signal says."""
        self._set_by_signal(records)

    def on_marked(self, record: LoggedRecord) -> None:
        """Follows the signal, until a client has said what the priority is."""
        magnitude = record.signals.get(self.spec.priority_signal)
        if magnitude is None or not self._first <= record.position < self._next:
            return
        slots = self._priorities.slots(np.array([record.position]))
        if self._flags.values[slots[0]] & _INITIAL:
            self._set(slots, np.array([_bounded(magnitude)]))

    def load(self, records: Iterable[InsertedRecord], priorities: Priorities = (), *, complete: bool = True) -> None:
        """See Table. Needs the records only for the signal; those without a stored priority get an initial one."""
        del complete  # what a client has changed meanwhile is marked as not initial
        found = False
        for positions, values in priorities:
            found = True
            slots, there = self._slots(positions)
            initial = (self._flags.values[slots] & _INITIAL) != 0
            self._flags.values[slots[initial]] &= ~np.uint8(_INITIAL)
            self._set(slots[initial], values[there][initial])
        if found:
            slots = self._priorities.slots_between(self._first, self._next)
            slots = slots[(self._flags.values[slots] & _INITIAL) != 0]
            self._set(slots, np.full(len(slots), self._largest))
        self._set_by_signal(list(records))

    def update_priorities(self, positions: NDArray[np.uint64], priorities: NDArray[np.float64]) -> int:
        """See Table. Of a position that occurs twice the last priority holds."""
        if len(positions) != len(priorities):
            raise ValueError(f"{len(positions)} positions have {len(priorities)} priorities: each must have one")
        if len(priorities) and not (np.min(priorities) >= 0 and np.max(priorities) <= PRIORITY_MAX):
            raise ValueError(
                f"priorities of table {self.name!r} lie in [{np.min(priorities)}, {np.max(priorities)}], "
                f"must be finite and in [0, {PRIORITY_MAX:g}]: none was changed"
            )
        slots, there = self._slots(positions)
        if not len(slots):
            return 0
        slots, last = np.unique(slots[::-1], return_index=True)
        self._flags.values[slots] &= ~np.uint8(_INITIAL)
        self._set(slots, np.asarray(priorities, np.float64)[there][::-1][last])
        self._dirty.update(positions[there])
        return int(np.count_nonzero(there))

    def dirty_priorities(self) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        """See Table. Initial ones are not among them: they are found anew."""
        positions = np.array(self._dirty.to_array(), np.uint64)
        self._dirty = BitMap64()
        slots, there = self._slots(positions)
        return positions[there], self._priorities.values[slots]

    def priorities_not_stored(self, positions: NDArray[np.uint64]) -> None:
        """See Table."""
        self._dirty.update(positions)

    def _set_by_signal(self, records: Sequence[InsertedRecord]) -> None:
        self._reach(records)
        signal = self.spec.priority_signal
        if not signal or not records:
            return
        slots, there = self._slots(np.array([record.position for record in records], np.uint64))
        signals = (record.header.signals for record in records)
        values = np.array([_bounded(found[signal]) if signal in found else np.nan for found in signals])[there]
        initial = (self._flags.values[slots] & _INITIAL) != 0
        slots, values = slots[initial], values[initial]
        self._set(slots, np.where(np.isnan(values), np.fmax.reduce(values, initial=self._largest), values))

    def _slots(self, positions: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Slots [m] of those of the positions [n] that are in the window, and which [n] these are."""
        there = (positions >= self._first) & (positions < self._next)
        return self._priorities.slots(positions[there]), there

    def _set(self, slots: NDArray[np.int64], priorities: NDArray[np.float64]) -> None:
        """Sets the priorities [n] of different slots [n]."""
        if len(slots):
            self._largest = max(self._largest, float(priorities.max()))
            self._priorities.values[slots] = priorities
            self._weigh(slots)

    def _weigh(self, slots: NDArray[np.int64]) -> None:
        """Sets the weights of different slots [n] to what their priorities and flags say."""
        weights = self._weights(self._priorities.values[slots], self._flags.values[slots])
        self._drawable += int(np.count_nonzero(weights)) - int(np.count_nonzero(self._tree.weights[slots]))
        self._tree.set(slots, weights)

    def _weigh_all(self) -> None:
        weights = self._weights(self._priorities.values, self._flags.values)
        if self._tree.capacity != len(weights):
            self._tree = SumTree(len(weights))
        self._tree.fill(weights)
        self._drawable = int(np.count_nonzero(weights))

    def _weights(self, priorities: NDArray[np.float64], flags: NDArray[np.uint8]) -> NDArray[np.float64]:
        weights = np.maximum(priorities**self.spec.priority_exponent, _WEIGHT_MIN)
        weights[(priorities == 0) | ((flags & _EXCLUDED) != 0)] = 0.0
        return weights

    def _window_moved(self, first: int, end: int) -> None:
        before_first, before_end = self._priorities.first, self._priorities.end
        evicted = self._priorities.slots_between(before_first, min(first, before_end))
        self._priorities.move(first, end)
        self._flags.move(first, end)
        new = [(first, min(before_first, end)), (max(before_end, first), end)]
        if before_first == before_end:
            new = [(first, end)]
        for low, high in new:
            if low < high:
                slots = self._priorities.slots_between(low, high)
                self._priorities.values[slots] = self._largest
                self._flags.values[slots] = _INITIAL
                self._flags.values[self._priorities.slots(self._excluded.within(low, high))] |= _EXCLUDED
                if self._tree.capacity == self._priorities.capacity:
                    self._weigh(slots)
        if self._tree.capacity != self._priorities.capacity:
            self._weigh_all()
        else:
            self._weigh(evicted)

    def _exclusion_changed(self, before: Exclusion) -> None:
        changed = np.array((before.positions ^ self._excluded.positions).to_array(), np.uint64)
        slots, _ = self._slots(changed)
        self._flags.values[slots] ^= _EXCLUDED
        self._weigh(slots)

    def _respecified(self, before: replay_pb2.TableSpec, *, grows: bool) -> bool:
        if self.spec.priority_exponent != before.priority_exponent:
            self._weigh_all()
        return grows or self.spec.priority_signal != before.priority_signal


def _bounded(magnitude: float) -> float:
    """A signal's magnitude as a priority; 0 for what is not a number."""
    return min(abs(magnitude), PRIORITY_MAX) if magnitude == magnitude else 0.0  # noqa: PLR0124  nan is not itself
