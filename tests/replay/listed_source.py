"""A RecordSource over a list, and records made to order: to test curation and verification without a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.filters import parse_filter
from replay.record import LoggedRecord
from replay.schema import PayloadLayout
from replay.source import QuarantineResult
from replay.testing import make_header, make_origin


class ListedSource:
    """Keeps records in memory; marks are written to them as a store would."""

    def __init__(self, records: Sequence[LoggedRecord]) -> None:
        self.kept = {record.position: record for record in records}
        self.annotations = 0
        self.listings = 0

    def append(self, records: Sequence[LoggedRecord]) -> None:
        self.kept.update((record.position, record) for record in records)

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        self.listings += 1
        passes = parse_filter(filter_text)
        there = [record for position, record in sorted(self.kept.items()) if position >= from_position]
        passing = (self._given(record, with_payload) for record in there if passes(record))
        return islice(passing, limit or None)

    def get(self, positions: Sequence[int], *, with_payload: bool = True) -> list[LoggedRecord]:
        assert list(positions) == sorted(set(positions))
        return [self._given(self.kept[position], with_payload) for position in positions if position in self.kept]

    def stats(self) -> replay_pb2.StatsResponse:
        return replay_pb2.StatsResponse(records=len(self.kept), appended_records=max(self.kept, default=-1) + 1)

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        there = [position for position in signals if position in self.kept]
        for position in there:
            record = self.kept[position]
            marks = common_pb2.RecordMarks(signals={**record.marks.signals, **signals[position]})
            self.kept[position] = LoggedRecord(position, record.header, record.origin, record.payload, marks)
        self.annotations += len(there)
        return len(there)

    def marks(self, position: int) -> dict[str, float]:
        return dict(self.kept[position].marks.signals)

    def quarantine(self, filter_text: str, why: str, *, dry_run: bool = False) -> QuarantineResult:
        raise NotImplementedError

    def lift_quarantine(self, quarantine_id: int, why: str) -> QuarantineResult:
        raise NotImplementedError

    def quarantines(self) -> Sequence[replay_pb2.QuarantineEntry]:
        return []

    def close(self) -> None:
        pass

    def _given(self, record: LoggedRecord, with_payload: bool) -> LoggedRecord:
        payload = record.payload if with_payload else b""
        return LoggedRecord(record.position, record.header, record.origin, payload, record.marks)


def record_of(
    columns: Mapping[str, NDArray[Any]],
    *,
    position: int = 0,
    steps: int | None = None,
    environment: str = "Test-v0",
    signals: Mapping[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
    origin: common_pb2.Origin | None = None,
    **header: Any,
) -> LoggedRecord:
    """A record with these columns; `header` are further fields of its header."""
    steps = len(columns["action"]) if steps is None else steps
    if origin is None:
        origin = make_origin(columns=columns, steps=steps)
        origin.environment.id = environment
    payload = PayloadLayout(origin.schema).encode(columns)
    made = make_header(steps, signals=signals or {})
    made.MergeFrom(common_pb2.RecordHeader(**header))
    made.payload_digest = hashlib.sha256(payload).digest()
    return LoggedRecord(position, made, origin, payload, common_pb2.RecordMarks(signals=marks or {}))


def unroll_columns(steps: int, *, actions: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
    """The columns of a faithful unroll of random numbers, without any ending."""
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((steps, actions)).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    action = generator.integers(0, actions, steps, np.int32)
    return {
        "observation": generator.standard_normal((steps + 1, 4)).astype(np.float32),
        "action": action,
        "reward": np.ones(steps, np.float32),
        "cost": np.zeros(steps, np.float32),
        "discount": np.ones(steps, np.float32),
        "mask": np.ones(steps, np.bool_),
        "log_prob": log_probs[np.arange(steps), action].astype(np.float32),
        "logits": logits,
    }
