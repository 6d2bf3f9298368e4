"""Several stores as one log: a record of shard s at position p of that store is at position s << 48 | p here.

So it is in filters too (placed_source.py). The log's order is that of the shards, and in each of them its own. A shard
that cannot be reached may be left out of what is read; what is written concerns every shard, and needs all of them.

Exceptions: FilterError, before anything is written; SourceRefused where the shards do not agree on their quarantines;
those of the sources (see replay.source).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice

from protos.replay.v1 import replay_pb2
from replay.client_errors import ReplayError
from replay.placed_source import PlacedSource
from replay.record import LoggedRecord
from replay.shard_stats import summed_stats
from replay.source import QuarantineResult, RecordSource, SourceRefused


class ShardedSource:
    """A RecordSource over several. One thread at a time; closing it closes them.

    Args:
      sources: by the shard's number, from 0.
      shards: how many shards there are, those that are left out included.
    """

    def __init__(self, sources: Mapping[int, RecordSource], shards: int) -> None:
        self._sources = {shard: PlacedSource(source, shard) for shard, source in sorted(sources.items())}
        self._shards = shards

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        """See RecordSource.records."""
        parts = [
            source.records(filter_text=filter_text, from_position=from_position, limit=limit, with_payload=with_payload)
            for source in self._sources.values()
        ]
        return islice(chain.from_iterable(parts), limit or None)

    def get(self, positions: Sequence[int], *, with_payload: bool = True) -> list[LoggedRecord]:
        """See RecordSource.get."""
        return [
            record for source in self._sources.values() for record in source.get(positions, with_payload=with_payload)
        ]

    def stats(self) -> replay_pb2.StatsResponse:
        """See RecordSource.stats: sums, and the mean over all commits. Each shard has a chain of its own: no head."""
        return summed_stats(source.stats() for source in self._sources.values())

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See RecordSource.annotate: not all or nothing over the shards. Raises SourceRefused for a shard left out."""
        self._require_all()
        return sum(source.annotate(signals) for source in self._sources.values())

    def quarantine(self, filter_text: str, why: str, *, dry_run: bool = False) -> QuarantineResult:
        """See RecordSource.quarantine: one on each shard, all under the same id."""
        for source in self._sources.values():
            source.filter_there(filter_text)  # or it would be refused by one shard, and be in force on those before it
        if not dry_run:
            self._require_agreement()
        return self._on_each(lambda source: source.quarantine(filter_text, why, dry_run=dry_run))

    def lift_quarantine(self, quarantine_id: int, why: str) -> QuarantineResult:
        """See RecordSource.lift_quarantine: ends it on each shard."""
        self._require_agreement()
        return self._on_each(lambda source: source.lift_quarantine(quarantine_id, why))

    def quarantines(self) -> Sequence[replay_pb2.QuarantineEntry]:
        """See RecordSource.quarantines: those that all shards have, with the sum of their records."""
        return [_merged_entry(entries) for entries in zip(*self._agreed_quarantines(), strict=True)]

    def close(self) -> None:
        """Closes every source."""
        for source in self._sources.values():
            source.close()

    def _on_each(self, change: Callable[[PlacedSource], QuarantineResult]) -> QuarantineResult:
        results: dict[int, QuarantineResult] = {}
        for shard, source in self._sources.items():
            try:
                results[shard] = change(source)
            except ReplayError as error:
                if not results:
                    raise
                done = ", ".join(map(str, results))
                raise type(error)(
                    f"{error}: done on shard {done}, not on shard {shard}; do the same there, by its own address, so "
                    "that the shards agree"
                ) from error
        return _merged_result(results)

    def _require_all(self) -> None:
        missing = [str(shard) for shard in range(self._shards) if shard not in self._sources]
        if missing:
            raise SourceRefused(
                f"shard {', '.join(missing)} of {self._shards} cannot be reached: what is written must reach all of "
                "them; nothing was written"
            )

    def _require_agreement(self) -> None:
        self._require_all()
        self._agreed_quarantines()

    def _agreed_quarantines(self) -> list[Sequence[replay_pb2.QuarantineEntry]]:
        """Each shard's quarantines. Raises SourceRefused unless they are the same ones."""
        each = [source.quarantines() for source in self._sources.values()]
        known = [[(entry.id, entry.filter, bool(entry.lifted_time_ns)) for entry in entries] for entries in each]
        if any(other != known[0] for other in known):
            counts = ", ".join(str(len(entries)) for entries in each)
            raise SourceRefused(
                f"the shards have different quarantines ({counts} of them): one was written to a shard alone, or not "
                "to all; look at each shard by its own address or directory, and make them alike"
            )
        return each


def _merged_entry(entries: Sequence[replay_pb2.QuarantineEntry]) -> replay_pb2.QuarantineEntry:
    merged = replay_pb2.QuarantineEntry()
    merged.CopyFrom(entries[0])
    merged.records = sum(entry.records for entry in entries)
    return merged


def _merged_result(results: Mapping[int, QuarantineResult]) -> QuarantineResult:
    from pyroaring import BitMap64  # noqa: PLC0415  reading and counting do without

    positions = BitMap64.union(BitMap64(), *(result.positions for result in results.values()))
    return QuarantineResult(_merged_entry([result.entry for result in results.values()]), positions)
