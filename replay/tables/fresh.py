"""`fresh`: first in, first out, each record at most once, ever.

The position up to which the log is consumed is committed BEFORE a batch leaves the service, so no crash can deliver a
record twice to whoever does not ask for it. A batch that was committed as consumed and then lost on its way (the
service or the learner was killed) is given again only to a consumer that says from where on it wants what was drawn
before: `drawn_from`; it stays in the store for other tables. A record that was evicted, or was excluded when its turn
came, counts as gone: it is `skipped`.

Takes no memory for a record.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from replay.tables.table import Pick, Table


class FreshTable(Table):
    """First in, first out, once."""

    kind = "fresh"
    draws_once: ClassVar[bool] = True

    @property
    def skipped(self) -> int:
        """Records that have been neither drawn nor can be: evicted, or excluded."""
        return self._next - self.state.samples - self.available()

    def available(self) -> int:
        """Records neither consumed nor evicted nor excluded."""
        start = self._start()
        return self._next - start - self._excluded.count(start, self._next)

    def pick(self, count: int) -> Pick:
        """The next `count` in log order."""
        positions = self._excluded.allowed(self._start(), np.arange(count))
        state = self._drawn(count, cursor=int(positions[-1]) + 1)
        return Pick(positions, np.ones(count), self.available(), state)

    def drawn_from(self, position: int, count: int) -> NDArray[np.uint64]:
        """See Table."""
        first = max(position, self._first)
        positions = self._excluded.allowed(first, np.arange(count))
        return positions[positions < self._start()]

    def _limiter_samples(self) -> int:
        # What is gone is owed to nobody: if it were, it could hold inserts up for ever.
        return self._next - self.available()

    def _start(self) -> int:
        return min(max(self.state.cursor, self._first), self._next)
