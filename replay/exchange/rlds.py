"""Records as episodes: DIRECTORY/episodes.parquet, a row an episode with its steps inside, in the semantics of RLDS.

    episode_id                        actor/run/lane/episode, and +STEP where the beginning is missing
    actor_id, run_id, lane, episode
    environment, environment_version, environment_digest
    seed                              the environment's; null where no header says it
    first_step                        steps of the episode before the first one here
    length, return                    steps here, and the sum of their rewards
    ending, complete                  "terminated", "truncated" or "incomplete"; whether all of it is here
    final_observation                 whether the last element of `steps` has an observation
    positions                         the records that it runs through
    signals                           of each name the mean over its records
    steps                             length + 1 elements, see episode_elements.py

DIRECTORY/records.parquet has the records that the episodes come from, as in parquet.py: how they were cut, and what was
found out about each, no episode can say, so it is this file that parquet_import.py puts into another store.

Episodes are joined over the records of a lane (replay.experience), in the order in which they end; a gap ends one as
incomplete. All of an export have one schema. Memory is bounded: HELD_BYTES_MAX of episodes in progress, beyond which
the lane idle for longest is given up as incomplete and goes on in a row of its own.

Exceptions: ExportRefused; RowsContradictory, SchemaError for records that cannot be taken apart; what the iteration
raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from protos.common.v1 import common_pb2
from replay.exchange.arrow_columns import DIGEST, SIGNALS, file_metadata, signals_array
from replay.exchange.episode_elements import EpisodeElements
from replay.exchange.errors import ExportRefused
from replay.exchange.output import ExportSummary, files_in, new_directory
from replay.exchange.parquet_writer import ParquetFile
from replay.exchange.records_file import Quarantines, RecordsFile, no_quarantines
from replay.experience import EpisodeExperience, episodes
from replay.record import LoggedRecord

EPISODES_FILE = "episodes.parquet"
EPISODES = "episodes"
"""The kind of these files."""

HELD_BYTES_MAX = 512 * 1024**2
GROUP_BYTES_MAX = 16 * 1024**2
GROUP_EPISODES_MAX = 4096

Read = Callable[[EpisodeExperience], Any]


def _episode_id(episode: EpisodeExperience) -> str:
    beginning = f"+{episode.first_step}" if episode.first_step else ""
    return f"{episode.origin.actor_id}/{episode.origin.run_id}/{episode.lane}/{episode.episode}{beginning}"


_FIELDS: tuple[tuple[str, Any, Read], ...] = (
    ("episode_id", pa.string(), _episode_id),
    ("actor_id", pa.string(), lambda episode: episode.origin.actor_id),
    ("run_id", pa.string(), lambda episode: episode.origin.run_id),
    ("lane", pa.uint32(), lambda episode: episode.lane),
    ("episode", pa.uint64(), lambda episode: episode.episode),
    ("environment", pa.string(), lambda episode: episode.origin.environment.id),
    ("environment_version", pa.string(), lambda episode: episode.origin.environment.version),
    ("environment_digest", DIGEST, lambda episode: episode.origin.environment.code_digest),
    ("seed", pa.uint64(), lambda episode: episode.seed),
    ("first_step", pa.uint64(), lambda episode: episode.first_step),
    ("length", pa.uint64(), lambda episode: episode.steps),
    ("return", pa.float64(), lambda episode: episode.episode_return),
    ("ending", pa.string(), lambda episode: episode.ending),
    ("complete", pa.bool_(), lambda episode: episode.complete),
    ("final_observation", pa.bool_(), lambda episode: episode.ending != "terminated"),
    ("positions", pa.list_(pa.uint64()), lambda episode: episode.positions),
)
_FEW_VALUES = ("actor_id", "run_id", "environment", "environment_version", "environment_digest", "ending")


def export_rlds(
    records: Iterable[LoggedRecord], directory: Path, quarantines: Quarantines = no_quarantines
) -> ExportSummary:
    """Writes the episodes of records, with their payloads, to a new directory.

    Args:
      records: in log order.
      directory: which does not exist.
      quarantines: asked once, after the last record.

    Raises:
      ExportRefused: there is something at `directory`, there are no records, they have several schemas, or one without
        observation, action and reward, or the disk does not take them; nothing is left there.
    """
    with new_directory(directory) as unfinished:
        counted = _Counted(records)
        elements = EpisodeElements(counted.schema)
        row_bytes = elements.element_bytes()
        schema = _arrow_schema(counted.schema, elements)
        few_values = [*_FEW_VALUES, *(f"steps.list.element.{path}" for path in elements.few_values)]
        written = 0
        with (
            RecordsFile(unfinished) as records_file,
            ParquetFile(unfinished / EPISODES_FILE, schema, few_values) as file,
        ):
            joined = episodes(_written(counted, records_file), steps_max=max(1, HELD_BYTES_MAX // row_bytes))
            for group in _groups(joined, row_bytes):
                file.write(_table(group, elements, schema))
                written += len(group)
            records_file.finish(quarantines())
        if not written:
            raise ExportRefused(f"no episode makes a step in {counted.records} records: {directory} was not written")
    return ExportSummary(counted.records, counted.steps, *files_in(directory), written)


class _Counted:
    """The same records, counted, and the schema that all of them must have.

    Raises ExportRefused where there is none, and from the iteration where one has another schema than the first.
    """

    def __init__(self, records: Iterable[LoggedRecord]) -> None:
        self.records = self.steps = 0
        self._records = iter(records)
        first = next(self._records, None)
        if first is None:
            raise ExportRefused("there is no record to export: nothing was written")
        self._first = first
        self.schema = first.origin.schema

    def __iter__(self) -> Iterator[LoggedRecord]:
        checked = self._first.origin
        for record in chain([self._first], self._records):
            if record.origin is not checked and record.origin.schema != self.schema:
                raise ExportRefused(
                    f"record {record.position} of {record.origin.environment.id} has another schema than those before "
                    "it, and episodes of one table have one: filter the records, e.g. by environment"
                )
            checked = record.origin
            self.records += 1
            self.steps += record.header.steps
            yield record


def _written(records: Iterable[LoggedRecord], file: RecordsFile) -> Iterator[LoggedRecord]:
    """The same records, each written to a file as it passes."""
    for record in records:
        file.add(record)
        yield record


def _groups(joined: Iterable[EpisodeExperience], row_bytes: int) -> Iterator[Sequence[EpisodeExperience]]:
    """Episodes in groups that become row groups."""
    group: list[EpisodeExperience] = []
    size = 0
    for episode in joined:
        group.append(episode)
        size += (episode.steps + 1) * row_bytes
        if size >= GROUP_BYTES_MAX or len(group) >= GROUP_EPISODES_MAX:
            yield group
            group, size = [], 0
    if group:
        yield group


def _arrow_schema(schema: common_pb2.Schema, elements: EpisodeElements) -> Any:
    fields = [pa.field(name, kind, nullable=name == "seed") for name, kind, _ in _FIELDS]
    steps = pa.list_(pa.field("element", elements.type, nullable=False))
    fields += [pa.field("signals", SIGNALS), pa.field("steps", steps, nullable=False)]
    return pa.schema(fields, file_metadata(EPISODES, schema))


def _table(group: Sequence[EpisodeExperience], elements: EpisodeElements, schema: Any) -> Any:
    offsets = np.zeros(len(group) + 1, np.int32)
    np.cumsum([episode.steps + 1 for episode in group], out=offsets[1:])
    arrays = [pa.array([read(episode) for episode in group], kind) for _, kind, read in _FIELDS]
    arrays.append(signals_array([episode.signals for episode in group]))
    arrays.append(pa.ListArray.from_arrays(pa.array(offsets), elements.array(group), type=schema.field("steps").type))
    return pa.table(arrays, schema=schema)
