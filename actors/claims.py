"""What records claim, laid out for re-execution: episodes to run again, and which rows hold which of their steps.

Each record is taken at its own word: its first episode is run from the seed in its own header, with the actions that
the records before it say were taken, and so on. So a false seed is the fault of the record that states it alone. What
contradicts itself without any re-execution is found here too. Comparing is the business of actors.judgement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.agreement import Disagreement
from actors.environment import EnvironmentSpec
from actors.lane_histories import History
from actors.reexecution import EpisodeReplay
from actors.seeds import EVALUATION_SEED_END
from policies.spaces import ActionSpace
from protos.common.v1 import common_pb2
from replay.episode_pieces import Piece, RowsContradictory, pieces_of, seeds_of
from replay.record import LoggedRecord
from replay.schema import SchemaError

SEEDS_MAX = 4
"""Most seeds that an episode is run again from, should its records state several: each takes a course of its own."""

_NO_SEED = "its header does not hold the seeds of the episodes that begin in it"
_MANY_SEEDS = f"the records of its first episode state more than {SEEDS_MAX} different seeds"


@dataclass(frozen=True)
class Subject:
    """A record to be judged, or one that only leads up to such."""

    record: LoggedRecord
    """With its payload."""
    chosen: bool
    previous: int | None
    """Position of the record of its lane before it, where that is laid out too."""
    history: History
    next_position: int | None = None
    """Of the record after it in its lane, where that begins an episode; else None."""
    next_episode: tuple[int, int] | None = None
    """Number and seed of that episode, as its header says."""


@dataclass
class Claim:
    """A piece of a record, and where in an episode it lies."""

    piece: Piece
    first_step: int
    """Steps of the episode before it."""
    replay: int = -1
    """Which of the episodes to run again."""


@dataclass
class Case:
    """What there is to say about a subject before anything is run again, and what is to be compared then."""

    subject: Subject
    claims: list[Claim] = field(default_factory=list)
    next_replay: int | None = None
    """The episode whose first observation should be the record's last row."""
    contradiction: Disagreement | None = None
    """The record contradicts itself."""
    discontinuity: Disagreement | None = None
    """The record contradicts the one before it."""
    reasons: list[str] = field(default_factory=list)
    """Why some of it cannot be verified."""
    follows_unknown: bool = False
    """Whether it goes on from a record that could not be laid out."""


class Layout(NamedTuple):
    """What to run again, and what for."""

    cases: list[Case]
    replays: list[EpisodeReplay]


def schema_problem(schema: common_pb2.Schema, spec: EnvironmentSpec) -> str:
    """Why records of this schema cannot be those of an unroll in the environment; "" if they can."""
    parts = {part.column: (part.dtype, part.shape, 1) for part in spec.observation.parts}
    expected: Mapping[str, tuple[str, tuple[int, ...], int]] = parts | {
        "action": (spec.action.dtype.str, spec.action.shape, 0),
        "reward": ("<f4", (), 0),
        "cost": ("<f4", (), 0),
        "discount": ("<f4", (), 0),
        "mask": ("|b1", (), 0),
    }
    found = {
        each.name: (each.dtype, tuple(each.shape), each.rows_beyond_steps) for each in schema.columns if not each.once
    }
    for name, layout in expected.items():
        if found.get(name) != layout:
            return f"its column {name} is not that of an unroll in this environment"
    return ""


def lay_out(subjects: Iterable[Subject], spec: EnvironmentSpec) -> Layout:
    """Lays out subjects of one environment.

    Args:
      subjects: those of one lane in log order, their schemas without a problem.
      spec: of the environment.
    """
    desk = _Desk(spec)
    cases = [desk.take(subject) for subject in subjects]
    return Layout(cases, desk.replays())


@dataclass
class _Course:
    """An episode's steps so far, and the claims about it by the seed that they state."""

    number: int
    steps: int = 0
    actions: list[NDArray[Any]] = field(default_factory=list)
    claims: dict[int, list[Claim]] = field(default_factory=dict)


class _Left(NamedTuple):
    """Where a record leaves its lane: in which episode, and after how many of its steps."""

    course: _Course | None
    number: int
    steps: int


