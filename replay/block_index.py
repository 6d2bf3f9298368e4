"""Where each record of the log lies, and how much lies before it: one row for each block, in memory, in order.

Lets a reader find the block of a position, and retention the position where a number of bytes or an age is reached,
without a search on disk. 32 bytes a block. Shared by one writer and any reader threads, without a lock: the writer
publishes a view of its arrays, and what a published view shows is never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.block import BlockSummary
from replay.store import StoreCounters

_CAPACITY = 64


class IndexView(NamedTuple):
    """The index as it was at one moment; rows [N] ascending in all columns."""

    starts: NDArray[np.int64]
    """Position of each block's first record."""
    payload_bytes_before: NDArray[np.int64]
    """Payload bytes of all blocks before it."""
    bytes_before: NDArray[np.int64]
    """Bytes of headers and payloads of all blocks before it."""
    times_ns: NDArray[np.int64]
    """When it was committed."""
    payload_bytes: int
    """Payload bytes before the end, counted as those before the blocks."""
    bytes: int
    """Bytes of headers and payloads before the end, likewise."""

    def starts_of(self, positions: Sequence[int]) -> list[int]:
        """For each position the first position of the block that would hold it, or -1 if it is older than all."""
        if not len(self.starts):
            return [-1] * len(positions)
        rows = np.searchsorted(self.starts, np.asarray(positions, np.int64), side="right") - 1
        starts: list[int] = np.where(rows >= 0, self.starts[rows], -1).tolist()
        return starts

    def row_of(self, position: int) -> int:
        """Row of the block that would hold a position, or -1."""
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def window(self, counters: StoreCounters, records_max: int, payload_bytes_max: int, newer_than_ns: int) -> int:
        """See StoreView.window; the bounds in bytes and time are kept to by whole blocks."""
        first, end = counters.first_position, counters.next_position
        if records_max:
            first = max(first, end - records_max)
        if payload_bytes_max:
            row = int(np.searchsorted(self.payload_bytes_before, self.payload_bytes - payload_bytes_max))
            first = max(first, int(self.starts[row]) if row < len(self.starts) else end)
        if newer_than_ns:
            row = int(np.searchsorted(self.times_ns, newer_than_ns))
            first = max(first, int(self.starts[row]) if row < len(self.starts) else end)
        return min(first, end)


class BlockIndex:
    """The rows of the blocks in a store. One thread changes it; `view` may be read by any."""

    def __init__(self) -> None:
        self._columns = np.empty((4, _CAPACITY), np.int64)
        self._first = 0
        self._end = 0
        self._payload_bytes = 0
        self._bytes = 0
        self._publish()

    @property
    def view(self) -> IndexView:
        """The index now."""
        return self._view

    def extend(self, blocks: Sequence[BlockSummary]) -> None:
        """Adds blocks at the new end; the first may be the last one known, continued."""
        if blocks and self._end > self._first and blocks[0].first_position == self._columns[0, self._end - 1]:
            continued = blocks[0]
            self._payload_bytes = int(self._columns[1, self._end - 1]) + continued.payload_bytes
            self._bytes = int(self._columns[2, self._end - 1]) + continued.payload_bytes + continued.header_bytes
            blocks = blocks[1:]
            self._publish()
        if not blocks:
            return
        columns = np.array(
            [
                (
                    block.first_position,
                    block.payload_bytes,
                    block.payload_bytes + block.header_bytes,
                    block.commit_time_ns,
                )
                for block in blocks
            ],
            np.int64,
        ).T
        payload_ends, ends = np.cumsum(columns[1]), np.cumsum(columns[2])
        self._reserve(len(blocks))
        target = self._columns[:, self._end : self._end + len(blocks)]
        target[0] = columns[0]
        target[1] = self._payload_bytes + payload_ends - columns[1]
        target[2] = self._bytes + ends - columns[2]
        # A block whose time was lost says 0: the column must ascend to be searched.
        target[3] = np.maximum.accumulate(np.maximum(columns[3], self._last_time_ns()))
        self._end += len(blocks)
        self._payload_bytes += int(payload_ends[-1])
        self._bytes += int(ends[-1])
        self._publish()

    def drop_before(self, position: int) -> None:
        """Drops the blocks that begin below `position`, where a block begins."""
        self._first += int(np.searchsorted(self._view.starts, position))
        self._publish()

    def _last_time_ns(self) -> int:
        return int(self._columns[3, self._end - 1]) if self._end > self._first else 0

    def _reserve(self, count: int) -> None:
        if self._end + count > self._columns.shape[1]:
            rows = self._columns[:, self._first : self._end]
            grown = np.empty((4, max(_CAPACITY, 2 * (rows.shape[1] + count))), np.int64)
            grown[:, : rows.shape[1]] = rows
            # The old arrays stay as they are, for whoever has a view of them.
            self._columns, self._first, self._end = grown, 0, rows.shape[1]

    def _publish(self) -> None:
        starts, payload_bytes_before, bytes_before, times_ns = self._columns[:, self._first : self._end]
        self._view = IndexView(starts, payload_bytes_before, bytes_before, times_ns, self._payload_bytes, self._bytes)
