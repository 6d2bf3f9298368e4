"""Which rows of a record belong to which episode: read off mask and discount, as docs/decisions/0002 lays down.

A piece is a stretch of one episode inside one record. Rows are those of the columns; the record after it, which alone
may know that the last step of this one was truncated, is not looked at.

Exceptions: RowsContradictory (a ValueError) for rows that no rollout writes; it names the first such row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.record import LoggedRecord

Ending = Literal["open", "terminated", "truncated"]
"""How a piece ends: with the record, by a terminated step, or by a truncated one whose boundary row is there too."""


class RowsContradictory(ValueError):
    """Rows that no rollout writes; `row` is the first of them."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(f"row {row}: {what}")
        self.row = row


class Piece(NamedTuple):
    """Steps of one episode in rows first_row to first_row + steps - 1 of a record.

    A piece of 0 steps is a boundary row in row 0: the episode was truncated by the last step of the record before.
    Unless it terminated, the observation after its last step is in row first_row + steps.
    """

    first_row: int
    steps: int
    ending: Ending
    number: int
    """0 for the episode in progress at row 0, then counting up."""
    continues: bool
    """Whether its episode began in an earlier record."""

    @property
    def end_row(self) -> int:
        """The row after its last step."""
        return self.first_row + self.steps


def pieces_of(mask: NDArray[np.bool_], discount: NDArray[Any], continues: bool) -> list[Piece]:
    """The pieces of a record, in order.

    Args:
      mask: bool [T], False in boundary rows.
      discount: [T], 0 where a step terminated its episode.
      continues: whether the episode in progress at row 0 has made steps before.

    Raises:
      RowsContradictory: a boundary row follows no step that could have been truncated.
    """
    pieces: list[Piece] = []
    first_row = 0
    for row in np.flatnonzero(~mask | (discount == 0)).tolist():
        going_on = continues and first_row == 0
        if mask[row]:
            pieces.append(Piece(first_row, row + 1 - first_row, "terminated", len(pieces), going_on))
        elif row > first_row or going_on:
            pieces.append(Piece(first_row, row - first_row, "truncated", len(pieces), going_on))
        else:
            raise RowsContradictory(row, "a boundary row where no episode has made a step")
        first_row = row + 1
    if first_row < len(mask):
        pieces.append(Piece(first_row, len(mask) - first_row, "open", len(pieces), continues and first_row == 0))
    return pieces


def pieces_of_record(record: LoggedRecord) -> list[Piece]:
    """The pieces of a record with its payload; a column that it lacks says mask True, discount 1.

    Raises RowsContradictory, and SchemaError for a payload that does not fit its schema.
    """
    mask, discount = mask_and_discount(record.step_columns, record.header.steps)
    return pieces_of(mask, discount, record.header.episode_step > 0)


def mask_and_discount(columns: Mapping[str, NDArray[Any]], steps: int) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Both columns [T]; where one is missing, True or 1 throughout."""
    mask = columns.get("mask")
    discount = columns.get("discount")
    return (
        np.ones(steps, np.bool_) if mask is None else mask,
        np.ones(steps, np.float32) if discount is None else discount,
    )


def seeds_of(environment_seed: int, episode_seeds: Sequence[int], pieces: Sequence[Piece]) -> list[int | None]:
    """The environment seed that a header gives for each piece; None where it gives none."""
    inside = list(episode_seeds)
    seeds: list[int | None] = []
    for piece in pieces:
        if piece.first_row == 0:
            seeds.append(environment_seed)
        else:
            seeds.append(inside.pop(0) if inside else None)
    return seeds
