"""What happened, step by step and episode by episode: records taken apart into experiences.

A record is rows of columns with boundary rows among them (docs/decisions/0002). Here it becomes steps (state, action,
reward, ...) without those rows, and the records of a lane become the whole episodes that run through them. Quality
signals - success, novelty, duplicate_of, fidelity, reward_verified, violations, ... - are the record's, in its header
and its marks; nothing is judged here, and nothing is learnt.

Tool usage is where a record says so: each column whose name begins with "tool/" has one value a step, e.g. "tool/id",
and each signal whose name begins with "tool/" is about the whole record, e.g. "tool/errors".

Exceptions: RowsContradictory (replay.episode_pieces) and SchemaError (replay.schema), both ValueErrors, for a record
that cannot be taken apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.episode_pieces import Piece, pieces_of_record, seeds_of
from replay.record import LoggedRecord
from replay.schema import SchemaError

State = NDArray[Any] | Mapping[str, NDArray[Any]]
"""An observation: an array, or arrays by name where the schema has a tree of them."""

_OBSERVATION = "observation"
_TOOL = "tool/"


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """One step. Arrays are read-only views into the record."""

    record: LoggedRecord
    """Where it comes from; `record.signals` are its quality signals."""
    row: int
    episode: int
    """Number of its episode in the lane."""
    episode_step: int
    """Steps made in that episode before this one."""
    state: State
    action: NDArray[Any]
    """A scalar array where the action is a number."""
    reward: float
    cost: float
    discount: float
    next_state: State | None
    """None after a terminated step: a record keeps no state that has no future; likewise where it has no such row."""
    terminated: bool
    truncated: bool
    """Of a record's last step this shows only in the next record: `episodes` knows it."""
    log_prob: float | None
    """Behaviour policy's log-probability of the action; None where the record does not say."""
    policy_version: int
    tools: Mapping[str, NDArray[Any]]
    """Values of this step in the columns about tool usage, by column name without its "tool/"."""


@dataclass(eq=False)
class EpisodeExperience:
    """One episode of a lane, joined over records: k steps. Columns are read-only views where one record holds it."""

    origin: common_pb2.Origin
    lane: int
    episode: int
    seed: int | None
    """The environment's; None where no header says it."""
    first_step: int
    """Steps of the episode before the first one here; more than 0 where its beginning is missing."""
    ending: Literal["terminated", "truncated", "incomplete"]
    """How it ends; incomplete: the records that would tell are not there."""
    columns: Mapping[str, NDArray[Any]]
    """By name. Observation columns [k + 1, ...], or [k, ...] where it terminated; all others [k, ...].

    What is stored once per record is of no step, and not here.
    """
    policy_versions: NDArray[np.uint64]
    """[k]"""
    positions: tuple[int, ...]
    """The records that it runs through."""
    signals: Mapping[str, float]
    """Quality signals: of each name the mean over those of its records that have it; tool usage among them."""

    @property
    def steps(self) -> int:
        """k."""
        return len(self.policy_versions)

    @property
    def complete(self) -> bool:
        """Whether it is here from its first step to its end."""
        return self.first_step == 0 and self.ending != "incomplete"

    @property
    def episode_return(self) -> float:
        """Sum of the rewards here."""
        return float(self.columns["reward"].sum(dtype=np.float64))

    @property
    def tools(self) -> Mapping[str, NDArray[Any]]:
        """The columns about tool usage, by name without "tool/"."""
        return {name.removeprefix(_TOOL): each for name, each in self.columns.items() if name.startswith(_TOOL)}


def experiences(record: LoggedRecord) -> Iterator[Experience]:
    """The steps of a record with its payload, in order; boundary rows are none.

    Raises:
      RowsContradictory, SchemaError: it cannot be taken apart.
    """
    columns, header = record.step_columns, record.header
    for name in ("action", "reward"):
        if name not in columns:
            raise SchemaError(f"position {record.position} has no column {name!r}: it holds no experiences")
    versions = _policy_versions(header)
    tools = {name.removeprefix(_TOOL): column for name, column in columns.items() if name.startswith(_TOOL)}
    optional = {name: columns.get(name) for name in ("cost", "discount", "log_prob")}
    for piece in pieces_of_record(record):
        before = header.episode_step if piece.continues else 0
        for step in range(piece.steps):
            row, last = piece.first_row + step, step == piece.steps - 1
            terminated = last and piece.ending == "terminated"
            yield Experience(
                record=record,
                row=row,
                episode=header.episode + piece.number,
                episode_step=before + step,
                state=_state(columns, row),
                action=columns["action"][row],
                reward=float(columns["reward"][row]),
                cost=_at(optional["cost"], row, 0.0),
                discount=_at(optional["discount"], row, 1.0),
                next_state=None if terminated else _next_state(columns, row + 1),
                terminated=terminated,
                truncated=last and piece.ending == "truncated",
                log_prob=None if optional["log_prob"] is None else float(optional["log_prob"][row]),
                policy_version=int(versions[row]),
                tools={name: column[row] for name, column in tools.items()},
            )


