"""The clients of the replay service, for threads: what actors, learner, safety monitor and status view import.

`ReplayWriter` appends (client_append.py), `ReplaySampler` draws batches (client_sample.py), `ReplayClient` reads
counters and the log. None of them imports the store. All exceptions are in client_errors.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client_append import ReplayWriter, WriterStatistics
from replay.client_errors import ReplayError, ReplayRefused, ReplayUnavailable, SampleTimeout, translate
from replay.client_sample import ReplaySampler, SampledBatch

__all__ = [
    "ListedRecord",
    "ReplayClient",
    "ReplayError",
    "ReplayRefused",
    "ReplaySampler",
    "ReplayUnavailable",
    "ReplayWriter",
    "SampleTimeout",
    "SampledBatch",
    "WriterStatistics",
]

LIST_TIMEOUT_S = 600.0


class ListedRecord(NamedTuple):
    """A record of the log; `payload` is empty where it was not asked for."""

    position: int
    header: common_pb2.RecordHeader
    origin: common_pb2.Origin
    payload: bytes


class ReplayClient:
    """Counters and the log of a replay service. Thread-safe; close it. Raises AddressError when made."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = transport.channel(address)
        self._stub = replay_pb2_grpc.ReplayStub(self._channel)

    def __enter__(self) -> ReplayClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stats(self, timeout_s: float) -> replay_pb2.StatsResponse:
        """All counters of the service. Raises ReplayUnavailable, ReplayRefused."""
        try:
            # Waits for a service that is just coming up, within the deadline.
            return self._stub.Stats(replay_pb2.StatsRequest(), timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            raise translate(error, self._address) from error

    def list(self, from_position: int = 0, limit: int = 0, with_payload: bool = False) -> Iterator[ListedRecord]:
        """Records in log order, without sampling them.

        Args:
          from_position: first position wanted; evicted ones are left out.
          limit: most records, 0 for as many as there are when the call begins.
          with_payload: whether to fetch the payloads.

        Raises:
          ReplayUnavailable, ReplayRefused: from the iteration.
        """
        request = replay_pb2.ListRequest(from_position=from_position, limit=limit, with_payload=with_payload)
        origins: dict[int, common_pb2.Origin] = {}
        call = self._stub.List(request, timeout=LIST_TIMEOUT_S)
        try:
            for response in call:
                origins.update(response.origins)
                for record in response.records:
                    yield ListedRecord(record.position, record.header, origins[record.origin_id], record.payload)
        except grpc.RpcError as error:
            raise translate(error, self._address) from error
        finally:
            call.cancel()

    def close(self) -> None:
        """Ends the connection. A second call does nothing."""
        self._channel.close()
