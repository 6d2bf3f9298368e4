"""Batches for the learner: fresh and replayed records in a set ratio, with what they say of lag and of returns.

Asks replay ahead of time (the samplers prefetch in their own threads) and joins the columns; it neither trains nor
moves anything to a device. One thread.

Exceptions: BatchShapeError when replay holds records of another length than this run's; ReplayRefused of the samplers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from learner.config import LearnerConfig
from protos.common.v1 import common_pb2
from replay.client import SampledBatch, SampleTimeout
from replay.client_sharded import open_sampler

T = TypeVar("T")


class BatchShapeError(ValueError):
    """Records have another number of rows than the update was compiled for; the message gives both."""


@dataclasses.dataclass(frozen=True)
class LearnerBatch:
    """One update's worth of records."""

    columns: dict[str, NDArray[Any]]
    """The trained columns, time-major [T(+1), B, ...], the state [1, B, S], and "replayed" bool [B]. Fresh records come
    first."""
    positions: NDArray[np.uint64]
    """Log positions of the records: of all B, or of those left by `without_stale`."""
    headers: Sequence[common_pb2.RecordHeader]
    """Of the same records."""
    origins: Sequence[common_pb2.Origin]
    """Of the same records."""
    fresh_headers: Sequence[common_pb2.RecordHeader]
    """Headers of those of them that came from the fresh table."""
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

    @property
    def repeating(self) -> bool:
        """Whether the next batch is one that was learnt from before this process began."""

    def checkpointed(self, oldest_updates: int) -> None:
        """A checkpoint was begun; no checkpoint is left of fewer updates than `oldest_updates`."""


class BatchSource:
    """Draws `batch_size` records per batch from replay, `uniform_fraction` of them (rounded) from the uniform table.

    Args:
      address: of replay.
      config: of the learner.
      unroll_length: T, rows that every record must have.
      columns: names of those that are wanted; see `learner.columns.trained_columns`.
      again_from: see `replay.client_sharded.open_sampler`, of the fresh table.
    """

    def __init__(
        self,
        address: str,
        config: LearnerConfig,
        unroll_length: int,
        columns: Sequence[str],
        *,
        again_from: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        uniform_size = config.uniform_size
        self._fresh_size = config.batch_size - uniform_size
        self._unroll_length = unroll_length
        self._columns = tuple(columns)
        self._timeout_s = config.sample_timeout_s
        self._fresh = open_sampler(
            address, "fresh", self._fresh_size, prefetch=config.prefetch_batches, again_from=again_from
        )
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
        return joined(parts, self._columns)

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


def without_stale(batch: LearnerBatch, version: int, lag_max: int) -> tuple[LearnerBatch, int]:
    """The batch without what its oldest records say, and how many those are.

    The columns keep their shapes, for which the update was compiled; the rows of a dropped record are no steps then,
    and so weigh nothing.

    Args:
      batch: as it was drawn.
      version: of the policy that learns.
      lag_max: policy lag (updates) beyond which a record is dropped; 0 drops none.
    """
    if not lag_max:
        return batch, 0
    kept = policy_lags(batch.headers, version) <= lag_max
    dropped = int((~kept).sum())
    if not dropped:
        return batch, 0
    columns = batch.columns | {"mask": batch.columns["mask"] & kept}
    fresh = kept[: len(batch.fresh_headers)]
    left = LearnerBatch(
        columns,
        batch.positions[kept],
        _chosen(batch.headers, kept),
        _chosen(batch.origins, kept),
        _chosen(batch.fresh_headers, fresh),
        int(columns["mask"][:, : len(fresh)].sum()),
    )
    return left, dropped


def _chosen(values: Sequence[T], kept: NDArray[np.bool_]) -> list[T]:
    return [value for value, keep in zip(values, kept, strict=True) if keep]


def joined(parts: Sequence[SampledBatch], names: Sequence[str]) -> LearnerBatch:
    """One batch of these columns out of its fresh records, and the others after them."""
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
    columns["replayed"] = np.arange(len(positions)) >= len(fresh.positions)
    fresh_steps = int(fresh.columns["mask"].sum())
    return LearnerBatch(columns, positions, headers, origins, fresh.headers, fresh_steps)
