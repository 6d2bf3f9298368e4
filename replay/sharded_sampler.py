"""ShardedSampler: batches of one table of several replay servers, as one ReplaySampler would give them.

A draw has two levels. Every shard has a sampler that fetches small parts of batches ahead of time (shard_lane.py), and
a batch is put together from parts whose shards take turns, in proportion to the records that could be drawn from each
when its next part was drawn (shard_shares.py). A record's probability is that in its shard's table times the share that
its shard had at that moment, so

- from uniform tables the draws are uniform over all shards, exactly but for what a shard has grown or shrunk by since
  that part was drawn;
- from prioritised tables the shares go by records, not by priorities: another distribution than that of one large
  table, of which the probabilities are exact, so that importance weights undo it as they should;
- from FIFO tables each record still comes once. The order is that of each shard.

A shard whose turn it is, and which had records left, is waited for, but not for long, and the more often in vain the
shorter. Then it is left out of the shares until it delivers again; so one that is down, has nothing, or whose limiter
holds the draws costs little, and holds up nobody. One that refuses (it lacks the table, say) is asked again later.

Of a FIFO table, what was fetched when the process ends is lost, as with one server: about prefetch batches in all, two
parts of every shard at least.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType

from protos.transport import check_address
from replay.batch_parts import Parts, placed
from replay.client_errors import ReplayUnavailable, SampleTimeout
from replay.client_sample import ReplaySampler, SampledBatch
from replay.schema import SchemaError
from replay.shard_lane import ShardLane
from replay.shard_shares import Shares

PARTS_PER_SHARD = 2
"""Parts of a batch for each shard: more mix the shards better, fewer cost less."""

_READY_PARTS = 2
"""Parts of a shard that lie ready here at most; its sampler has asked for the others that are on the way."""


class ShardedSampler:
    """Draws batches from one table over all shards. `next` is for one thread; close it.

    Args:
      addresses: of the shards, in their order, two at least.
      table: name of a table that every shard has.
      batch_size: B.
      prefetch: batches asked for ahead, all shards together, at least 1.
      same_host: as for ReplaySampler.
      again_from: as for ReplaySampler, by shard: positions in the shard's own log.

    Raises:
      AddressError: an address cannot be parsed.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        table: str,
        batch_size: int,
        *,
        prefetch: int = 2,
        same_host: bool | None = None,
        again_from: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch = {prefetch} must be at least 1: nothing would ever be asked for")
        checked = [check_address(address) for address in addresses]
        self._table = table
        self._batch_size = batch_size
        self._part_size = max(1, round(batch_size / (PARTS_PER_SHARD * len(addresses))))
        ahead = max(2, math.ceil(prefetch * batch_size / (self._part_size * len(addresses))))
        self._shares = Shares(len(addresses))
        self._parts = Parts()
        self._waiting_s = 0.0
        self._condition = threading.Condition()
        ready_max = min(_READY_PARTS, ahead // 2)

        def lane(shard: int, address: str) -> ShardLane:
            def make(position: int | None) -> ReplaySampler:
                return ReplaySampler(
                    address,
                    table,
                    self._part_size,
                    prefetch=ahead - ready_max,
                    same_host=same_host,
                    again_from=position,
                )

            return ShardLane(make, ready_max, self._condition, again_from.get(shard))

        self._lanes = [lane(shard, address) for shard, address in enumerate(checked)]

    def __enter__(self) -> ShardedSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waiting_s(self) -> float:
        """Total time that `next` waited for parts of batches (s)."""
        return self._waiting_s

    def next(self, timeout_s: float) -> SampledBatch:
        """The next batch; its positions are global ones (sharding.py).

        Raises:
          SampleTimeout: the shards had not enough in time; nothing is lost, call again.
          ReplayRefused: every shard refuses the request, e.g. an unknown table.
          ReplayUnavailable: the sampler is closed.
          SchemaError: the records of this batch differ in schema or in T; the next call goes on with the next batch.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._parts.records < self._batch_size:
            self._parts.add(self._next_part(deadline_s, timeout_s))
        return self._parts.take(self._batch_size)

    def close(self) -> None:
        """Ends the connections; what waits here is dropped. A second call does nothing."""
        with self._condition:
            for lane in self._lanes:
                lane.closing = True
            self._condition.notify_all()
        for lane in self._lanes:
            lane.close()

    def _next_part(self, deadline_s: float, timeout_s: float) -> SampledBatch:
        with self._condition:
            while True:
                if any(lane.closing for lane in self._lanes):
                    raise ReplayUnavailable(f"the sampler of {len(self._lanes)} shards of replay is closed")
                weights = {
                    shard: lane.weight
                    for shard, lane in enumerate(self._lanes)
                    if lane.ready or lane.is_expected(2 * self._part_size)
                }
                if not any(lane.ready for lane in self._lanes):
                    self._wait_for_any(deadline_s, timeout_s)
                    continue
                shard = self._shares.turn(weights)
                lane = self._lanes[shard]
                if not lane.ready:
                    self._wait_for(lane, deadline_s)
                    continue
                part = lane.take()
                self._condition.notify_all()
                if isinstance(part, SchemaError):
                    raise part
                share = self._shares.take(shard, weights)
                return placed(part, shard, share, round(sum(weights.values())))

    def _wait_for_any(self, deadline_s: float, timeout_s: float) -> None:
        """Waits until something has changed; raises where there is nothing to wait for, or no more time."""
        refusals = [lane.refusal for lane in self._lanes if lane.refusal is not None]
        if len(refusals) == len(self._lanes):
            raise refusals[0]
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            why = "; ".join(lane.trouble for lane in self._lanes if lane.trouble)
            raise SampleTimeout(
                f"no batch of {self._table!r} from {len(self._lanes)} shards of replay in {timeout_s:.1f} s, "
                f"{self._parts.records} of {self._batch_size} records are here" + (f" ({why})" if why else ""),
                "; ".join(lane.failure for lane in self._lanes if lane.failure),
            )
        self._wait(left_s)

    def _wait_for(self, lane: ShardLane, deadline_s: float) -> None:
        """Waits for a shard whose turn it is, as long as its patience lasts; then it has missed its turn."""
        start_s = time.monotonic()
        if lane.waited_since_s is None:
            lane.waited_since_s = start_s
        left_s = min(lane.waited_since_s + lane.patience_s, deadline_s) - start_s
        if left_s <= 0:
            lane.miss()
        else:
            self._wait(left_s)

    def _wait(self, seconds: float) -> None:
        start_s = time.monotonic()
        self._condition.wait(seconds)
        self._waiting_s += time.monotonic() - start_s
