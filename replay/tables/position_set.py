"""A set of positions to draw from uniformly, some of which may not be drawn for the time being."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64


class PositionSet:
    """Positions, those excluded kept apart. Takes about 2 bytes for each, less where they lie close together."""

    def __init__(self) -> None:
        self._drawable = BitMap64()
        self._held_back = BitMap64()

    def __len__(self) -> int:
        """How many there are to draw from."""
        return len(self._drawable)

    def __contains__(self, position: int) -> bool:
        return position in self._drawable or position in self._held_back

    @property
    def is_empty(self) -> bool:
        """Whether there is no position, excluded or not."""
        return not self._drawable and not self._held_back

    def add(self, positions: Iterable[int], excluded: BitMap64) -> None:
        """Adds positions; of `excluded`, what it was last told, those are held back."""
        added = BitMap64(positions)
        self._held_back |= added & excluded
        self._drawable |= added - excluded

    def discard(self, position: int) -> None:
        """Takes a position out, if it is in."""
        self._drawable.discard(position)
        self._held_back.discard(position)

    def discard_before(self, first: int) -> None:
        """Takes out what lies before `first`."""
        for positions in (self._drawable, self._held_back):
            if positions:
                positions.remove_range(0, first)

    def exclude(self, excluded: BitMap64) -> None:
        """Holds back exactly the positions in `excluded`."""
        members = self._drawable | self._held_back
        self._held_back = members & excluded
        self._drawable = members - excluded

    def at(self, ranks: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The positions [n] to draw from that have these ranks [n] among them, from 0."""
        positions = self._drawable
        return np.fromiter((positions[rank] for rank in ranks.tolist()), np.uint64, len(ranks))
