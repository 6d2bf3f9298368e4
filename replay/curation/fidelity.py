"""The rule `fidelity`: which part of a record's rows is as a rollout writes them.

Says whether a record can be what it claims to be, by itself alone; whether it is, only re-execution can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.curation.context import CurationContext
from replay.curation.rules import rule
from replay.episode_pieces import RowsContradictory, mask_and_discount, pieces_of
from replay.record import LoggedRecord

Arrays = Mapping[str, NDArray[Any]]


@rule("fidelity", signals=("fidelity",), needs_payload=True, parameters={"log_prob_error_max": 1e-3})
def fidelity(record: LoggedRecord, context: CurationContext) -> Mapping[str, float]:
    """The part of the rows that are finite, in range, consistent in mask and boundary, and in log_prob and logits.

    A row is sound where everything in it is finite; its cost is not negative and its discount within [0, 1]; its action
    is one of those that there are logits for; its log_prob is at most 0, unless it is the density of real numbers, and
    within `log_prob_error_max` of what the logits say of the action; and, in a boundary row, everything but the
    observation is 0. Where boundary rows stand where none can be, no row from there on is sound. What is stored once
    per record belongs to its first row.
    """
    columns, steps = record.step_columns, record.header.steps
    mask, discount = mask_and_discount(columns, steps)
    sound = (
        _finite(record.columns, columns, steps)
        & _in_range(columns, discount, steps)
        & _empty_at_boundaries(columns, mask)
    )
    if "logits" in columns and "action" in columns and columns["action"].ndim == 1:
        sound &= ~mask | _probable(columns, context.parameter("log_prob_error_max"))
    try:
        pieces_of(mask, discount, record.header.episode_step > 0)
    except RowsContradictory as error:
        sound[error.row :] = False
    return {"fidelity": float(sound.mean())}


def _finite(columns: Arrays, step_columns: Arrays, steps: int) -> NDArray[np.bool_]:
    sound = np.ones(steps, np.bool_)
    for name, column in columns.items():
        if column.dtype.kind == "f":
            finite = np.asarray(np.isfinite(column.reshape(len(column), -1)).all(axis=1))
            if name not in step_columns:
                sound[0] = sound[0] and finite.all()
                continue
            np.logical_and(sound, finite[:steps], out=sound)
            # A row beyond the last step is what that step led to.
            sound[-1] = sound[-1] and finite[steps:].all()
    return sound


def _in_range(columns: Arrays, discount: NDArray[Any], steps: int) -> NDArray[np.bool_]:
    sound: NDArray[np.bool_] = (discount >= 0) & (discount <= 1)
    is_density = "action" in columns and columns["action"].dtype.kind == "f"
    for name, upper in (("cost", np.inf), ("log_prob", np.inf if is_density else 0.0)):
        if name in columns:
            lower = 0.0 if name == "cost" else -np.inf
            values = columns[name].reshape(steps, -1)
            sound &= ((values >= lower) & (values <= upper)).all(axis=1)
    return sound


def _empty_at_boundaries(columns: Arrays, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    sound = np.ones(len(mask), np.bool_)
    for name, column in columns.items():
        if not name.startswith("observation") and len(column) == len(mask):
            sound &= mask | ~column.reshape(len(column), -1).any(axis=1)
    return sound


def _probable(columns: Arrays, error_max: float) -> NDArray[np.bool_]:
    """Whether each row's action is one of those there are logits for, and its log_prob what they say."""
    action, logits = columns["action"], columns["logits"].astype(np.float64)
    known = (action >= 0) & (action < logits.shape[1])
    if "log_prob" not in columns:
        return np.asarray(known)
    with np.errstate(all="ignore"):  # numbers that are not finite have been found already
        shifted = logits - logits.max(axis=1, keepdims=True)
        normalised = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        said = normalised[np.arange(len(action)), np.where(known, action, 0)]
        close = np.abs(said - columns["log_prob"]) <= error_max
    probable: NDArray[np.bool_] = known & close
    return probable
