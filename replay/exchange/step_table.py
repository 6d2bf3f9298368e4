"""Steps as rows: the columns of records of one schema, and to which record, episode and policy each row belongs.

    position, step            the record, and the row in it
    actor_id, run_id, lane    whose it is
    episode, episode_step     number of its episode in the lane, and steps made in it before this row
    boundary                  no step was made here: the row holds the final observation of a truncated episode
    policy_version            of the behaviour policy
    NAME                      a column of the schema, "column/NAME" where the name is taken
    NAME_after                of a column that also holds the state after the last step: that state, in the row of the
                              record's last step, null in all others
    NAME of a column that is stored once per record: in the row of its first step, null in all others

Exceptions: SchemaError (replay.schema) for a payload that does not fit its schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.exchange.arrow_columns import (
    column_array,
    column_field,
    file_metadata,
    free_name,
    packs_well,
    sparse_array,
    sparse_field,
)
from replay.payload_encoding import EncodingError, decode_payload
from replay.record import LoggedRecord
from replay.schema import PayloadLayout, SchemaError

STEPS = "steps"
"""The kind of these files."""

_OWN = (
    pa.field("position", pa.uint64(), nullable=False),
    pa.field("step", pa.uint32(), nullable=False),
    pa.field("actor_id", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("lane", pa.uint32(), nullable=False),
    pa.field("episode", pa.uint64(), nullable=False),
    pa.field("episode_step", pa.uint32(), nullable=False),
    pa.field("boundary", pa.bool_(), nullable=False),
    pa.field("policy_version", pa.uint64(), nullable=False),
)
_AFTER = "_after"

Arrays = dict[str, NDArray[Any]]


class StepTable:
    """Makes tables of records of one schema.

    Attributes:
      schema: Arrow schema of the tables.
      few_values: columns with few different values, as paths in the Parquet schema.
    """

    def __init__(self, schema: common_pb2.Schema) -> None:
        self._layout = PayloadLayout(schema)
        self._columns = list(schema.columns)
        taken = {field.name for field in _OWN} | {column.name + _AFTER for column in self._columns}
        fields = list(_OWN)
        self.few_values = [field.name for field in _OWN]
        for column in self._columns:
            name = free_name(column.name, taken)
            fields.append(sparse_field(name, column) if column.once else column_field(name, column))
            if column.rows_beyond_steps:
                fields.append(sparse_field(column.name + _AFTER, column))
            if packs_well(column) and not column.once:
                self.few_values.append(f"{name}.list.element" if column.shape else name)
        self.schema = pa.schema(fields, file_metadata(STEPS, schema))

    def raw_bytes(self, record: LoggedRecord) -> int:
        """Memory that its columns take (bytes)."""
        return self._layout.payload_bytes(record.header.steps)

    def table(self, records: Sequence[LoggedRecord]) -> Any:
        """The table of the steps of these records (at least one), in order. Raises SchemaError."""
        # Records of one length are laid out alike and become rows at once.
        groups = [list(group) for _, group in groupby(records, key=lambda record: record.header.steps)]
        rows = _joined([_rows(self._layout, group) for group in groups])
        lengths = [record.header.steps for record in records]
        first, last = np.zeros(sum(lengths), np.bool_), np.zeros(sum(lengths), np.bool_)
        ends = np.cumsum(lengths)
        first[ends - lengths] = last[ends - 1] = True
        owner = pa.array(np.repeat(np.arange(len(records)), lengths))
        arrays = [
            pa.array(np.repeat(np.array([record.position for record in records], np.uint64), lengths)),
            pa.array(rows.own["step"]),
            pa.array([record.origin.actor_id for record in records]).take(owner),
            pa.array([record.origin.run_id for record in records]).take(owner),
            pa.array(np.repeat(np.array([record.header.lane for record in records], np.uint32), lengths)),
            *(pa.array(rows.own[name]) for name in ("episode", "episode_step", "boundary", "policy_version")),
        ]
        for column in self._columns:
            values = rows.columns[column.name]
            arrays.append(sparse_array(values, first, column) if column.once else column_array(values, column))
            if column.rows_beyond_steps:
                arrays.append(sparse_array(rows.after[column.name], last, column))
        return pa.table(arrays, schema=self.schema)


@dataclass(frozen=True)
class _Rows:
    """The R rows of K records, one record after another."""

    own: Arrays
    """Of our own columns, [R]."""
    columns: Arrays
    """Of the schema's columns, [R, *shape]; [K, *shape] of those stored once per record."""
    after: Arrays
    """Of those with a row beyond the steps, that row, [K, *shape]."""


