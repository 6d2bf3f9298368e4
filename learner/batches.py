"""Batches for the learner: fresh and replayed records in a set ratio, with what they say of lag and of returns.

Asks replay ahead of time (the samplers prefetch in their own threads) and joins the columns; it neither trains nor
moves anything to a device. One thread.

Exceptions: BatchShapeError when replay holds records of another length than this run's; ReplayRefused of the samplers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from learner.config import LearnerConfig
from protos.common.v1 import common_pb2
from replay.client import SampledBatch, SampleTimeout
from replay.client_sharded import open_sampler


class BatchShapeError(ValueError):
    """Records have another number of rows than the update was compiled for; the message gives both."""


@dataclasses.dataclass(frozen=True)
class LearnerBatch:
    """One update's worth of records."""

    columns: dict[str, NDArray[Any]]
    """The trained columns, time-major [T(+1), B, ...]."""
    positions: NDArray[np.uint64]
    """Log positions of the B records."""
    headers: Sequence[common_pb2.RecordHeader]
    """Of the B records."""
    origins: Sequence[common_pb2.Origin]
    """Of the B records."""
    fresh_headers: Sequence[common_pb2.RecordHeader]
    """Headers of the records that came from the fresh table."""
    fresh_steps: int
    """Environment steps among the fresh records (boundary rows are none)."""


class Batches(Protocol):
    """Where the train loop takes its batches from."""

    def next(self) -> LearnerBatch | None:
        """The next batch, or None if there was none for a while; nothing is lost by that."""

    @property
    def waiting_s(self) -> float:
        """Total time spent waiting for records (s)."""

    @property
    def failure(self) -> str:
        """Why there was no batch when one was last waited for in vain, or ""."""


class BatchSource:
    """Draws `batch_size` records per batch from replay, `uniform_fraction` of them (rounded) from the uniform table.

    Args:
      address: of replay.
      config: of the learner.
      unroll_length: T, rows that every record must have.
      columns: names of those that are wanted; see `learner.columns.trained_columns`.
    """

    def __init__(self, address: str, config: LearnerConfig, unroll_length: int, columns: Sequence[str]) -> None:
        uniform_size = round(config.uniform_fraction * config.batch_size)
        # At least one fresh record: V-trace on replay alone diverges.
        uniform_size = min(uniform_size, config.batch_size - 1)
        self._fresh_size = config.batch_size - uniform_size
        self._unroll_length = unroll_length
        self._columns = tuple(columns)
        self._timeout_s = config.sample_timeout_s
        self._fresh = open_sampler(address, "fresh", self._fresh_size, prefetch=config.prefetch_batches)
        self._uniform = (
            open_sampler(address, "uniform", uniform_size, prefetch=config.prefetch_batches) if uniform_size else None
        )
        self._taken: SampledBatch | None = None
        self._failure = ""

    def next(self) -> LearnerBatch | None:
        """The next batch, or None if replay had none for `sample_timeout_s`; nothing is lost by that.

        Raises:
          BatchShapeError: the records do not have `unroll_length` rows.
          ReplayRefused: replay refuses to be sampled, or does nothing but fail.
        """
        try:
            if self._taken is None:
                self._taken = self._fresh.next(self._timeout_s)
            parts = [self._taken]
            if self._uniform is not None:
                parts.append(self._uniform.next(self._timeout_s))
        except SampleTimeout as error:
            self._failure = error.why
            return None
        self._taken, self._failure = None, ""
        rows = parts[0].columns["action"].shape[0]
        if rows != self._unroll_length:
            raise BatchShapeError(
                f"replay holds records of {rows} rows, this run's actor.unroll_length is {self._unroll_length}: "
                "start a new run directory, or set it back"
            )
        return _join(parts, self._columns)

    @property
    def waiting_s(self) -> float:
        """Total time spent waiting for records (s)."""
        return self._fresh.waiting_s + (self._uniform.waiting_s if self._uniform is not None else 0.0)

    @property
    def failure(self) -> str:
        """Why replay gave no batch when it was last waited for in vain; "" where it does, or has just no records."""
        return self._failure

    def close(self) -> None:
        """Ends the samplers' threads."""
        self._fresh.close()
        if self._uniform is not None:
            self._uniform.close()


def policy_lags(headers: Sequence[common_pb2.RecordHeader], version: int) -> NDArray[np.float64]:
    """Updates between each record's behaviour policy and `version`, averaged over the record's steps, [B].

    After a resume from a checkpoint, records made by policies newer than the checkpoint have lag 0.
    """
    lags = np.empty(len(headers))
    for index, header in enumerate(headers):
        ends = [*(span.first_step for span in header.policies[1:]), header.steps]
        weighted = sum(
            max(0, version - span.version) * (end - span.first_step)
            for span, end in zip(header.policies, ends, strict=True)
        )
        lags[index] = weighted / header.steps
    return lags


def _join(parts: Sequence[SampledBatch], names: Sequence[str]) -> LearnerBatch:
    fresh = parts[0]
    columns = {name: fresh.columns[name] for name in names}
    positions, headers, origins = fresh.positions, fresh.headers, fresh.origins
    if len(parts) > 1:
        rest = [part.columns for part in parts[1:]]
        columns = {
            name: np.concatenate([column, *(other[name] for other in rest)], axis=1) for name, column in columns.items()
        }
        positions = np.concatenate([part.positions for part in parts])
        headers = [header for part in parts for header in part.headers]
        origins = [origin for part in parts for origin in part.origins]
    fresh_steps = int(fresh.columns["mask"].sum())
    return LearnerBatch(columns, positions, headers, origins, fresh.headers, fresh_steps)
