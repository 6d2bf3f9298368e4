"""Where the records of an export lie in the log that they were imported into: there they have other positions.

Memory: 32 bytes a record of the export, and 16 a record of its runs in the log.

Exceptions: none of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RunPositions:
    """Positions by run and sequence."""

    def __init__(self) -> None:
        self._runs: dict[bytes, tuple[array[int], array[int]]] = {}

    @property
    def runs(self) -> Collection[bytes]:
        """Those of which there is any."""
        return self._runs.keys()

    def add(self, run: bytes, sequence: int, position: int) -> None:
        """A record of a run."""
        sequences, positions = self._runs.setdefault(run, (array("Q"), array("Q")))
        sequences.append(sequence)
        positions.append(position)

    def of(self, run: bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Sequences [N], and the position of each [N], in the order in which they came."""
        sequences, positions = self._runs.get(run, (array("Q"), array("Q")))
        return np.frombuffer(sequences, np.uint64), np.frombuffer(positions, np.uint64)


class Whereabouts:
    """The positions that the records of an export have now.

    Args:
      exported: the positions that they had.
      stored: the positions of the records of these runs in the log.
    """

    def __init__(self, exported: RunPositions, stored: RunPositions) -> None:
        parts = [_matched(exported.of(run), stored.of(run)) for run in exported.runs]
        before, now = (np.concatenate([part[side] for part in parts]) if parts else _NONE for side in (0, 1))
        order = np.argsort(before, kind="stable")
        self._before, self._now = before[order], now[order]

    def now(self, positions: Sequence[int]) -> list[int | None]:
        """The position that each of these has now; None for one that is not in the export, or not in the log."""
        if not len(self._before):
            return [None] * len(positions)
        wanted = np.array(positions, np.uint64)
        at = np.minimum(np.searchsorted(self._before, wanted), len(self._before) - 1)
        found: list[Any] = self._now[at].tolist()
        return [now if there else None for now, there in zip(found, self._before[at] == wanted, strict=True)]


_NONE = np.zeros(0, np.uint64)


def _matched(
    exported: tuple[NDArray[np.uint64], NDArray[np.uint64]], stored: tuple[NDArray[np.uint64], NDArray[np.uint64]]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Positions before and now of the records of a run that are in both."""
    sequences, positions = exported
    order = np.argsort(stored[0], kind="stable")
    there, now = stored[0][order], stored[1][order]
    if not len(there):
        return _NONE, _NONE
    at = np.minimum(np.searchsorted(there, sequences), len(there) - 1)
    known = there[at] == sequences
    return positions[known], now[at[known]]
