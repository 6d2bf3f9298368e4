"""Which records a policy learnt from: a set of log positions, kept as ranges.

Fresh records are consumed in log order, so the set is a handful of ranges however long the run; a checkpoint stores it
whole. It knows positions only; what stands there is replay's to say.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable


class ConsumedRecords:
    """A set of non-negative log positions as sorted, disjoint, non-adjacent ranges [first, last]."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self._firsts.append(int(first))
            self._lasts.append(int(last))

    def add(self, positions: Iterable[int]) -> None:
        """Adds positions, in any order, known ones included."""
        for position in positions:
            self._add(int(position))

    def _add(self, position: int) -> None:
        index = bisect.bisect_right(self._firsts, position) - 1
        if index >= 0 and position <= self._lasts[index]:
            return
        extends_left = index >= 0 and self._lasts[index] == position - 1
        follows = index + 1
        extends_right = follows < len(self._firsts) and self._firsts[follows] == position + 1
        if extends_left and extends_right:
            self._lasts[index] = self._lasts[follows]
            del self._firsts[follows], self._lasts[follows]
        elif extends_left:
            self._lasts[index] = position
        elif extends_right:
            self._firsts[follows] = position
        else:
            self._firsts.insert(follows, position)
            self._lasts.insert(follows, position)

    def __contains__(self, position: int) -> bool:
        index = bisect.bisect_right(self._firsts, position) - 1
        return index >= 0 and position <= self._lasts[index]

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges())

    def ranges(self) -> list[tuple[int, int]]:
        """The set as [first, last] pairs, ascending; what the constructor takes."""
        return list(zip(self._firsts, self._lasts, strict=True))
