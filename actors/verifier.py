"""Judges chosen records of a log that is read once, in order: gathers them, runs them again in groups, gives verdicts.

Reads headers of the whole log and payloads of what it runs again: the chosen records, and those that lead up to them.
Writes nothing. Memory: one group of records, and the histories of lanes (actors.lane_histories). What an environment
raises, or that it stands still, is a reason why records are unverifiable (actors.bounded_reexecution).

Exceptions: what the source raises; Interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.bounded_reexecution import BoundedReexecution
from actors.claims import Subject, lay_out, schema_problem
from actors.environment import VectorEnvironment
from actors.judgement import Verdict, judge
from actors.known_environments import KnownEnvironments
from actors.lane_histories import History, LaneHistories, LaneKey, lane_of
from protos.common.v1 import common_pb2
from replay.record import LoggedRecord
from replay.schema import PAYLOAD_BYTES_MAX, PayloadLayout, SchemaError
from replay.source import RecordSource

GROUP_RECORDS = 2048
"""Most records run again together, those that lead up to others included."""

GROUP_BYTES = 64 * 1024 * 1024
"""Most payload bytes of them, by the schema."""

_GET_RECORDS = 512

_GONE = "it can no longer be read: evicted meanwhile, or damaged"
_GAP = "a record that leads up to it can no longer be read"
_DERIVED = "it was derived from other records, not acted"
_MISSHAPEN = "it has a schema, or steps, that no service takes"


@dataclass
class _Chosen:
    """A record to be judged, and what its successor in the lane says."""

    position: int
    lane: LaneKey
    sequence: int
    history: History
    next_position: int | None = None
    next_episode: tuple[int, int] | None = None
    next_is_known: bool = False
    waited: bool = False


class Verifier:
    """Give it the records of a log in order, headers only, and ask for verdicts.

    Args:
      source: where the payloads are.
      environments: to run them again in; the caller closes them.
      group_records: see GROUP_RECORDS.
      stop: whether to give up a group and raise Interrupted.
      seconds_max: longest time to run a group again; 0 for no limit.

    Attributes:
      steps: environment steps made so far.
    """

    def __init__(
        self,
        source: RecordSource,
        environments: KnownEnvironments,
        *,
        group_records: int = GROUP_RECORDS,
        stop: Callable[[], bool] = lambda: False,
        seconds_max: float = 0.0,
    ) -> None:
        self._source = source
        self._reexecution = BoundedReexecution(environments, stop=stop, seconds_max=seconds_max)
        self._group_records = group_records
        self._environments = environments
        self._histories = LaneHistories()
        self._chosen: list[_Chosen] = []
        self._newest: dict[LaneKey, _Chosen] = {}
        self._wanted: set[int] = set()
        self._bytes = 0
        self._origin: common_pb2.Origin | None = None
        self._layout: PayloadLayout | None = None
        self.steps = 0

    def look_at(self, record: LoggedRecord, *, chosen: bool) -> None:
        """The next record of the log; `chosen` where it is to be judged."""
        payload_bytes = self._payload_bytes(record)
        history, key = self._histories.add(record, payload_bytes), lane_of(record)
        before = self._newest.pop(key, None)
        if before is not None:
            before.next_is_known = True
            if record.header.episode_step == 0:
                before.next_position = record.position
                before.next_episode = (record.header.episode, record.header.environment_seed)
        if not chosen:
            return
        entry = _Chosen(record.position, key, record.header.sequence, history)
        self._chosen.append(entry)
        self._newest[key] = entry
        so_far = len(self._wanted)
        self._wanted.update(history.before)
        # Records of a lane share most of those that lead up to them.
        new = len(self._wanted) - so_far
        self._bytes += payload_bytes + (history.payload_bytes * new // len(history.before) if new else 0)
        self._wanted.add(record.position)

    @property
    def full(self) -> bool:
        """Whether enough is gathered for a group to be judged."""
        return len(self._wanted) >= self._group_records or self._bytes >= GROUP_BYTES

    @property
    def settled(self) -> bool:
        """Whether the record after each chosen one has been seen."""
        return not self._newest

    def verdicts(self, *, last: bool) -> list[Verdict]:
        """Judges what is gathered. Where anything is raised, nothing is judged: it may be asked for again.

        A record whose successor has not been seen is kept for the next group, once: the successor knows the seed of the
        episode that begins in the record's last row.

        Args:
          last: whether no more records will come: nothing is kept.
        """
        ready = [each for each in self._chosen if last or each.next_is_known or each.waited]
        verdicts = list(self._judged(ready)) if ready else []
        self._chosen = [each for each in self._chosen if not (last or each.next_is_known or each.waited)]
        for each in self._chosen:
            each.waited = True
        waiting = {id(each) for each in self._chosen}
        self._newest = {key: each for key, each in self._newest.items() if id(each) in waiting}
        self._wanted = set()
        self._bytes = 0
        return verdicts

    def _judged(self, ready: Sequence[_Chosen]) -> Iterator[Verdict]:
        wanted = sorted({position for each in ready for position in (*each.history.before, each.position)})
        records: dict[int, LoggedRecord] = {}
        for start in range(0, len(wanted), _GET_RECORDS):
            records.update(
                (record.position, record) for record in self._source.get(wanted[start : start + _GET_RECORDS])
            )
        for each in ready:
            if not _is_there(each, records):
                records.pop(each.position, None)
                yield Verdict(each.position, "unverifiable", True, reason=_GONE)
        groups: dict[bytes, tuple[VectorEnvironment, list[Subject]]] = {}
        for subject in _subjects(ready, records):
            found = self._environment_of(subject.record)
            if not isinstance(found, str):
                key = subject.record.origin.environment.code_digest
                groups.setdefault(key, (found, []))[1].append(subject)
            elif subject.chosen:
                yield Verdict(subject.record.position, "unverifiable", True, reason=found)
        for environment, subjects in groups.values():
            layout = lay_out(subjects, environment.spec)
            outcomes = self._reexecution.run(environment, layout.replays)
            self.steps += sum(outcome.steps for outcome in outcomes if not isinstance(outcome, str))
            yield from judge(layout.cases, outcomes, self._fetch)

    def _environment_of(self, record: LoggedRecord) -> VectorEnvironment | str:
        """The environment to run it again in, or why it cannot be."""
        if record.header.parents:
            return _DERIVED
        if not 0 < self._payload_bytes(record) <= PAYLOAD_BYTES_MAX:
            return _MISSHAPEN
        found = self._environments.find(record.origin.environment)
        if isinstance(found, str):
            return found
        return schema_problem(record.origin.schema, found.spec) or found

    def _payload_bytes(self, record: LoggedRecord) -> int:
        """What its payload stands for; 0 where that makes no sense."""
        try:
            if record.origin is not self._origin:
                self._origin, self._layout = record.origin, None
                self._layout = PayloadLayout(record.origin.schema)
            return 0 if self._layout is None else self._layout.payload_bytes(record.header.steps)
        except SchemaError:
            return 0

    def _fetch(self, position: int) -> LoggedRecord | None:
        """A record that can be run again, by its position."""
        for record in self._source.get([position]):
            if not isinstance(self._environment_of(record), str):
                return record
        return None


def _is_there(each: _Chosen, records: Mapping[int, LoggedRecord]) -> bool:
    """Whether its position still holds the record that was looked at: a log can lose its end, and grow again."""
    record = records.get(each.position)
    return record is not None and (lane_of(record), record.header.sequence) == (each.lane, each.sequence)


def _subjects(ready: Sequence[_Chosen], records: Mapping[int, LoggedRecord]) -> list[Subject]:
    """The chosen records and those that lead up to them, in log order."""
    subjects: dict[int, Subject] = {}
    for each in ready:
        if each.position in records:
            previous, history = _line(each, len(each.history.before), records)
            subjects[each.position] = Subject(
                records[each.position], True, previous, history, each.next_position, each.next_episode
            )
    for each in ready:
        for index, position in enumerate(each.history.before):
            if position in records and position not in subjects:
                previous, history = _line(each, index, records)
                subjects[position] = Subject(records[position], False, previous, history)
    return [subjects[position] for position in sorted(subjects)]


def _line(each: _Chosen, index: int, records: Mapping[int, LoggedRecord]) -> tuple[int | None, History]:
    """What leads up to the record at `index` in a line of records that leads up to another: the last one, and all."""
    whole = each.history
    if index == 0:
        return None, whole._replace(unbroken=whole.unbroken and not whole.before)
    previous = whole.before[index - 1]
    if previous not in records or lane_of(records[previous]) != each.lane:
        return None, History((), _GAP, False)
    return previous, whole._replace(before=whole.before[:index])
