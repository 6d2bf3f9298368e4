"""Which records a policy learnt from: a set of log positions, kept as a roaring bitmap.

A run of positions takes a few bytes however long it is, and scattered ones two bytes each at most, so a checkpoint
stores the set whole. It knows positions only; what stands there is replay's to say.

Exceptions: LineageError for bytes that are no such set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyroaring import BitMap64


class LineageError(ValueError):
    """What was kept of a policy's lineage is not what was written; the message says where."""


class ConsumedRecords:
    """A set of log positions (0 to 2^64 - 1)."""

    def __init__(self, positions: Iterable[int] = ()) -> None:
        self._positions = BitMap64(positions)

    @classmethod
    def from_bytes(cls, data: bytes) -> ConsumedRecords:
        """What `to_bytes` gave. Raises LineageError."""
        try:
            positions = BitMap64.deserialize(data)
        except (ValueError, IndexError) as error:
            raise LineageError(f"{len(data)} bytes are no set of records: {error}") from error
        consumed = cls()
        consumed._positions = positions
        return consumed

    def to_bytes(self) -> bytes:
        """The portable serialization of a 64-bit roaring bitmap; that of equal sets made in the same order is equal."""
        self._positions.run_optimize()
        data: bytes = self._positions.serialize()
        return data

    def add(self, positions: Iterable[int]) -> list[int]:
        """Adds positions, in any order, known ones included; returns the indices of those that were new, each once."""
        held, new = self._positions, []
        for index, position in enumerate(positions):
            if position not in held:
                held.add(position)
                new.append(index)
        return new

    def overlap(self, positions: BitMap64) -> int:
        """How many of `positions` are in the set."""
        return int(self._positions.intersection_cardinality(positions))

    def issubset(self, other: ConsumedRecords) -> bool:
        """Whether `other` has every position of this one."""
        return bool(self._positions.issubset(other._positions))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The set as [first, last] pairs, ascending, disjoint and not adjacent."""
        held = self._positions
        end = held.max() if held else -1
        first = held.min() if held else 0
        while first <= end:
            last = _last_of_run(held, first, end)
            yield first, last
            if last == end:
                return
            first = held.next_set_bit(last + 1)

    def positions(self, from_position: int = 0) -> Iterator[int]:
        """The positions from `from_position` on, ascending."""
        if self._positions and from_position <= self._positions.max():
            yield from self._positions.iter_equal_or_larger(from_position)

    def __contains__(self, position: int) -> bool:
        return position in self._positions

    def __len__(self) -> int:
        return len(self._positions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConsumedRecords) and bool(self._positions == other._positions)

    __hash__ = None  # type: ignore[assignment]  # it changes


def _last_of_run(held: BitMap64, first: int, end: int) -> int:
    """The last position of the run that begins at `first`, found by doubling and halving."""
    low, high = first, min(first + 1, end)
    while high > low and _has_all(held, first, high):
        low, high = high, min(first + 2 * (high - first), end)
    while high - low > 1:
        middle = (low + high) // 2
        if _has_all(held, first, middle):
            low = middle
        else:
            high = middle
    return low


def _has_all(held: BitMap64, first: int, last: int) -> bool:
    # The end is excluded, and the largest of all positions has no successor.
    return last in held and bool(held.contains_range(first, last))