class _Desk:
    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec = spec
        self._left: dict[int, _Left] = {}
        self._courses: list[_Course] = []
        self._first_observations: list[tuple[Case, int]] = []

    def take(self, subject: Subject) -> Case:
        case = Case(subject)
        header = subject.record.header
        try:
            columns = subject.record.step_columns
            case.contradiction = _contradiction(columns, self._spec.action)
            pieces = pieces_of(columns["mask"], columns["discount"], header.episode_step > 0)
        except RowsContradictory as error:
            case.contradiction = _first(case.contradiction, Disagreement(error.row, "mask"))
        except SchemaError:  # a payload whose encoding holds something else than its frame says
            case.contradiction = Disagreement(0, "payload")
        if case.contradiction is not None:
            return case
        seeds = seeds_of(header.environment_seed, header.episode_seeds, pieces)
        case.contradiction = _seed_contradiction(header, pieces, seeds)
        course: _Course | None = None
        for piece, seed in zip(pieces, seeds, strict=True):
            course = self._continued(case) if piece.continues else self._begun(header.episode + piece.number)
            if course is not None:
                self._claim(case, course, piece, seed)
        last = pieces[-1]
        number = header.episode + last.number
        if last.ending == "open":
            self._left[subject.record.position] = _Left(course, number, course.steps if course is not None else -1)
        else:
            self._left[subject.record.position] = _Left(None, number + 1, 0)
            following, seed = subject.next_episode or (-1, 0)
            if subject.chosen and following == number + 1 and seed < EVALUATION_SEED_END:
                self._first_observations.append((case, seed))
        return case

    def _begun(self, number: int) -> _Course:
        course = _Course(number)
        self._courses.append(course)
        return course

    def _continued(self, case: Case) -> _Course | None:
        """The episode that a record goes on with; None where what it did before is not known."""
        subject, header = case.subject, case.subject.record.header
        history = subject.history
        if subject.previous is None:
            if subject.chosen and history.unbroken:
                case.discontinuity = Disagreement(0, "episode_step")
            else:
                case.reasons.append(history.missing or "the records before it in its lane are not at hand")
            return None
        left = self._left.get(subject.previous)
        if left is None:
            case.follows_unknown = True
            return None
        if left.course is None and left.steps < 0:
            case.reasons.append(history.missing or "what came before it in its episode is not known")
            return None
        if (left.number, left.steps) != (header.episode, header.episode_step):
            if not history.unbroken:
                case.reasons.append("records of its run are missing before it")
                return None
            what = "episode" if left.steps == header.episode_step else "episode_step"
            case.discontinuity = Disagreement(0, what)
        # It is the next record of its lane, whatever it says: those after it may still be right.
        return left.course

    def _claim(self, case: Case, course: _Course, piece: Piece, seed: int | None) -> None:
        claim = Claim(piece, course.steps)
        course.actions.append(case.subject.record.columns["action"][piece.first_row : piece.end_row])
        course.steps += piece.steps
        if seed is None:
            if _NO_SEED not in case.reasons:
                case.reasons.append(_NO_SEED)
        elif seed not in course.claims and len(course.claims) == SEEDS_MAX:
            case.reasons.append(_MANY_SEEDS)
        elif seed < EVALUATION_SEED_END:
            case.claims.append(claim)
            course.claims.setdefault(seed, []).append(claim)

    def replays(self) -> list[EpisodeReplay]:
        """The episodes to run again; each claim is told which one it is about."""
        replays: list[EpisodeReplay] = []
        for course in self._courses:
            actions = np.concatenate([self._spec.action.zeros(0), *course.actions])
            for seed, claims in course.claims.items():
                needed = max(claim.first_step + claim.piece.steps for claim in claims)
                for claim in claims:
                    claim.replay = len(replays)
                replays.append(EpisodeReplay(seed, actions[:needed]))
        for case, seed in self._first_observations:
            case.next_replay = len(replays)
            replays.append(EpisodeReplay(seed, self._spec.action.zeros(0)))
        return replays


def _contradiction(columns: Mapping[str, NDArray[Any]], space: ActionSpace) -> Disagreement | None:
    """The first row that no rollout writes, whatever the environment does."""
    mask, action = columns["mask"], columns["action"]
    found = _first_row(mask & ~space.contains(action), "action")
    if not mask.all():
        for name, column in columns.items():
            if not name.startswith("observation") and len(column) == len(mask):
                filled = column.reshape(len(column), -1).any(axis=1)
                found = _first(found, _first_row(~mask & filled, name))
    return found


def _seed_contradiction(
    header: common_pb2.RecordHeader, pieces: Sequence[Piece], seeds: Sequence[int | None]
) -> Disagreement | None:
    """What is wrong with a header's seeds: no environment takes it, or no episode begins that it could be of."""
    for piece, seed in zip(pieces, seeds, strict=True):
        if seed is not None and seed >= EVALUATION_SEED_END:
            return Disagreement(piece.first_row, "environment_seed" if piece.first_row == 0 else "episode_seeds")
    if len(header.episode_seeds) > sum(piece.first_row > 0 for piece in pieces):
        return Disagreement(header.steps - 1, "episode_seeds")
    return None


def _first_row(wrong: NDArray[np.bool_], what: str) -> Disagreement | None:
    rows = np.flatnonzero(wrong)
    return Disagreement(int(rows[0]), what) if rows.size else None


def _first(one: Disagreement | None, other: Disagreement | None) -> Disagreement | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda each: each.row)
