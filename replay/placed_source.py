"""One shard's log where it lies among all of them: its positions, and those in filters, are the global ones.

A filter is sent to the shard as one about the positions that the shard knows; a quarantine's is given back as it was
asked for. Signals that are positions (`duplicate_of`) are stored as global ones: they stay as they are.

Exceptions: FilterError (replay.filters), also for one that would become too long on its way; those of the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from protos.replay.v1 import replay_pb2
from replay.filters import shifted_filter, unshifted_filter
from replay.record import LoggedRecord
from replay.sharding import global_position, local_position, shard_of
from replay.source import QuarantineResult, RecordSource


class PlacedSource:
    """A RecordSource over another, which is one shard of a log. One thread at a time; closing it closes that.

    Args:
      source: the shard by itself.
      shard: its number; 0 changes nothing.
    """

    def __init__(self, source: RecordSource, shard: int) -> None:
        self._source = source
        self._shard = shard
        self._first = global_position(shard, 0)

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        """See RecordSource.records."""
        filter_text = self.filter_there(filter_text)
        if shard_of(from_position) > self._shard:
            return iter(())
        records = self._source.records(
            filter_text=filter_text,
            from_position=max(from_position - self._first, 0),
            limit=limit,
            with_payload=with_payload,
        )
        return map(self._placed, records)

    def get(self, positions: Sequence[int], *, with_payload: bool = True) -> list[LoggedRecord]:
        """See RecordSource.get."""
        local = sorted({local_position(position) for position in positions if shard_of(position) == self._shard})
        return list(map(self._placed, self._source.get(local, with_payload=with_payload)))

    def stats(self) -> replay_pb2.StatsResponse:
        """The shard's own counters."""
        return self._source.stats()

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See RecordSource.annotate."""
        there = {
            local_position(position): values
            for position, values in signals.items()
            if shard_of(position) == self._shard
        }
        return self._source.annotate(there) if there else 0

    def quarantine(self, filter_text: str, why: str, *, dry_run: bool = False) -> QuarantineResult:
        """See RecordSource.quarantine."""
        return self._placed_result(self._source.quarantine(self.filter_there(filter_text), why, dry_run=dry_run))

    def lift_quarantine(self, quarantine_id: int, why: str) -> QuarantineResult:
        """See RecordSource.lift_quarantine."""
        return self._placed_result(self._source.lift_quarantine(quarantine_id, why))

    def quarantines(self) -> Sequence[replay_pb2.QuarantineEntry]:
        """See RecordSource.quarantines."""
        return [self._as_asked(entry) for entry in self._source.quarantines()]

    def close(self) -> None:
        """Closes the source."""
        self._source.close()

    def filter_there(self, filter_text: str) -> str:
        """What to ask the shard, where this is asked of the log. Raises FilterError."""
        return shifted_filter(filter_text, self._first)

    def _placed(self, record: LoggedRecord) -> LoggedRecord:
        position = self._first + record.position
        return LoggedRecord(position, record.header, record.origin, record.payload, record.marks)

    def _placed_result(self, result: QuarantineResult) -> QuarantineResult:
        from pyroaring import BitMap64  # noqa: PLC0415  reading and counting do without

        positions = BitMap64(self._first + position for position in result.positions)
        return QuarantineResult(self._as_asked(result.entry), positions)

    def _as_asked(self, entry: replay_pb2.QuarantineEntry) -> replay_pb2.QuarantineEntry:
        asked = replay_pb2.QuarantineEntry()
        asked.CopyFrom(entry)
        asked.filter = unshifted_filter(entry.filter, self._first)
        return asked
