"""Reads the log in order, without sampling it: the records that pass a filter, in groups of bounded size.

Works on any StoreView, so on a service's own store and on a directory that nobody serves. A damaged record is left out
and counted, not a reason to stop: whoever must know audits.

Exceptions: FilterError (replay.filters) from `Listing`; StoreError from reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from protos.common.v1 import common_pb2
from replay.filters import parse_filter
from replay.record import LoggedRecord
from replay.schema import PayloadLayout
from replay.store import StoreCorrupt, StoredRecord, StoreView

GROUP_RECORDS = 256
GROUP_BYTES = 8 * 1024**2
"""Payloads of a group, unless one alone has more; an encoded one counts as what it stands for."""

_ORIGINS_KEPT = 1024

Reading = Callable[[Sequence[int]], list[StoredRecord]]


class Group(NamedTuple):
    """Records that passed, ascending, their marks, and the position below which everything has been looked at."""

    records: Sequence[StoredRecord]
    marks: dict[int, common_pb2.RecordMarks]
    next_position: int


@dataclass(frozen=True)
class _Origin:
    """An origin, parsed once for the many records that name it."""

    origin: common_pb2.Origin

    @cached_property
    def layout(self) -> PayloadLayout:
        """Of its records."""
        return PayloadLayout(self.origin.schema)


class Listing:
    """One pass over the log as it is now. Use from any one thread.

    Args:
      view: the store.
      filter_text: a filter expression; "" for every record.
      from_position: first position wanted.
      limit: most records, 0 for as many as there are.
      with_payload: whether to read payloads.
      positions: exactly these, ascending, instead of a range; no limit.

    Attributes:
      damaged: positions that could not be read so far.

    Raises FilterError.
    """

    def __init__(
        self,
        view: StoreView,
        *,
        filter_text: str = "",
        from_position: int = 0,
        limit: int = 0,
        with_payload: bool = False,
        positions: Sequence[int] = (),
    ) -> None:
        self.damaged: list[int] = []
        self._view = view
        self._filter = parse_filter(filter_text) if filter_text else None
        self._with_payload = with_payload
        self._limit = limit
        self._origins: dict[int, _Origin] = {}
        counters = view.counters()
        self._positions: Sequence[int] = positions or range(
            max(from_position, counters.first_position), counters.next_position
        )

    def groups(self) -> Iterator[Group]:
        """Groups of records until the log's end or the limit; groups in which nothing passed come too, empty."""
        left = self._limit or len(self._positions)
        for start in range(0, len(self._positions), GROUP_RECORDS):
            for group in self._group(self._positions[start : start + GROUP_RECORDS], left):
                kept = group.records[:left]
                left -= len(kept)
                end = group.next_position if left > 0 or not kept else kept[-1].position + 1
                yield Group(kept, group.marks, end)
                if left <= 0:
                    return

    def logged(self, group: Group) -> Iterator[LoggedRecord]:
        """The records of a group as filters, rules and people see them."""
        for record in group.records:
            yield self._logged(record, group.marks)

    def _group(self, positions: Sequence[int], records_max: int) -> Iterator[Group]:
        """One group of headers, as several where the payloads are large or fewer records are wanted."""
        marks: dict[int, common_pb2.RecordMarks] = {}

        def read_marked(wanted: Sequence[int]) -> list[StoredRecord]:
            marks.update(self._view.marks(wanted))
            return self._view.read_headers(wanted)

        headers = self._undamaged(read_marked, positions)
        passed = [record for record in headers if self._filter is None or self._filter(self._logged(record, marks))]
        end = positions[-1] + 1
        if not self._with_payload or not passed:
            yield Group(passed, marks, end)
            return
        parts = list(self._parts(passed, records_max))
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            yield Group(self._undamaged(self._view.read, part), marks, end if last else part[-1] + 1)

    def _parts(self, records: Sequence[StoredRecord], records_max: int) -> Iterator[Sequence[int]]:
        """Positions whose payloads are read together. Their sizes are known from what they stand for."""
        part: list[int] = []
        size = 0
        for record in records:
            content_bytes = self._content_bytes(record)
            if part and (size + content_bytes > GROUP_BYTES or len(part) == records_max):
                yield part
                part, size = [], 0
            part.append(record.position)
            size += content_bytes
        yield part

    def _content_bytes(self, record: StoredRecord) -> int:
        return self._origin(record.origin_id).layout.payload_bytes(record.header.steps)

    def _origin(self, origin_id: int) -> _Origin:
        known = self._origins.get(origin_id)
        if known is None:
            if len(self._origins) == _ORIGINS_KEPT:
                self._origins.clear()
            known = self._origins[origin_id] = _Origin(self._view.origin(origin_id))
        return known

    def _undamaged(self, read: Reading, positions: Sequence[int]) -> list[StoredRecord]:
        try:
            return read(positions)
        except StoreCorrupt as error:
            damaged = set(error.positions)
            if not damaged.intersection(positions):
                raise
            self.damaged.extend(sorted(damaged))
            return self._undamaged(read, [position for position in positions if position not in damaged])

    def _logged(self, record: StoredRecord, marks: dict[int, common_pb2.RecordMarks]) -> LoggedRecord:
        return LoggedRecord(
            record.position,
            record.header,
            self._origin(record.origin_id).origin,
            bytes(record.payload),
            marks.get(record.position) or common_pb2.RecordMarks(),
        )
