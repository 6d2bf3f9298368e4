"""Several stores as the place that imported records go to: the shards of one log.

A run goes to the shard that has its beginning already, for only that one knows what it has of it; a new one to the
shard that its actor writes to first (replay.sharding). So every record is in one shard, once, however often it is
imported. A run of which no shard has the first record goes where its actor writes first, every time.

Exceptions: those of the parts; records may be stored in other shards then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from protos.common.v1 import common_pb2
from replay.exchange.sink import Appended, RunRecords, SinkPart
from replay.sharding import shard_ranking
from replay.store import run_key


class ShardedSink:
    """A RecordSink over the shards of a log.

    Args:
      parts: by the shard's number; closed with it.
    """

    def __init__(self, parts: Sequence[SinkPart]) -> None:
        self._parts = parts
        self._shards: dict[bytes, int] = {}

    def append(self, runs: Sequence[RunRecords]) -> Appended:
        """See RecordSink.append: shard by shard."""
        by_shard: dict[int, list[RunRecords]] = {}
        for run in runs:
            by_shard.setdefault(self._shard_of(run.origin), []).append(run)
        appended = [self._parts[shard].append(of_shard) for shard, of_shard in sorted(by_shard.items())]
        return Appended(sum(each.inserted for each in appended), sum(each.duplicates for each in appended))

    def close(self) -> None:
        """See RecordSink.close."""
        with contextlib.ExitStack() as closing:
            for part in self._parts:
                closing.callback(part.close)

    def _shard_of(self, origin: common_pb2.Origin) -> int:
        key = run_key(origin)
        if key not in self._shards:
            ranking = shard_ranking(origin.actor_id, len(self._parts))
            self._shards[key] = next((shard for shard in ranking if self._parts[shard].knows(origin)), ranking[0])
        return self._shards[key]
