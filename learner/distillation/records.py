"""Batches from the records that the teachers' runs have left: drawn at random, again and again, read-only.

Which records there are is looked up once, when this is opened; what is evicted from a store that is still written to is
no longer drawn. Teachers are drawn from in the proportion of their weights, their records uniformly. With recorded
targets only records count that the teacher itself has made from the first row to the last.

A batch has no positions: they would be those of another run's log, and what is kept of lineage is about this run's own.
Whose records they were is in the run's settings and in every lineage, by the names of the teachers.

Exceptions: TeacherError where a store cannot be read, or has nothing to learn from.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learner.batches import LearnerBatch
from learner.distillation.config import DistillationConfig
from learner.distillation.teachers import Teacher, TeacherError
from protos.common.v1 import common_pb2
from replay.filters import FilterError
from replay.offline import OfflineSource
from replay.record import LoggedRecord
from replay.sampled_batch import BatchMaker, DrawnRecord, SampledBatch
from replay.schema import SchemaError
from replay.store import StoreError


class TeacherRecords:
    """Draws batches of the records of teachers' runs. For one thread; holds the stores open until `close`.

    Args:
      teachers: whose runs' records, in the order of their weights.
      config: which of the records, and with which weights.
      batch_size: B.
      unroll_length: T, rows that a record must have.
      columns: names of those that are wanted.
      seed: of the draws.
      first: how many batches have been drawn before, in earlier starts of the same run.

    Raises:
      TeacherError: see the head of this module.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        config: DistillationConfig,
        *,
        batch_size: int,
        unroll_length: int,
        columns: Sequence[str],
        seed: int,
        first: int = 0,
    ) -> None:
        self._batch_size, self._columns = batch_size, tuple(columns)
        self._seed, self._drawn = seed, first
        self._maker = BatchMaker()
        self._waiting_s = 0.0
        weights = np.array(config.teacher_weights)
        self._shares = weights / weights.sum()
        self._logs: list[_Log] = []
        try:
            for teacher in teachers:
                self._logs.append(_Log(teacher, config, unroll_length))
        except BaseException:  # whatever went wrong, no store is left open
            self.close()
            raise

    @property
    def records(self) -> int:
        """How many there are to be drawn."""
        return sum(log.records for log in self._logs)

    def next(self) -> LearnerBatch | None:
        """The next batch; there always is one. Raises TeacherError."""
        start_s = time.monotonic()
        # Each batch has randomness of its own, so that a run that goes on draws what it would have drawn.
        generator = np.random.default_rng((self._seed, self._drawn))
        self._drawn += 1
        counts = generator.multinomial(self._batch_size, self._shares)
        drawing = zip(self._logs, counts.tolist(), strict=True)
        records = [record for log, count in drawing for record in log.draw(count, generator)]
        try:
            drawn = [DrawnRecord(each.position, each.header, each.origin, each.payload, 1.0) for each in records]
            batch = self._maker.make(drawn, self.records)
        except SchemaError as error:
            raise TeacherError(f"records of the teachers' runs do not go together: {error}") from error
        self._waiting_s += time.monotonic() - start_s
        return self._learner_batch(batch)

    @property
    def waiting_s(self) -> float:
        """Total time spent reading (s)."""
        return self._waiting_s

    @property
    def failure(self) -> str:
        """Nobody is waited for: ""."""
        return ""

    @property
    def repeating(self) -> bool:
        """Never: what an update draws follows from its number, so it draws the same again without being told."""
        return False

    def checkpointed(self, oldest_updates: int) -> None:
        """Nothing is kept from which updates would be made again."""

    def close(self) -> None:
        """Closes the stores. A second call does nothing."""
        for log in self._logs:
            log.close()

    def _learner_batch(self, batch: SampledBatch) -> LearnerBatch:
        if missing := set(self._columns) - set(batch.columns):
            raise TeacherError(
                f"records of the teachers' runs have no columns {sorted(missing)}: they are of other runs"
            )
        columns = {name: batch.columns[name] for name in self._columns}
        # All of it is off policy, as what replay's other tables give is.
        columns["replayed"] = np.ones(self._batch_size, np.bool_)
        steps = int(batch.columns["mask"].sum())
        return LearnerBatch(columns, np.empty(0, np.uint64), (), (), (), steps)


