"""The records that a Minari data set becomes: whole episodes, or records of a fixed number of rows as an actor makes.

    columns     observation (as the data set has it; a tree flattened with '/'), action (int32 where it is Discrete),
                reward <f4, cost <f4 (0: the data set has none), discount <f4, mask |b1, as docs/wire.md says; behaviour
                log-probabilities are not known and infos are left out
    boundary    rows as docs/decisions/0002 says after a truncated step; an episode that ends in neither way was cut by
                whoever recorded it, so it was truncated
    provenance  see dataset_origin.py; the policy is version 0 with the data set's digest; task_id is the data set's id;
                the seed is the episode's, 0 where it is not known; times are 0, not known
    signals     "episodes", "return", "episode_steps", "violating_episodes" of episodes that ended in the record, and
                "steps", "cost", as an actor writes them

Every record is the same at every import. Memory is that of an episode and a record.

Exceptions: ImportRefused; what minari_dataset.py raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from protos.common.v1 import common_pb2
from replay.exchange.dataset_origin import origin_of
from replay.exchange.episode_rows import Arrays, EpisodeRows, FixedCut, RecordRows, cut_by_episode, episode_rows
from replay.exchange.errors import ImportRefused
from replay.exchange.intake import ImportedRecord
from replay.exchange.minari_dataset import Episode, MinariDataset
from replay.payload_encoding import RAW, ZSTD, encode_payload
from replay.schema import PAYLOAD_BYTES_MAX, Encoding, PayloadLayout, SchemaError, schema_of

RECORD_BYTES_MAX = 8 * 1024**2
"""A longer episode becomes several records."""

EPISODE_SEEDS_MAX = 4096
"""Most episode seeds in one header, whose size is bounded; those of later episodes in the record are left out."""

_COMPRESS_FROM_BYTES = 16 * 1024
_COMPRESSED_MAX = 0.9
"""Compression that saves less than a tenth is not worth decompressing at every read."""


class MinariRecords:
    """The records of a data set; iterate over it once.

    Args:
      dataset: the data set.
      actor_id: whose records they are to be.
      steps_per_record: rows of a record; 0: an episode is a record.
      episodes_max: the first so many episodes of the data set; 0: all.

    Attributes:
      origin: of every record.
      episodes: how many of the data set's have been read so far.

    Raises ImportRefused, also from the iteration.
    """

    def __init__(
        self, dataset: MinariDataset, *, actor_id: str, steps_per_record: int = 0, episodes_max: int = 0
    ) -> None:
        self.episodes = 0
        self._dataset = dataset.dataset
        rows = _all_rows(self._counted(dataset.read(episodes_max)))
        first = next(rows, None)
        if first is None:
            raise ImportRefused(f"Minari data set {self._dataset.id} has no step: nothing was imported")
        # A whole record of it, so with a row beyond the steps, shows the schema.
        example = next(cut_by_episode([first], first.rows))
        try:
            schema = schema_of(example.columns(), example.steps)
            self._layout = PayloadLayout(schema)
        except SchemaError as error:
            raise ImportRefused(f"Minari data set {self._dataset.id} cannot be held by columns: {error}") from error
        _check_steps_per_record(steps_per_record, self._layout)
        self.origin = origin_of(self._dataset, schema, actor_id=actor_id, steps_per_record=steps_per_record)
        every = chain([first], rows)
        self._fixed = FixedCut(every, steps_per_record) if steps_per_record else None
        self._cut: Iterable[RecordRows] = self._fixed or cut_by_episode(every, _rows_max(self._layout))

    @property
    def left_over(self) -> int:
        """Steps at the end that fill no record of `steps_per_record` rows; known once the iteration has ended."""
        return self._fixed.left_over if self._fixed is not None else 0

    def __iter__(self) -> Iterator[ImportedRecord]:
        for sequence, rows in enumerate(self._cut):
            yield ImportedRecord(self.origin, self._record(sequence, rows))

    def _counted(self, episodes: Iterable[Episode]) -> Iterator[Episode]:
        for episode in episodes:
            self.episodes += 1
            yield episode

    def _record(self, sequence: int, rows: RecordRows) -> common_pb2.Record:
        first = rows.spans[0]
        try:
            raw = self._layout.encode(rows.columns())
        except SchemaError as error:
            raise ImportRefused(
                f"episode {self.episodes - 1} of Minari data set {self._dataset.id} differs from its first: {error}; "
                "the episodes before it were imported"
            ) from error
        payload, encoding = _encoded(raw)
        begun = [span.episode.seed for span in rows.spans[1:]][:EPISODE_SEEDS_MAX]
        known = begun[: begun.index(None)] if None in begun else begun
        header = common_pb2.RecordHeader(
            sequence=sequence,
            steps=rows.steps,
            environment_seed=first.episode.seed or 0,
            episode=first.episode.number,
            episode_step=min(first.first, first.episode.steps),
            task_id=self._dataset.id,
            policies=[common_pb2.PolicySpan(first_step=0, version=0, digest=self._dataset.digest)],
            signals=_signals(rows),
            payload_digest=hashlib.sha256(payload).digest(),
            encoding=encoding,
            episode_seeds=[seed for seed in known if seed is not None],
        )
        return common_pb2.Record(header=header, payload=payload)


def _all_rows(episodes: Iterable[Episode]) -> Iterator[EpisodeRows]:
    """Every episode as rows; one that goes on after an end is several. They are numbered in this order."""
    number = 0
    for episode in episodes:
        steps = {**episode.actions, "reward": episode.rewards.astype(np.float32)}
        if steps.get("action") is not None and steps["action"].dtype.kind == "i" and steps["action"].ndim == 1:
            steps["action"] = steps["action"].astype(np.int32)
        ends = set(np.flatnonzero(episode.terminations | episode.truncations).tolist()) | {len(episode.rewards) - 1}
        begin = 0
        for end in sorted(ends) if len(episode.rewards) else ():
            yield episode_rows(
                number,
                episode.seed if begin == 0 else None,
                _cut(episode.observations, begin, end + 2),
                _cut(steps, begin, end + 1),
                terminated=bool(episode.terminations[end]),
            )
            number += 1
            begin = end + 1


def _cut(arrays: Arrays, begin: int, end: int) -> Arrays:
    return {name: each[begin:end] for name, each in arrays.items()}


def _signals(rows: RecordRows) -> dict[str, float]:
    ended = [span.episode for span in rows.spans if span.ends_episode]
    return {
        "episodes": float(len(ended)),
        "return": float(sum(episode.others["reward"].sum(dtype=np.float64) for episode in ended)),
        "episode_steps": float(sum(episode.steps for episode in ended)),
        "violating_episodes": 0.0,
        "steps": float(sum(span.steps for span in rows.spans)),
        "cost": 0.0,
    }


def _encoded(raw: bytes) -> tuple[bytes, Encoding]:
    """The payload as it is to be stored, and how."""
    if len(raw) >= _COMPRESS_FROM_BYTES:
        compressed = encode_payload(raw, ZSTD)
        if len(compressed) <= _COMPRESSED_MAX * len(raw):
            return compressed, ZSTD
    return raw, RAW


def _rows_max(layout: PayloadLayout) -> int:
    """Most rows of a record of at most RECORD_BYTES_MAX."""
    one, two = layout.payload_bytes(1), layout.payload_bytes(2)
    return max(1, (RECORD_BYTES_MAX - one) // (two - one) + 1)


def _check_steps_per_record(steps_per_record: int, layout: PayloadLayout) -> None:
    if steps_per_record and layout.payload_bytes(steps_per_record) > PAYLOAD_BYTES_MAX:
        raise ImportRefused(
            f"a record of {steps_per_record} rows of this data set takes {layout.payload_bytes(steps_per_record)} "
            f"bytes, at most {PAYLOAD_BYTES_MAX} may be: cut it into shorter ones"
        )
