"""A table whose choice depends on what records say: it is shown each, when it is inserted, marked, or loaded.

The order in which it hears of a record does not matter: a mark that was shown live holds against what is loaded later.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Sequence

from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.record import LoggedRecord
from replay.tables.table import InsertedRecord, LogView, Priorities, Table


class RecordTable(Table):
    """The half of such a table that is the same whatever it makes of the records."""

    def __init__(
        self,
        spec: replay_pb2.TableSpec,
        state: replay_pb2.TableState,
        view: LogView,
        seed: int = 0,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._marked: BitMap64 | None = BitMap64()
        """While loading: what was marked since it began."""
        super().__init__(spec, state, view, seed, clock_ns=clock_ns)

    @property
    def needs_headers(self) -> bool:
        """Always."""
        return True

    def on_inserted(self, records: Sequence[InsertedRecord]) -> None:
        """Takes them in."""
        self._reach(records)
        self._take_in(records)

    def on_marked(self, record: LoggedRecord) -> None:
        """Looks at the record again."""
        if not self._first <= record.position < self._next:
            return
        if self._marked is not None:
            self._marked.add(record.position)
        # Quarantine is none of a table's business here: what is quarantined is excluded, and returns to where it was.
        marks = common_pb2.RecordMarks(signals=record.marks.signals)
        self._move(LoggedRecord(record.position, record.header, record.origin, marks=marks))

    def load(self, records: Iterable[InsertedRecord], priorities: Priorities = (), *, complete: bool = True) -> None:
        """See Table."""
        del priorities  # such a table has none
        marked = self._marked if self._marked is not None else BitMap64()
        found = [record for record in records if record.position not in marked]
        self._reach(found)
        self._take_in(found, loaded=True)
        if complete:
            self._marked = None
            self._restart_limiter()

    def _load_anew(self) -> None:
        """What is loaded from now on is older than what is marked meanwhile."""
        self._marked = BitMap64()

    @abc.abstractmethod
    def _take_in(self, records: Sequence[InsertedRecord], *, loaded: bool = False) -> None:
        """Takes in those that are in the window, and not in the table already."""

    @abc.abstractmethod
    def _move(self, record: LoggedRecord) -> None:
        """Puts a record in the window where it belongs now."""


def as_logged(record: InsertedRecord) -> LoggedRecord:
    """The record as filters see it."""
    return LoggedRecord(record.position, record.header, record.origin)
