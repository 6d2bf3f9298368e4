"""For each record of a log, which records before it lead up to it: those since the beginning of its first episode.

Looks at headers only, in log order, and remembers of each lane no more than the next record may need. What headers say
is a claim; whether it is true, re-execution shows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from replay.record import LoggedRecord

BEFORE_MAX = 256
"""Most records before a record that its first episode may run through."""

BEFORE_BYTES_MAX = 256 * 1024 * 1024
"""Most bytes of their payloads, as the caller counts them."""

LANES_MAX = 16_384
"""Most lanes, and runs, remembered; beyond it those not heard of for longest are forgotten."""

RECORDS_MAX = 500_000
"""Most records remembered, of all lanes together. Beyond it lanes are forgotten from which so many records ago the last
one came; where there are none, what leads up to the next record is."""

LaneKey = tuple[str, str, int]
"""(actor_id, run_id, lane)."""


class History(NamedTuple):
    """What leads up to a record."""

    before: tuple[int, ...]
    """Positions of the records of its lane that its first episode runs through before it, in order."""
    missing: str
    """Why these are not all of them; "" if they are."""
    unbroken: bool
    """Whether no record of its run is missing since the first of them (or, if there are none, at all), so that they
    are all there ever were."""
    payload_bytes: int = 0
    """Of those in `before`."""


class _Seen(NamedTuple):
    position: int
    sequence: int
    episode: int
    episode_step: int
    payload_bytes: int


@dataclass
class _Lane:
    records: list[_Seen] = field(default_factory=list)
    payload_bytes: int = 0
    cut_off: bool = False

    def drop(self, count: int) -> None:
        """Forgets the oldest so many."""
        self.payload_bytes -= sum(seen.payload_bytes for seen in self.records[:count])
        del self.records[:count]


@dataclass
class _Run:
    """`missing` is the highest sequence known not to be there; -1 if all are."""

    newest: int
    missing: int


def lane_of(record: LoggedRecord) -> LaneKey:
    """The lane that a record belongs to."""
    return record.origin.actor_id, record.origin.run_id, record.header.lane


class LaneHistories:
    """Give it the records of a log in order.

    Args:
      before_max: see BEFORE_MAX.
      lanes_max: see LANES_MAX.
      before_bytes_max: see BEFORE_BYTES_MAX.
      records_max: see RECORDS_MAX.
    """

    def __init__(
        self,
        before_max: int = BEFORE_MAX,
        lanes_max: int = LANES_MAX,
        before_bytes_max: int = BEFORE_BYTES_MAX,
        records_max: int = RECORDS_MAX,
    ) -> None:
        self._before_max = before_max
        self._before_bytes_max = before_bytes_max
        self._lanes_max = lanes_max
        self._records_max = records_max
        self._records = 0
        self._lanes: OrderedDict[LaneKey, _Lane] = OrderedDict()
        self._runs: OrderedDict[tuple[str, str], _Run] = OrderedDict()

    def add(self, record: LoggedRecord, payload_bytes: int = 0) -> History:
        """The history of the next record of the log; it becomes part of the history of those after it."""
        header, key = record.header, lane_of(record)
        run = self._follow(key[:2], header.sequence)
        lane = self._lanes.pop(key, None) or _Lane()
        self._records -= len(lane.records)
        history = self._history(lane, run, header.episode, header.episode_step)
        lane.records.append(_Seen(record.position, header.sequence, header.episode, header.episode_step, payload_bytes))
        lane.payload_bytes += payload_bytes
        self._make_room(len(lane.records), record.position)
        full = self._records + len(lane.records) > self._records_max
        if full or len(lane.records) > self._before_max or lane.payload_bytes > self._before_bytes_max:
            # Only the newest can still be of use: the next episode may begin in it.
            lane.drop(len(lane.records) - 1)
            lane.cut_off = True
        self._lanes[key] = lane
        self._records += len(lane.records)
        return history

    def _make_room(self, count: int, position: int) -> None:
        while self._lanes:
            oldest = next(iter(self._lanes.values()))
            idle = oldest.records[-1].position + self._records_max < position
            full = idle and self._records + count > self._records_max
            if not full and len(self._lanes) < self._lanes_max:
                return
            self._forget_a_lane()

    def _forget_a_lane(self) -> None:
        (actor_id, run_id, _), lane = self._lanes.popitem(last=False)
        self._records -= len(lane.records)
        run = self._runs.get((actor_id, run_id))
        if run is not None:
            # What comes of that lane later must not be taken for a lane that never had a beginning.
            run.missing = run.newest

    def _history(self, lane: _Lane, run: _Run, episode: int, episode_step: int) -> History:
        if episode_step == 0:
            lane.drop(len(lane.records))
            lane.cut_off = False
            return History((), "", True)
        # The episode began in the last record that begins with its step 0, or with an earlier episode.
        for index in range(len(lane.records) - 1, -1, -1):
            if lane.records[index].episode < episode or lane.records[index].episode_step == 0:
                lane.drop(index)
                lane.cut_off = False
                break
        else:
            return self._without_beginning(lane, run)
        before = tuple(seen.position for seen in lane.records)
        return History(before, "", lane.records[0].sequence > run.missing, lane.payload_bytes)

    def _without_beginning(self, lane: _Lane, run: _Run) -> History:
        if lane.cut_off:
            limit = f"{self._before_max} records, or {self._before_bytes_max >> 20} MiB,"
            return History((), f"its first episode began more than {limit} before it", False)
        never_was = run.missing < 0 and not lane.records
        return History((), "the record that its first episode began in is not in the store", never_was)

    def _follow(self, key: tuple[str, str], sequence: int) -> _Run:
        """What is known of a run with this sequence."""
        run = self._runs.pop(key, None)
        if run is None:
            run = _Run(newest=sequence, missing=sequence - 1)
        elif sequence == run.newest + 1:
            run.newest = sequence
        else:
            # A gap; or records that came out of order, of which no more is made.
            run.missing = max(run.newest, sequence - 1)
            run.newest = max(run.newest, sequence)
        self._runs[key] = run
        if len(self._runs) > self._lanes_max:
            self._runs.popitem(last=False)
        return run