def _rows(layout: PayloadLayout, records: Sequence[LoggedRecord]) -> _Rows:
    """The rows of records (N of them) of equal T. Raises SchemaError."""
    steps = records[0].header.steps
    arrays = {name: _truth(each) for name, each in layout.views(_raw(layout, records), steps).items()}
    mask, discount = (None if name in layout.once else arrays.get(name) for name in ("mask", "discount"))
    boundary = np.zeros((len(records), steps), np.bool_) if mask is None else ~mask
    episode, episode_step = _episodes(records, boundary if discount is None else boundary | (discount == 0))
    own: Arrays = {
        "step": np.broadcast_to(np.arange(steps, dtype=np.uint32), boundary.shape),
        "episode": episode,
        "episode_step": episode_step,
        "boundary": boundary,
        "policy_version": _policy_versions(records, steps),
    }
    return _Rows(
        {name: each.reshape(-1) for name, each in own.items()},
        {name: each[:, :steps].reshape(-1, *each.shape[2:]) for name, each in arrays.items()},
        {name: each[:, steps] for name, each in arrays.items() if each.shape[1] > steps},
    )


def _joined(groups: Sequence[_Rows]) -> _Rows:
    if len(groups) == 1:
        return groups[0]
    parts = zip(*((group.own, group.columns, group.after) for group in groups), strict=True)
    return _Rows(*({name: np.concatenate([each[name] for each in part]) for name in part[0]} for part in parts))


def _raw(layout: PayloadLayout, records: Sequence[LoggedRecord]) -> NDArray[np.uint8]:
    """The decoded payloads of N records of equal T, uint8 [N, bytes]. Raises SchemaError."""
    steps = records[0].header.steps
    size = layout.payload_bytes(steps)
    raw = np.empty((len(records), size), np.uint8)
    for row, record in zip(raw, records, strict=True):
        encoding = record.header.encoding
        layout.check_payload(record.payload, steps, encoding)
        try:
            row[:] = np.frombuffer(decode_payload(record.payload, encoding, size), np.uint8)
        except EncodingError as error:
            raise SchemaError(f"record {record.position}: {error}") from error
    return raw


def _truth(array: NDArray[Any]) -> NDArray[Any]:
    """Any byte but 0 reads as True, as everywhere (replay.schema)."""
    return array.view(np.uint8) != 0 if array.dtype.kind == "b" else array


def _episodes(
    records: Sequence[LoggedRecord], ended: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Number of each row's episode, and steps made in it before the row, both [N, T] (see replay.episode_pieces).

    Args:
      records: N.
      ended: [N, T], True in rows after which another episode begins.
    """
    rows = np.arange(ended.shape[1])
    number: NDArray[np.intp] = np.cumsum(ended, axis=1) - ended
    newest_end = np.maximum.accumulate(np.where(ended, rows, -1), axis=1)
    first_row = np.zeros_like(newest_end)
    first_row[:, 1:] = newest_end[:, :-1] + 1
    first_episode = np.array([record.header.episode for record in records], np.uint64)
    made_before = np.array([record.header.episode_step for record in records])
    episode = first_episode[:, None] + number.astype(np.uint64)
    episode_step = rows - first_row + np.where(number == 0, made_before[:, None], 0)
    return episode, episode_step.astype(np.uint32)


def _policy_versions(records: Sequence[LoggedRecord], steps: int) -> NDArray[np.uint64]:
    """Version of the behaviour policy of each row [N, T]."""
    versions = np.zeros((len(records), steps), np.uint64)
    for row, record in zip(versions, records, strict=True):
        for span in record.header.policies:
            row[span.first_step :] = span.version
    return versions
