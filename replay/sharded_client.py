"""ShardedClient: the services of several shards as one, with what ReplayClient has besides the log.

Strict: what concerns every shard needs every one of them to answer, and fails with the name of the one that does not.
Sums that left one out would be taken for the truth. For what may be left out, ask each by itself (`stats_of_each`).

Exceptions: those of ReplayClient and of ShardedSource.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from protos.replay.v1 import replay_pb2
from replay.client import ReplayClient
from replay.client_errors import ReplayError
from replay.shard_stats import summed_stats
from replay.sharded_source import ShardedSource
from replay.sharding import local_position, shard_of


class ShardedClient(ShardedSource):
    """The log of several running services as a RecordSource, and their counters, priorities and tables.

    Positions are global ones (sharding.py). Only `stats_of_each` is for several threads. Close it.

    Args:
      addresses: of the shards, in their order.
      timeout_s: longest wait for an answer that takes a service no work (s).

    Raises:
      AddressError: an address cannot be parsed.
    """

    def __init__(self, addresses: Sequence[str], timeout_s: float = 10.0) -> None:
        self._addresses = tuple(addresses)
        self._timeout_s = timeout_s
        self._clients = [ReplayClient(address, timeout_s) for address in addresses]
        super().__init__(dict(enumerate(self._clients)), len(self._clients))

    def __enter__(self) -> ShardedClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stats(self, timeout_s: float | None = None) -> replay_pb2.StatsResponse:
        """The sum of all counters. Raises ReplayUnavailable, ReplayRefused unless every shard answers."""
        answers = self.stats_of_each(timeout_s)
        for answer in answers:
            if isinstance(answer, ReplayError):
                raise answer
        return summed_stats(answer for answer in answers if not isinstance(answer, ReplayError))

    def stats_of_each(self, timeout_s: float | None = None) -> list[replay_pb2.StatsResponse | ReplayError]:
        """The counters of each shard, in order, or why it does not tell them; all are asked at once."""

        def ask(client: ReplayClient) -> replay_pb2.StatsResponse | ReplayError:
            try:
                return client.stats(timeout_s)
            except ReplayError as error:
                return error

        with ThreadPoolExecutor(len(self._clients), "replay-stats") as pool:
            return list(pool.map(ask, self._clients))

    def update_priorities(self, table: str, positions: Sequence[int], priorities: Sequence[float]) -> int:
        """Changes priorities in the prioritised tables of that name; returns how many of the positions are in them.

        Raises:
          ReplayRefused, ReplayUnavailable: as of ReplayClient, for the first shard that fails; those of all others
            have changed.
          ValueError: positions and priorities differ in number; nothing has changed.
        """
        if len(positions) != len(priorities):
            raise ValueError(f"{len(positions)} positions with {len(priorities)} priorities: they must pair")
        parts: dict[int, tuple[list[int], list[float]]] = {}
        for position, priority in zip(positions, priorities, strict=True):
            local, wanted = parts.setdefault(shard_of(int(position)), ([], []))
            local.append(local_position(int(position)))
            wanted.append(priority)
        failure: ReplayError | None = None
        updated = 0
        for shard, (local, wanted) in parts.items():
            if shard >= len(self._clients):
                continue  # no shard, no record
            try:
                updated += self._clients[shard].update_priorities(table, local, wanted)
            except ReplayError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return updated

    def set_table(self, spec: replay_pb2.TableSpec) -> replay_pb2.TableStats:
        """Makes a table on every shard, or changes it; returns the sum of them.

        Raises:
          ReplayRefused, ReplayUnavailable: a shard failed; the message says which, and how many have changed before it.
        """
        changed = []
        for shard, client in enumerate(self._clients):
            try:
                changed.append(client.set_table(spec))
            except ReplayError as error:
                raise type(error)(
                    f"{error}: table {spec.name!r} is set on {shard} of {len(self._clients)} shards"
                ) from error
        return summed_stats(replay_pb2.StatsResponse(tables=[table]) for table in changed).tables[0]
