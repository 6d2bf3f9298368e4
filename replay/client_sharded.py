"""The clients of a replay service that may consist of several servers: one address, or several with commas between.

With one address these are ReplayWriter, ReplaySampler and ReplayClient themselves. With several

- a writer is a ReplayWriter to one shard, chosen by the actor's id when it is opened (`open_writer`): what makes a
  record exactly one is that its run stays where it is;
- a sampler draws from all shards in proportion (sharded_sampler.py);
- a client is the shards' logs one after the other (sharded_client.py).

A shard that is down stops the actors that write to it, once their windows are full, and nobody else; new runs of these
actors go to another shard.

Exceptions: AddressError (protos.transport) for addresses that cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.client import ReplayClient, ReplaySampler, ReplayWriter
from replay.sharded_sampler import ShardedSampler
from replay.sharding import check_addresses, choose_shard
from replay.source import RecordSource

PREFERRED_S = 10.0
"""How long an actor's own shard may take to answer a new run: services and actors of a run start at the same time."""

OTHERS_S = 1.0
"""How long each other shard may take, which had the same time to start."""


class ReplayLog(RecordSource, Protocol):
    """What ReplayClient and ShardedClient are: a log, with its counters, priorities and tables. See ReplayClient."""

    def stats(self, timeout_s: float | None = None) -> replay_pb2.StatsResponse:
        """All counters."""
        ...

    def update_priorities(self, table: str, positions: Sequence[int], priorities: Sequence[float]) -> int:
        """Changes priorities in a prioritised table; returns how many of the positions are in it."""
        ...

    def set_table(self, spec: replay_pb2.TableSpec) -> replay_pb2.TableStats:
        """Makes a table, or changes one in use."""
        ...

    def __enter__(self) -> Self:
        """Returns itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        ...


def open_writer(
    addresses: str,
    origin: common_pb2.Origin,
    *,
    window_records: int,
    window_bytes: int,
    reconnect_ms_max: int = 2000,
    preferred_s: float = PREFERRED_S,
) -> ReplayWriter:
    """A writer of one run to the shard of its actor, or where that does not answer to the next that does.

    Where none answers it is its actor's own again, and waits for it. With one address nothing is asked.

    Args:
      addresses: of the shards, with commas between them.
      origin, window_records, window_bytes, reconnect_ms_max: as for ReplayWriter.
      preferred_s: how long the actor's own shard may take to answer (s); each other one has OTHERS_S.

    Raises:
      AddressError: an address cannot be parsed.
    """
    shards = check_addresses(addresses)
    patience_s = preferred_s

    def reachable(address: str) -> bool:
        nonlocal patience_s
        answers = _answers(address, patience_s)
        patience_s = OTHERS_S
        return answers

    address = shards[choose_shard(origin.actor_id, shards, reachable)]
    return ReplayWriter(
        address,
        origin,
        window_records=window_records,
        window_bytes=window_bytes,
        reconnect_ms_max=reconnect_ms_max,
    )


def open_sampler(
    addresses: str,
    table: str,
    batch_size: int,
    *,
    prefetch: int = 2,
    same_host: bool | None = None,
    again_from: Mapping[int, int] = MappingProxyType({}),
) -> ReplaySampler | ShardedSampler:
    """A sampler of one table over all shards. Raises AddressError.

    The arguments are those of ReplaySampler, but for `again_from`: by shard, positions in the shard's own log.
    """
    shards = check_addresses(addresses)
    if len(shards) == 1:
        return ReplaySampler(
            shards[0], table, batch_size, prefetch=prefetch, same_host=same_host, again_from=again_from.get(0)
        )
    return ShardedSampler(shards, table, batch_size, prefetch=prefetch, same_host=same_host, again_from=again_from)


def open_client(addresses: str, timeout_s: float = 10.0) -> ReplayLog:
    """A client of all shards; the arguments are those of ReplayClient. Raises AddressError."""
    shards = check_addresses(addresses)
    if len(shards) == 1:
        return ReplayClient(shards[0], timeout_s)
    from replay.sharded_client import ShardedClient  # noqa: PLC0415  thin hosts do without pyroaring

    return ShardedClient(shards, timeout_s)


def _answers(address: str, timeout_s: float) -> bool:
    """Whether the service there says within this time that it is healthy."""
    with transport.channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
