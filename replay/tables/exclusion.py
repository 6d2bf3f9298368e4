"""Positions that may not be drawn, in a form in which to count and to choose those of a range that may."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64


class Exclusion:
    """A set of excluded positions. Immutable; takes 16 bytes for each."""

    def __init__(self, positions: BitMap64) -> None:
        self.positions = positions
        """Not to be changed."""
        self._sorted = np.array(positions.to_array(), np.int64)
        self._allowed_before = self._sorted - np.arange(len(self._sorted))

    def within(self, first: int, end: int) -> NDArray[np.int64]:
        """The excluded positions in [first, end), ascending."""
        low, high = np.searchsorted(self._sorted, (first, end))
        return self._sorted[low:high]

    def count(self, first: int, end: int) -> int:
        """How many positions in [first, end) are excluded."""
        low, high = np.searchsorted(self._sorted, (first, end))
        return int(high - low)

    def allowed(self, first: int, ranks: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The positions [n] that are not excluded and come `ranks` [n] after the first such one from `first` on."""
        # Of the excluded positions, those before the answer have at most as many allowed ones before them.
        low = int(np.searchsorted(self._sorted, first))
        passed = np.searchsorted(self._allowed_before[low:], ranks + (first - low), side="right")
        return (ranks + first + passed).astype(np.uint64)
