"""The full check of a store that was killed: every record against what its actor sent, the chain, and the counters.

It remembers what it saw, so that it can tell a log that only grew at its end and lost at its beginning what was
evicted from one in which anything else happened. It reads through replay.reader, so a server may be running on the
store; a record that is evicted while it reads is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from replay.chain import next_link
from replay.store import StoreCorrupt, StoreCounters, StoredRecord, StoreView, origin_digest
from tests.robustness.replay_load import Marking, Problems
from tests.robustness.replay_records import STEPS, payload_of

_READ_RECORDS = 256
_ANY_NEW_RUN = ""


@dataclass
class StoreCheck:
    """What is known of one store.

    Attributes:
      row_bytes: of its records.
      problems: take what is found.
      checked_records: how many were read, all checks together.
    """

    row_bytes: int
    problems: Problems
    checked_records: int = 0
    _next_position: int = 0
    _head: bytes = b""
    _next_sequence: dict[str, int] = field(default_factory=dict)
    _known: dict[int, tuple[str, int]] = field(default_factory=dict)
    _unsure: set[str] = field(default_factory=set)
    """Runs of which records may have been evicted before any check saw them: their next may be any later sequence."""

    def check(self, view: StoreView, acknowledged: Mapping[str, int], marking: Marking, *, is_live: bool) -> None:
        """Checks everything.

        Args:
          view: of the store.
          acknowledged: by run, how many records had been acknowledged before `view` was asked anything.
          marking: what was marked and quarantined by then.
          is_live: whether a server may change the store meanwhile.
        """
        marks, quarantined = dict(marking.marks), set(marking.quarantined)
        counters = view.counters()
        self._check_growth(view, counters)
        payload_bytes = self._check_records(view, counters, is_live=is_live)
        self._check_counters(view, counters, payload_bytes)
        self._check_acknowledged(acknowledged, counters)
        self._check_marks(view, marks, quarantined)
        self._next_position, self._head = counters.next_position, counters.chain_head
        self._known = {
            position: known for position, known in self._known.items() if position >= counters.first_position
        }

    def _check_growth(self, view: StoreView, counters: StoreCounters) -> None:
        if counters.next_position < self._next_position:
            self._add("lost", f"the log ends at {counters.next_position}, it had reached {self._next_position}")
        elif self._head and view.link_before(self._next_position) not in (self._head, None):
            # None where everything up to there was evicted in the meantime.
            self._add("corrupt", f"the link before position {self._next_position} is not the head it was")
        if counters.first_position > self._next_position:
            self._overtaken()

    def _overtaken(self) -> None:
        """Records were evicted that no check saw."""
        self._unsure |= set(self._next_sequence)
        self._unsure.add(_ANY_NEW_RUN)

    def _check_records(self, view: StoreView, counters: StoreCounters, *, is_live: bool) -> int:
        """Reads everything; returns the payload bytes of what was read."""
        payload_bytes = 0
        expected = counters.first_position
        link = view.link_before(expected)
        for record in self._records(view, counters):
            self.checked_records += 1
            payload_bytes += len(record.payload)
            if record.position != expected:
                self._check_gap(view, expected, record.position, is_live=is_live)
                link = view.link_before(record.position)
            self._check_record(view, record)
            origin = view.origin(record.origin_id)
            computed = next_link(link or b"", origin_digest(origin), record.header_bytes, record.payload_digest)
            if link is not None and computed != record.chain:
                self._add("corrupt", f"position {record.position} breaks the chain")
            link = record.chain
            expected = record.position + 1
        if expected != counters.next_position:
            self._check_gap(view, expected, counters.next_position, is_live=is_live)
        if link is not None and expected == counters.next_position and link != counters.chain_head:
            self._add("inconsistent", "the last record's link is not the head of the chain")
        return payload_bytes

    def _check_gap(self, view: StoreView, start: int, end: int, *, is_live: bool) -> None:
        """Nothing was read at the positions from `start` to `end`: they must have been evicted meanwhile."""
        if not is_live or view.counters().first_position < end:
            self._add("lost", f"positions {start} to {end - 1} are gone, though not evicted")
        elif end > self._next_position:
            self._overtaken()

    def _records(self, view: StoreView, counters: StoreCounters) -> Iterator[StoredRecord]:
        for start in range(counters.first_position, counters.next_position, _READ_RECORDS):
            positions = range(start, min(start + _READ_RECORDS, counters.next_position))
            try:
                yield from view.read(positions)
            except StoreCorrupt as error:
                self._add("corrupt", f"{error} (positions {list(error.positions)})")

    def _check_record(self, view: StoreView, record: StoredRecord) -> None:
        header = record.header
        run_id = view.origin(record.origin_id).run_id
        where = f"position {record.position} (run {run_id}, sequence {header.sequence})"
        if bytes(record.payload) != payload_of(run_id, header.sequence, self.row_bytes):
            self._add("corrupt", f"{where} is not what its actor sent")
        digest = hashlib.sha256(record.payload).digest()
        if not digest == header.payload_digest == record.payload_digest:
            self._add("corrupt", f"{where} has another digest than its payload")
        if header.signals["value"] != header.sequence or header.steps != STEPS:
            self._add("corrupt", f"{where} has another header than its actor sent")
        known = self._known.setdefault(record.position, (run_id, header.sequence))
        if known != (run_id, header.sequence):
            self._add("corrupt", f"{where} was {known} before")
        elif record.position >= self._next_position:
            self._check_sequence(run_id, header.sequence, where)

    def _check_sequence(self, run_id: str, sequence: int, where: str) -> None:
        """Sequences of a run follow one another: none is missing, none comes twice."""
        expected = self._next_sequence.get(run_id, 0)
        if sequence < expected:
            self._add("duplicated", f"{where} was stored before")
        elif sequence > expected and not self._is_unsure(run_id):
            self._add("lost", f"{where} follows sequence {expected - 1}")
        self._next_sequence[run_id] = sequence + 1
        self._unsure.discard(run_id)

    def _is_unsure(self, run_id: str) -> bool:
        return run_id in self._unsure or (_ANY_NEW_RUN in self._unsure and run_id not in self._next_sequence)

    def _check_counters(self, view: StoreView, counters: StoreCounters, payload_bytes: int) -> None:
        if counters.appended_steps != counters.next_position * STEPS:
            self._add("inconsistent", f"{counters.appended_steps} steps in {counters.next_position} records")
        if counters.signal_totals.get("steps") != counters.next_position * STEPS:
            self._add("inconsistent", f"signal totals {dict(counters.signal_totals)}")
        evicted = view.counters().first_position > counters.first_position
        if counters.payload_bytes != payload_bytes and not evicted:
            self._add("inconsistent", f"{counters.payload_bytes} payload bytes counted, {payload_bytes} stored")

    def _check_acknowledged(self, acknowledged: Mapping[str, int], counters: StoreCounters) -> None:
        if set(acknowledged) <= set(self._next_sequence):
            self._unsure.discard(_ANY_NEW_RUN)
        for run_id, count in acknowledged.items():
            stored = self._next_sequence.get(run_id, 0)
            if stored < count and not self._is_unsure(run_id):
                self._add("lost", f"run {run_id}: {count} records were acknowledged, {stored} stored")
        total = sum(self._next_sequence.values())
        if total != counters.next_position and not self._unsure & {_ANY_NEW_RUN, *self._next_sequence}:
            self._add("inconsistent", f"{total} records of all runs, the log says {counters.next_position}")

    def _check_marks(self, view: StoreView, marks: Mapping[int, float], quarantined: set[int]) -> None:
        found = view.marks(sorted(marks))
        in_force = view.quarantined()
        first = view.counters().first_position
        for position, value in marks.items():
            mark = found[position].signals.get("mark") if position in found else None
            # A later one, not answered, may have replaced it.
            if position >= first and mark is None:
                self._add("lost", f"the mark {value} of position {position}")
        for position in quarantined:
            if position >= first and position not in in_force:
                self._add("lost", f"the quarantine of position {position}")

    def _add(self, kind: str, what: str) -> None:
        self.problems.add(kind, what)