@dataclass
class _Unfinished:
    """An episode that the records so far leave open."""

    episode: int
    seed: int | None
    first_step: int
    parts: list[tuple[LoggedRecord, Piece]] = field(default_factory=list)
    steps: int = 0

    def goes_on_in(self, record: LoggedRecord) -> bool:
        here = (self.episode, self.first_step + self.steps) == (record.header.episode, record.header.episode_step)
        origin = self.parts[-1][0].origin
        return here and (origin is record.origin or origin.schema == record.origin.schema)


def episodes(records: Iterable[LoggedRecord], *, steps_max: int = 1_000_000) -> Iterator[EpisodeExperience]:
    """Whole episodes, joined over records with their payloads; each is given as soon as it has ended.

    Args:
      records: of any number of actors, runs and lanes; those of one lane in log order. A gap ends the episode in
        progress there as incomplete, and so does the end of the records.
      steps_max: most steps held in memory. Beyond it the lane idle for longest gives what it has, as incomplete;
        the rest of that episode comes as another part.

    Raises:
      RowsContradictory, SchemaError: a record cannot be taken apart.
    """
    lanes: OrderedDict[tuple[str, str, int], _Unfinished] = OrderedDict()
    held = 0
    for record in records:
        lane = (record.origin.actor_id, record.origin.run_id, record.header.lane)
        unfinished = lanes.pop(lane, None)
        held -= unfinished.steps if unfinished is not None else 0
        unfinished = yield from _extended(unfinished, record)
        if unfinished is not None:
            lanes[lane] = unfinished
            held += unfinished.steps
        while held > steps_max:
            _, longest_idle = lanes.popitem(last=False)
            held -= longest_idle.steps
            yield from _given(longest_idle, "incomplete")
    for unfinished in lanes.values():
        yield from _given(unfinished, "incomplete")


def _extended(
    unfinished: _Unfinished | None, record: LoggedRecord
) -> Generator[EpisodeExperience, None, _Unfinished | None]:
    """Gives the episodes that end in `record`, the next of its lane; returns the one that it leaves open, if any."""
    header = record.header
    if unfinished is not None and not unfinished.goes_on_in(record):
        yield from _given(unfinished, "incomplete")
        unfinished = None
    pieces = pieces_of_record(record)
    for piece, seed in zip(pieces, seeds_of(header.environment_seed, header.episode_seeds, pieces), strict=True):
        if unfinished is None:
            first_step = header.episode_step if piece.continues else 0
            unfinished = _Unfinished(header.episode + piece.number, seed, first_step)
        unfinished.parts.append((record, piece))
        unfinished.steps += piece.steps
        if piece.ending != "open":
            yield from _given(unfinished, piece.ending)
            unfinished = None
    return unfinished


def _given(
    unfinished: _Unfinished, ending: Literal["terminated", "truncated", "incomplete"]
) -> Iterator[EpisodeExperience]:
    """The episode, unless no step of it is here."""
    if not unfinished.steps:
        return
    first = unfinished.parts[0][0]
    records = [record for record, _ in unfinished.parts]
    named = {name for record in records for name in record.signals}
    yield EpisodeExperience(
        origin=first.origin,
        lane=first.header.lane,
        episode=unfinished.episode,
        seed=unfinished.seed,
        first_step=unfinished.first_step,
        ending=ending,
        columns={name: _joined(name, unfinished.parts, ending != "terminated") for name in first.step_columns},
        policy_versions=np.concatenate(
            [_policy_versions(record.header)[piece.first_row : piece.end_row] for record, piece in unfinished.parts]
        ),
        positions=tuple(record.position for record in records),
        signals={name: float(np.mean([r.signals[name] for r in records if name in r.signals])) for name in named},
    )


def _joined(name: str, parts: list[tuple[LoggedRecord, Piece]], with_last: bool) -> NDArray[Any]:
    """One column over all parts; of an observation also the row after the last step, where it is of this episode."""
    rows = [record.columns[name][piece.first_row : piece.end_row] for record, piece in parts]
    if _is_observation(name) and with_last:
        record, piece = parts[-1]
        rows.append(record.columns[name][piece.end_row : piece.end_row + 1])
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _is_observation(name: str) -> bool:
    return name == _OBSERVATION or name.startswith(_OBSERVATION + "/")


def _state(columns: Mapping[str, NDArray[Any]], row: int) -> State:
    if _OBSERVATION in columns:
        state: NDArray[Any] = columns[_OBSERVATION][row]
        return state
    return {
        name.removeprefix(_OBSERVATION + "/"): column[row] for name, column in columns.items() if _is_observation(name)
    }


def _next_state(columns: Mapping[str, NDArray[Any]], row: int) -> State | None:
    there = all(row < len(column) for name, column in columns.items() if _is_observation(name))
    return _state(columns, row) if there else None


def _at(column: NDArray[Any] | None, row: int, otherwise: float) -> float:
    return otherwise if column is None else float(column[row])


def _policy_versions(header: common_pb2.RecordHeader) -> NDArray[np.uint64]:
    """Version of the behaviour policy of each row [T]."""
    versions = np.zeros(header.steps, np.uint64)
    for span in header.policies:
        versions[span.first_step :] = span.version
    return versions
