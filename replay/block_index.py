"""Where each record of the log lies: the first positions of all blocks, in memory, in order.

Lets a reader find the block of a position without a search on disk. Shared by one writer and any reader threads.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence


class BlockIndex:
    """The first positions of the blocks in a store. Thread-safe."""

    def __init__(self, first_positions: Iterable[int]) -> None:
        self._starts = list(first_positions)
        self._lock = threading.Lock()

    def oldest(self, count: int) -> Sequence[int]:
        """The first positions of the `count` oldest blocks."""
        with self._lock:
            return self._starts[:count]

    def replace(self, dropped: int, added: Iterable[int]) -> None:
        """Adds `added` at the new end, then drops the `dropped` oldest blocks."""
        with self._lock:
            self._starts.extend(added)
            del self._starts[:dropped]

    def locate(self, positions: Sequence[int]) -> list[int]:
        """For each position the first position of the block that would hold it, or -1 if it is older than all."""
        with self._lock:
            starts = self._starts
            found = [bisect_right(starts, position) - 1 for position in positions]
            return [starts[index] if index >= 0 else -1 for index in found]
