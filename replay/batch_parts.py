"""Batches put together from parts of several shards: where each part is from, and cutting and joining of parts.

Exceptions: SchemaError (replay.schema) for parts that cannot be joined.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

import numpy as np

from replay.sampled_batch import SampledBatch
from replay.schema import SchemaError
from replay.sharding import global_position


def placed(part: SampledBatch, shard: int, share: float, available: int) -> SampledBatch:
    """A part drawn from one shard, as a part of a draw from all of them.

    Args:
      part: as its shard gave it.
      shard: its number.
      share: probability with which a part was taken from this shard.
      available: records that could have been drawn from all shards, N.

    Where nothing was left to chance - every probability is 1, as of a FIFO table - nothing is now.
    """
    certain = bool(np.all(part.probabilities == 1.0))
    return dataclasses.replace(
        part,
        positions=part.positions + np.uint64(global_position(shard, 0)),
        probabilities=part.probabilities if certain else part.probabilities * share,
        available=available,
    )


class Parts:
    """Parts that wait to become a batch, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: deque[SampledBatch] = deque()
        self.records = 0

    def add(self, part: SampledBatch) -> None:
        """Adds one at the end."""
        self._parts.append(part)
        self.records += len(part.headers)

    def take(self, count: int) -> SampledBatch:
        """The first `count` records, of `records` at least, as one batch; what is left over of a part stays.

        Raises SchemaError where they cannot be stacked; these records are gone.
        """
        taken: list[SampledBatch] = []
        missing = count
        while missing:
            part = self._parts.popleft()
            if len(part.headers) > missing:
                self._parts.appendleft(_cut(part, missing, None))
                part = _cut(part, 0, missing)
            taken.append(part)
            missing -= len(part.headers)
        self.records -= count
        return taken[0] if len(taken) == 1 else _joined(taken)


def _cut(part: SampledBatch, start: int, end: int | None) -> SampledBatch:
    chosen = slice(start, end)
    return dataclasses.replace(
        part,
        positions=part.positions[chosen],
        headers=part.headers[chosen],
        origins=part.origins[chosen],
        columns={name: column[:, chosen] for name, column in part.columns.items()},
        probabilities=part.probabilities[chosen],
    )


def _joined(parts: Sequence[SampledBatch]) -> SampledBatch:
    first = parts[0]
    for part in parts[1:]:
        _check_alike(first, part)
    return SampledBatch(
        positions=np.concatenate([part.positions for part in parts]),
        headers=[header for part in parts for header in part.headers],
        origins=[origin for part in parts for origin in part.origins],
        columns={name: np.concatenate([part.columns[name] for part in parts], axis=1) for name in first.columns},
        probabilities=np.concatenate([part.probabilities for part in parts]),
        available=parts[-1].available,
    )


def _check_alike(first: SampledBatch, part: SampledBatch) -> None:
    """Each part is of one schema and one length already: its first record speaks for all."""
    if part.headers[0].steps != first.headers[0].steps:
        raise SchemaError(
            f"a batch of several shards mixes records of T = {first.headers[0].steps} and T = "
            f"{part.headers[0].steps}: they cannot be stacked"
        )
    if part.origins[0].schema != first.origins[0].schema:
        raise SchemaError(
            f"a batch of several shards mixes the schemas of actors {first.origins[0].actor_id!r} and "
            f"{part.origins[0].actor_id!r}: they cannot be stacked"
        )
