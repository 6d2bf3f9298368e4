"""Batches that go on where a killed learner stopped: first those learnt from since the checkpoint, then new ones.

A batch is written into the journal before it is learnt from (draw_journal.py). A learner that starts from a checkpoint
reads the records of the batches after it by position, and gives them again in the same order: the updates that were
lost are made again, bit for bit, and everything that follows - counters, versions, snapshots - goes on as if nothing
had happened. Nothing is learnt from twice: what the lost updates had made of these records is lost with them. After
that the fresh table goes on from where the last of these batches ended, so what was drawn ahead is not lost either.

Where a record is gone, quarantined or another one by then, what is left of the journal is given up with a warning:
from there on the fresh table gives again what it still has, and the other tables draw anew.

Exceptions: JournalFailed, those of BatchSource.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence

from learner.batches import BatchSource, LearnerBatch, joined
from learner.config import LearnerConfig
from learner.draw_journal import DrawJournal, DrawnBatch, content_of
from learner.progress import Progress
from replay.client import LoggedRecord, ReplayClient, ReplayUnavailable, SampledBatch
from replay.client_sharded import ReplayLog
from replay.sampled_batch import BatchMaker, DrawnRecord
from replay.sharding import check_addresses

_log = logging.getLogger(__name__)

_ANSWER_S = 1.0
"""Longest single wait for a replay service to say where its fresh table stands."""


class ResumedBatches:
    """What BatchSource gives, after what is to be learnt from again. One thread; owns the journal.

    Args:
      address: of replay.
      config: of the learner.
      unroll_length, columns: as for BatchSource.
      log: of replay.
      journal: of this run.
      progress: as of the checkpoint; the train loop brings it forward, batch by batch.
    """

    def __init__(
        self,
        address: str,
        config: LearnerConfig,
        unroll_length: int,
        columns: Sequence[str],
        *,
        log: ReplayLog,
        journal: DrawJournal,
        progress: Progress,
    ) -> None:
        self._address, self._config, self._unroll_length, self._columns = address, config, unroll_length, columns
        self._replay = log
        self._journal = journal
        self._progress = progress
        self._again = deque(journal.batches(progress.batches, progress.rollbacks))
        self._maker = BatchMaker()
        self._source: BatchSource | None = None
        self._failure = ""
        if self._again:
            _log.info("%d batches since the checkpoint are learnt from again", len(self._again))
        else:
            self._open()

    @property
    def repeating(self) -> bool:
        """Whether the next batch is one that was learnt from before."""
        return bool(self._again)

    def next(self) -> LearnerBatch | None:
        """The next batch; see BatchSource.next. Raises JournalFailed besides."""
        if self._again:
            return self._next_again()
        if self._source is None and not self._open():
            return None
        batch = self._source.next() if self._source is not None else None
        if batch is not None:
            positions = batch.positions.tolist()
            fresh = len(batch.fresh_headers)
            number, era = self._progress.batches, self._progress.rollbacks
            content = content_of(batch.headers)
            self._journal.append(DrawnBatch(number, era, (*positions[:fresh],), (*positions[fresh:],), content))
        return batch

    def checkpointed(self, oldest_updates: int) -> None:
        """A checkpoint was begun; see DrawJournal.checkpointed."""
        progress = self._progress
        self._journal.checkpointed(progress.batches, progress.updates, progress.fresh, oldest_updates)

    @property
    def waiting_s(self) -> float:
        """Total time spent waiting for records (s)."""
        return self._source.waiting_s if self._source is not None else 0.0

    @property
    def failure(self) -> str:
        """See BatchSource.failure."""
        return self._source.failure if self._source is not None else self._failure

    def close(self) -> None:
        """Ends the samplers' threads, and closes the journal."""
        if self._source is not None:
            self._source.close()
        self._journal.close()

    def _next_again(self) -> LearnerBatch | None:
        drawn = self._again[0]
        try:
            found = {record.position: record for record in self._replay.get([*drawn.fresh, *drawn.others])}
        except ReplayUnavailable as error:
            self._failure = str(error)
            return None
        records = [found.get(position) for position in (*drawn.fresh, *drawn.others)]
        held = [record for record in records if record is not None and not record.quarantined]
        if len(held) != len(records) or content_of([record.header for record in held]) != drawn.content:
            _log.warning(
                "the last %d updates cannot be made again as they were: records of batch %d are evicted, quarantined "
                "or others; learning goes on from update %d",
                *(len(self._again), drawn.number, self._progress.updates),
            )
            self._again.clear()
            return None
        self._again.popleft()
        fresh = len(drawn.fresh)
        parts = [self._made(part) for part in (held[:fresh], held[fresh:]) if part]
        return joined(parts, self._columns)

    def _made(self, records: Sequence[LoggedRecord]) -> SampledBatch:
        drawn = [DrawnRecord(each.position, each.header, each.origin, each.payload, 1.0) for each in records]
        return self._maker.make(drawn, len(drawn))

    def _open(self) -> bool:
        """Begins to draw; False while replay does not say from where."""
        progress = self._progress
        if not progress.fresh:
            try:
                progress.fresh.update(self._journal.first_fresh() or _where_fresh_stands(self._address))
            except ReplayUnavailable as error:
                self._failure = str(error)
                return False
        self._journal.go_on_from(progress.batches, progress.updates, progress.fresh)
        config, columns = self._config, self._columns
        self._source = BatchSource(self._address, config, self._unroll_length, columns, again_from=dict(progress.fresh))
        return True


def _where_fresh_stands(address: str) -> Mapping[int, int]:
    """The first position not consumed, by shard. Raises ReplayUnavailable, ReplayRefused."""
    stands: dict[int, int] = {}
    for shard, each in enumerate(check_addresses(address)):
        with ReplayClient(each) as client:
            tables = client.stats(_ANSWER_S).tables
        stands[shard] = next(table.cursor for table in tables if table.name == "fresh")
    return stands
