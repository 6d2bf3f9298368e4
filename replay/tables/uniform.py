"""`uniform`: every draw is independent and uniform over the window: with replacement, within a batch too.

So each record has probability exactly 1 / available in each draw. Takes no memory for a record, and 16 bytes for each
that is excluded.
"""

from __future__ import annotations

import numpy as np

from replay.tables.table import Pick, Table


class UniformTable(Table):
    """Independent uniform draws."""

    kind = "uniform"

    def available(self) -> int:
        """Every record in the window that is not excluded."""
        return self._next - self._first - self._excluded.count(self._first, self._next)

    def pick(self, count: int) -> Pick:
        """`count` draws with replacement."""
        available = self.available()
        ranks = self._generator().integers(0, available, size=count)
        positions = self._excluded.allowed(self._first, ranks)
        return Pick(positions, np.full(count, 1.0 / available), available, self._drawn(count))
