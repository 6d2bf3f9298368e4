"""A batch as a learner gets it: B records of one schema and one length as time-major arrays, with where they came from.

Only puts together what was drawn; where payloads come from - the wire, or the store's own memory - is not known here.

Exceptions: SchemaError (replay.schema) for records that cannot be stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.importance import importance_weights
from replay.schema import PayloadLayout, SchemaError


class DrawnRecord(NamedTuple):
    """One record on its way into a batch."""

    position: int
    header: common_pb2.RecordHeader
    origin: common_pb2.Origin
    payload: bytes | memoryview
    probability: float


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """B records of equal schema and equal T, in the order in which they were drawn."""

    positions: NDArray[np.uint64]
    """[B] positions in the store's log."""
    headers: list[common_pb2.RecordHeader]
    origins: list[common_pb2.Origin]
    columns: dict[str, NDArray[Any]]
    """Time-major: [T, B, ...], [T + 1, B, ...] where the schema has a row beyond the steps, [1, B, ...] where once."""
    probabilities: NDArray[np.float64]
    """[B] probability of each record in this draw; 1 for a FIFO table."""
    available: int = 0
    """Records that could have been drawn, N."""

    def importance_weights(self, beta: float) -> NDArray[np.float64]:
        """Weights [B] that undo the bias of uneven draws: not at all at beta = 0, wholly at 1 (importance.py)."""
        return importance_weights(self.probabilities, self.available, beta)


class BatchMaker:
    """Makes batches; remembers the layouts of the schemas it has met. For one thread."""

    def __init__(self) -> None:
        self._layouts: dict[bytes, PayloadLayout] = {}

    def make(self, records: Sequence[DrawnRecord], available: int) -> SampledBatch:
        """A batch of at least one record; payloads need not outlive the call. Raises SchemaError."""
        positions, headers, origins, payloads, probabilities = zip(*records, strict=True)
        first = origins[0]
        steps = headers[0].steps
        for header, origin in zip(headers, origins, strict=True):
            if header.steps != steps:
                raise SchemaError(
                    f"a batch mixes records of T = {steps} and T = {header.steps}: they cannot be stacked"
                )
            if origin is not first and origin.schema != first.schema:
                raise SchemaError(
                    f"a batch mixes schemas: actor {first.actor_id!r} writes {_described(first.schema)}, "
                    f"actor {origin.actor_id!r} writes {_described(origin.schema)}: they cannot be stacked"
                )
        encodings = [header.encoding for header in headers]
        return SampledBatch(
            positions=np.array(positions, np.uint64),
            headers=list(headers),
            origins=list(origins),
            columns=self._layout(first.schema).decode_batch(payloads, steps, encodings if any(encodings) else None),
            probabilities=np.array(probabilities, np.float64),
            available=available,
        )

    def _layout(self, schema: common_pb2.Schema) -> PayloadLayout:
        key = schema.SerializeToString(deterministic=True)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = PayloadLayout(schema)
        return layout


def _described(schema: common_pb2.Schema) -> str:
    return ", ".join(f"{column.name} {column.dtype}{list(column.shape)}" for column in schema.columns)
