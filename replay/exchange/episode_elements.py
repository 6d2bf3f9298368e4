"""The steps of episodes as RLDS has them: one struct a step, and one more at the end of each episode.

    observation, action, reward, discount, ...   the columns of the schema; the trees observation/... and action/... are
                                                 structs
    policy_version                               of the behaviour policy that chose the action
    is_first                                     the element is the first step of the episode
    is_last                                      only its observation is valid, everything else is 0
    is_terminal                                  of a last element: the episode terminated

`reward` and `discount` follow the action of their own element. A record keeps no state that has no future, so the last
observation of a terminated episode is 0 as well: RLDS allows for that. The boundary row of a truncated episode
(docs/decisions/0002) is its last element; the column `mask` has nothing left to say, and is left out. So are columns
that are stored once per record, which are of no step.

Exceptions: ExportRefused for a schema that has no observation, action or reward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from protos.common.v1 import common_pb2
from replay.exchange.arrow_columns import column_array, column_field, free_name, packs_well
from replay.exchange.errors import ExportRefused
from replay.experience import EpisodeExperience

_OWN = (
    pa.field("policy_version", pa.uint64(), nullable=False),
    pa.field("is_first", pa.bool_(), nullable=False),
    pa.field("is_last", pa.bool_(), nullable=False),
    pa.field("is_terminal", pa.bool_(), nullable=False),
)
_TREES = ("observation", "action")
_REQUIRED = ("observation", "action", "reward")
_DISCOUNT, _MASK = "discount", "mask"


class EpisodeElements:
    """Makes the elements of episodes of one schema.

    Attributes:
      type: Arrow type of an element.
      few_values: paths below the element to what has few different values.

    Raises ExportRefused for a schema that has no observation, action or reward.
    """

    def __init__(self, schema: common_pb2.Schema) -> None:
        self._columns = [column for column in schema.columns if column.name != _MASK and not column.once]
        _check_required(self._columns)
        if all(column.name != _DISCOUNT for column in self._columns):
            self._columns.append(common_pb2.Column(name=_DISCOUNT, dtype="<f4"))
        # By field: one column under "", or those of a tree under their names in it.
        self._fields: dict[str, dict[str, common_pb2.Column]] = {}
        taken = [field.name for field in _OWN]
        for column in self._columns:
            tree, slash, name = column.name.partition("/")
            if slash and tree in _TREES and not any(each.name == tree for each in self._columns):
                self._fields.setdefault(tree, {})[name] = column
            else:
                self._fields[free_name(column.name, taken)] = {"": column}
        fields = [_field(name, columns) for name, columns in self._fields.items()]
        self.type = pa.struct([*fields, *_OWN])
        self.few_values = [*self._few_values(), *(field.name for field in _OWN)]

    def element_bytes(self) -> int:
        """Memory that an element takes (bytes)."""
        return sum(np.dtype(each.dtype).itemsize * int(np.prod(each.shape, dtype=np.int64)) for each in self._columns)

    def array(self, episodes: Sequence[EpisodeExperience]) -> Any:
        """The elements of these episodes (at least one), one episode after another."""
        arrays = []
        for name, columns in self._fields.items():
            parts = [_column_array(column, episodes) for column in columns.values()]
            if "" in columns:
                arrays.append(parts[0])
            else:
                arrays.append(pa.StructArray.from_arrays(parts, fields=list(self.type.field(name).type)))
        return pa.StructArray.from_arrays([*arrays, *_own_arrays(episodes)], fields=list(self.type))

    def _few_values(self) -> Iterator[str]:
        for name, columns in self._fields.items():
            for below, column in columns.items():
                if packs_well(column):
                    yield ".".join([name, *([below] if below else []), *(["list.element"] if column.shape else [])])


def _check_required(columns: Sequence[common_pb2.Column]) -> None:
    names = [column.name for column in columns]
    for required in _REQUIRED:
        if not any(name == required or name.startswith(f"{required}/") for name in names):
            raise ExportRefused(
                f"the records have no column {required!r}, which a step of an episode needs; they have "
                f"{', '.join(names)}: nothing was written"
            )


def _field(name: str, columns: dict[str, common_pb2.Column]) -> Any:
    if "" in columns:
        return column_field(name, columns[""])
    return pa.field(name, pa.struct([column_field(below, each) for below, each in columns.items()]), nullable=False)


def _column_array(column: common_pb2.Column, episodes: Sequence[EpisodeExperience]) -> Any:
    """A column of all elements: zeros where there is nothing."""
    values = np.zeros((sum(episode.steps + 1 for episode in episodes), *column.shape), column.dtype)
    begin = 0
    for episode in episodes:
        there = episode.columns.get(column.name)
        if there is not None:
            values[begin : begin + len(there)] = there
        else:
            # Only a discount may be missing: then no step terminates.
            values[begin : begin + episode.steps] = 1
        begin += episode.steps + 1
    return column_array(values, column)


def _own_arrays(episodes: Sequence[EpisodeExperience]) -> list[Any]:
    lengths = np.array([episode.steps + 1 for episode in episodes])
    ends = np.cumsum(lengths)
    versions = np.zeros(ends[-1], np.uint64)
    first, last, terminal = (np.zeros(ends[-1], np.bool_) for _ in range(3))
    for episode, end, length in zip(episodes, ends.tolist(), lengths.tolist(), strict=True):
        versions[end - length : end - 1] = episode.policy_versions
        first[end - length] = episode.first_step == 0
        last[end - 1] = True
        terminal[end - 1] = episode.ending == "terminated"
    return [pa.array(each) for each in (versions, first, last, terminal)]