class _Log:
    """The records of one teacher's run that are to be learnt from."""

    def __init__(self, teacher: Teacher, config: DistillationConfig, unroll_length: int) -> None:
        self._name = teacher.source.name
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            self._sources = [self._open(store, opened) for store in teacher.source.stores]
            found = [
                (shard, record.position)
                for shard in range(len(self._sources))
                for record in self._listed(shard, config.records_filter)
                if record.header.steps == unroll_length
                and not record.quarantined
                and (config.targets == "rescored" or _acted(record.header, teacher.release.digest))
            ]
            if not found:
                raise TeacherError(self._nothing(teacher, config, unroll_length))
            self._stack = opened.pop_all()
        self._found: NDArray[np.int64] = np.array(found, np.int64)

    @property
    def records(self) -> int:
        """How many there are."""
        return len(self._found)

    def draw(self, count: int, generator: np.random.Generator) -> list[LoggedRecord]:
        """So many of them, drawn uniformly with replacement. Raises TeacherError where none is left."""
        drawn: list[LoggedRecord] = []
        while len(drawn) < count:
            chosen = self._found[generator.integers(len(self._found), size=count - len(drawn))]
            there = [record for shard in np.unique(chosen[:, 0]) for record in self._read(int(shard), chosen)]
            drawn += there
            if len(there) < len(chosen):
                self._forget(chosen, there)
        return drawn

    def close(self) -> None:
        """Closes the stores."""
        self._stack.close()

    def _read(self, shard: int, chosen: NDArray[np.int64]) -> Iterator[LoggedRecord]:
        positions = chosen[chosen[:, 0] == shard, 1].tolist()
        try:
            found = {record.position: record for record in self._sources[shard].get(positions)}
        except StoreError as error:
            raise TeacherError(f"records of teacher {self._name} cannot be read: {error}") from error
        return (found[position] for position in positions if position in found)

    def _forget(self, chosen: NDArray[np.int64], there: Sequence[LoggedRecord]) -> None:
        """Those that were chosen and are no longer in the store."""
        held = {record.position for record in there}
        gone = {(shard, position) for shard, position in chosen.tolist() if position not in held}
        self._found = np.array([each for each in self._found.tolist() if tuple(each) not in gone], np.int64)
        if not len(self._found):
            raise TeacherError(f"records of teacher {self._name} have all been evicted while they were learnt from")

    def _open(self, store: Path, opened: contextlib.ExitStack) -> OfflineSource:
        try:
            return opened.enter_context(OfflineSource(store))
        except StoreError as error:
            raise TeacherError(f"records of teacher {self._name} cannot be read: {error}") from error

    def _listed(self, shard: int, filter_text: str) -> Iterator[LoggedRecord]:
        try:
            yield from self._sources[shard].records(filter_text=filter_text)
        except FilterError as error:
            raise TeacherError(f"distillation.records_filter = {filter_text!r} cannot be read: {error}") from error
        except StoreError as error:
            raise TeacherError(f"records of teacher {self._name} cannot be read: {error}") from error

    def _nothing(self, teacher: Teacher, config: DistillationConfig, unroll_length: int) -> str:
        kept = f" that pass {config.records_filter!r}" if config.records_filter else ""
        whose = f" made by release {teacher.release.number} itself" if config.targets == "recorded" else ""
        advice = "; distillation.targets = 'rescored' takes those of every policy" if whose else ""
        return f"teacher {self._name} has left no records of {unroll_length} rows{kept}{whose}{advice}"


def _acted(header: common_pb2.RecordHeader, digest: bytes) -> bool:
    return all(span.digest == digest for span in header.policies)
