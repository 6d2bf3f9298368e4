"""Whether what a record says happened in a stretch of an episode is what happened when the episode was run again.

Numbers agree where they are equal, or neither is one (NaN). Floating-point numbers also agree where they differ by no
more than TOLERANCE of the largest finite magnitude that the same component had in the episode that was run again:
another CPU, or another build of NumPy, may round the last bit differently, and dynamics carry it on. On one machine
nothing of it is needed: CartPole, whose lanes are stepped as one array, gives the same bits with any number of lanes.

An observation of several parts is compared part by part, each by the magnitudes of its own numbers.

Knows columns and outcomes; which records they are of is the business of actors.claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.reexecution import EpisodeOutcome
from replay.episode_pieces import Piece
from replay.provenance import SIGNAL_MAX

TOLERANCE = 1e-5
"""Largest difference that is still agreement, relative to the component's largest magnitude in the episode."""


class Disagreement(NamedTuple):
    """Where a record first says something else."""

    row: int
    """Of the record's columns."""
    what: str
    """The column, or the field of the header."""


class Agreement(NamedTuple):
    """What a comparison came to."""

    disagreement: Disagreement | None
    error: float
    """Largest absolute difference of any number compared; SIGNAL_MAX where one is not finite."""
    on_course: bool
    """Whether the state after the last step is the one that the record says."""


def same_state(columns: Mapping[str, NDArray[Any]], row: int, outcome: EpisodeOutcome, steps: int) -> bool:
    """Whether the observation in a row is the one that an episode has after so many steps."""
    return not different_parts(columns, row, outcome, steps)


def different_parts(
    columns: Mapping[str, NDArray[Any]], row: int, outcome: EpisodeOutcome, steps: int
) -> tuple[str, ...]:
    """The columns of those parts of the observation in a row that are not what an episode has after so many steps."""
    if steps > outcome.steps:
        return tuple(name for name, _ in _parts(outcome.observation))
    return tuple(
        name
        for name, part in _parts(outcome.observation)
        if _agrees(columns[name][row : row + 1], part[steps : steps + 1], part)[0] is not None
    )


def compare(columns: Mapping[str, NDArray[Any]], piece: Piece, first_step: int, outcome: EpisodeOutcome) -> Agreement:
    """Compares a piece of a record with the steps that it is about.

    Args:
      columns: of the record.
      piece: which of its rows; its steps are those from `first_step` of the episode on.
      first_step: steps of the episode before it.
      outcome: what happened, as far as this piece at least or up to the episode's end.
    """
    if first_step > outcome.steps:
        return Agreement(Disagreement(piece.first_row, "mask"), 0.0, False)
    made = min(outcome.steps - first_step, piece.steps)
    steps = slice(first_step, first_step + made)
    rows = slice(piece.first_row, piece.first_row + made)
    # A terminated episode's last observation is not in the record, whose next row is another episode's first.
    states = made if piece.ending == "terminated" and made == piece.steps else made + 1
    seen = slice(first_step, first_step + states)
    seen_rows = slice(piece.first_row, piece.first_row + states)
    compared: list[tuple[str, slice, NDArray[Any], NDArray[Any] | None]] = [
        *((name, seen_rows, part[seen], part) for name, part in _parts(outcome.observation)),
        ("reward", rows, outcome.reward[steps], outcome.reward),
        ("cost", rows, outcome.cost[steps], outcome.cost),
        ("discount", rows, (~outcome.terminated[steps]).astype(np.float32), None),
    ]
    found: list[Disagreement] = []
    error = 0.0
    for name, where, values, whole in compared:
        first, largest = _agrees(columns[name][where], values, whole)
        error = max(error, largest)
        if first is not None:
            found.append(Disagreement(where.start + first, name))
    ending = _ending(piece, first_step, outcome)
    if ending is not None:
        found.append(ending)
    on_course = piece.ending == "terminated" or same_state(columns, piece.end_row, outcome, first_step + piece.steps)
    return Agreement(min(found, default=None, key=lambda each: each.row), error, on_course)


def _parts(observation: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """The parts of observations [m + 1, *shape], by the names of their columns."""
    names = observation.dtype.names
    if names is None:
        return [("observation", observation)]
    return [(f"observation/{name}", observation[name]) for name in names]


def _ending(piece: Piece, first_step: int, outcome: EpisodeOutcome) -> Disagreement | None:
    """Where the record goes on after the episode's end, or says that it was truncated though it was not.

    That a step terminated the episode is a discount of 0, and compared as such.
    """
    last_step = first_step + piece.steps - 1
    if outcome.steps <= last_step:
        # The row after the last step that was made should be a boundary, or another episode's first.
        return Disagreement(piece.first_row + outcome.steps - first_step, "mask")
    truncated = bool(outcome.truncated[last_step] & ~outcome.terminated[last_step])
    if piece.ending == "truncated" and not truncated:
        return Disagreement(piece.end_row, "mask")
    return None


def _agrees(recorded: NDArray[Any], values: NDArray[Any], whole: NDArray[Any] | None) -> tuple[int | None, float]:
    """The first row that disagrees, None where none does, and the largest absolute difference.

    Args:
      recorded, values: [n, ...].
      whole: [m, ...], all values of the episode, for their magnitude; None where only equality is agreement.
    """
    if np.array_equal(recorded, values):
        return None, 0.0
    with np.errstate(all="ignore"):  # a record may hold anything
        # Of the numbers as they are: large integers differ by less than a float can tell.
        equal = (recorded == values) | ((recorded != recorded) & (values != values))  # noqa: PLR0124 - NaN is not itself
        difference = np.where(equal, 0.0, np.abs(recorded.astype(np.float64) - values.astype(np.float64)))
        wrong = ~equal
        if whole is not None and values.dtype.kind == "f":
            # An infinity somewhere in the episode must not make everything agree.
            magnitude = np.nan_to_num(np.abs(whole.astype(np.float64)), nan=0.0, posinf=0.0).max(axis=0)
            wrong &= ~(difference <= TOLERANCE * magnitude)
    error = float(np.fmin(np.nan_to_num(difference, nan=SIGNAL_MAX), SIGNAL_MAX).max())
    if not wrong.any():
        return None, error
    return int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0]), error
