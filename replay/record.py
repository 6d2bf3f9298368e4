"""A record as a reader of the log sees it: header, origin, payload, and what was found out about it later.

What filters, curation rules, exports and people look at; the ingest path and the samplers do without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.schema import PayloadLayout


@dataclass(frozen=True)
class LoggedRecord:
    """One record of the log. `payload` is empty where it was not asked for."""

    position: int
    header: common_pb2.RecordHeader
    origin: common_pb2.Origin
    payload: bytes = b""
    marks: common_pb2.RecordMarks = field(default_factory=common_pb2.RecordMarks)

    @cached_property
    def signals(self) -> Mapping[str, float]:
        """Signals of the header, and over them those written later."""
        return {**self.header.signals, **self.marks.signals}

    @property
    def quarantined(self) -> bool:
        """Whether the record is kept from being sampled."""
        return self.marks.quarantine != 0

    @cached_property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """Read-only arrays [T (+ rows_beyond_steps), *shape] by column name, [1, *shape] where stored once.

        Raises SchemaError without a payload.
        """
        return self._layout.decode(self.payload, self.header.steps, self.header.encoding)

    @cached_property
    def step_columns(self) -> Mapping[str, NDArray[Any]]:
        """Those of the columns that say something of each step. Raises SchemaError without a payload."""
        return {name: column for name, column in self.columns.items() if name not in self._layout.once}

    @property
    def _layout(self) -> PayloadLayout:
        return _layout(self.origin.schema.SerializeToString(deterministic=True))


@lru_cache(maxsize=256)
def _layout(schema: bytes) -> PayloadLayout:
    return PayloadLayout(common_pb2.Schema.FromString(schema))
