"""For tests of the tables: a log that is only numbers, and the few steps that a service takes with a table.

Not imported by production code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.record import LoggedRecord
from replay.store import StoreCounters
from replay.table_spec import parse_spec
from replay.tables.making import make_table
from replay.tables.table import InsertedRecord, Pick, Table


class _Row(NamedTuple):
    header: common_pb2.RecordHeader
    payload_bytes: int
    time_ns: int
    signals: dict[str, float]


class FakeLog:
    """A log without payloads: what tables see of a store."""

    def __init__(self) -> None:
        self.first_position = 0
        self.origin = common_pb2.Origin(actor_id="actor-0", run_id="run-0")
        self._rows: list[_Row] = []

    @property
    def next_position(self) -> int:
        """Position of the next record."""
        return len(self._rows)

    def append(
        self,
        count: int = 1,
        *,
        task_id: str = "",
        signals: Mapping[str, float] | None = None,
        payload_bytes: int = 1,
        time_ns: int = 0,
    ) -> list[InsertedRecord]:
        """Appends records that are all alike, and returns them."""
        header = common_pb2.RecordHeader(steps=1, task_id=task_id, signals=signals)
        self._rows += [_Row(header, payload_bytes, time_ns, {}) for _ in range(count)]
        return [self._inserted(position) for position in range(self.next_position - count, self.next_position)]

    def mark(self, position: int, quarantine: int = 0, **signals: float) -> LoggedRecord:
        """Writes signals about a record and returns it as `on_marked` gets it."""
        row = self._rows[position]
        row.signals.update(signals)
        marks = common_pb2.RecordMarks(signals=row.signals, quarantine=quarantine)
        return LoggedRecord(position, row.header, self.origin, marks=marks)

    def records(self) -> list[InsertedRecord]:
        """All there are, as `load` gets them."""
        return [self._inserted(position) for position in range(self.first_position, self.next_position)]

    def counters(self) -> StoreCounters:
        """See LogView."""
        return StoreCounters(first_position=self.first_position, next_position=self.next_position)

    def window(self, records_max: int, payload_bytes_max: int, newer_than_ns: int) -> int:
        """See LogView."""
        position, payload_bytes = self.next_position, 0
        while position > self.first_position:
            row = self._rows[position - 1]
            payload_bytes += row.payload_bytes
            if (
                (records_max and self.next_position - position >= records_max)
                or (payload_bytes_max and payload_bytes > payload_bytes_max)
                or row.time_ns < newer_than_ns
            ):
                break
            position -= 1
        return position

    def _inserted(self, position: int) -> InsertedRecord:
        row, header = self._rows[position], common_pb2.RecordHeader()
        header.CopyFrom(row.header)
        for name, value in row.signals.items():
            header.signals[name] = value
        return InsertedRecord(position, header, self.origin)


def loaded_table(log: FakeLog, spec: str, state: replay_pb2.TableState | None = None, seed: int = 0) -> Table:
    """The table that the one-line `spec` describes, as a service makes it when it starts."""
    table = make_table(parse_spec(spec), state or replay_pb2.TableState(), log, seed)
    table.load(log.records())
    return table


def append_to(log: FakeLog, table: Table, count: int = 1, task_id: str = "", **signals: float) -> None:
    """Appends records that are all alike to the log, and tells the table."""
    new = log.append(count, task_id=task_id, signals=signals)
    table.refresh(log.first_position, log.next_position)
    table.on_inserted(new)


def draw(table: Table, count: int) -> Pick:
    """A pick whose draw was committed."""
    pick = table.pick(count)
    table.begin_draw(pick.state)
    table.end_draw(pick.state, committed=True)
    return pick
