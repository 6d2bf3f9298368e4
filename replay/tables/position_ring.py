"""One value for each position of a moving window of the log, in an array that is used round and round."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

_CAPACITY_MIN = 1_024


class PositionRing(Generic[Scalar]):
    """Values of the positions in [first, end), 0 for those that have just come in.

    The capacity is a power of two and doubles when the window outgrows it; it never shrinks. A position's slot is its
    remainder by the capacity; slots outside the window hold 0.
    """

    def __init__(self, dtype: type[Scalar]) -> None:
        self.first = 0
        self.end = 0
        self.values: NDArray[Scalar] = np.zeros(_CAPACITY_MIN, dtype)

    @property
    def capacity(self) -> int:
        """Slots that there are."""
        return len(self.values)

    def slots(self, positions: NDArray[Any]) -> NDArray[np.int64]:
        """The slots [n] of positions [n]."""
        return positions.astype(np.int64) & (self.capacity - 1)

    def slots_between(self, first: int, end: int) -> NDArray[np.int64]:
        """The slots of the positions in [first, end), in order."""
        return np.arange(first, end) & (self.capacity - 1)

    def slot(self, position: int) -> int:
        """The slot of a position."""
        return position & (self.capacity - 1)

    def move(self, first: int, end: int) -> None:
        """Makes [first, end) the window, whichever way its bounds move."""
        first_kept, end_kept = max(first, self.first), min(end, self.end)
        if first_kept >= end_kept:
            self.values[:] = 0
        else:
            self.values[self.slots_between(self.first, first_kept)] = 0
            self.values[self.slots_between(end_kept, self.end)] = 0
        capacity = self.capacity
        while end - first > capacity:
            capacity *= 2
        if capacity > self.capacity:
            grown = np.zeros(capacity, self.values.dtype)
            if first_kept < end_kept:
                kept = np.arange(first_kept, end_kept)
                grown[kept & (capacity - 1)] = self.values[kept & (self.capacity - 1)]
            self.values = grown
        self.first, self.end = first, end
