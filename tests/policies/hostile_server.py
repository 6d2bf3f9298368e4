"""A PolicyDistribution server that says whatever a test tells it to: the attacker between learner and actor."""

from __future__ import annotations

import concurrent.futures
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from policies.client import PolicyClient
from protos import transport
from protos.policy.v1 import policy_pb2, policy_pb2_grpc

WAIT_S = 20.0


class HostileServer(policy_pb2_grpc.PolicyDistributionServicer):
    """Sends the offers it is given to the one client that watches, and any bytes for any digest."""

    def __init__(self, directory: Path) -> None:
        self.fetched: dict[bytes, list[policy_pb2.ArtifactChunk]] = {}
        self._offers: queue.Queue[policy_pb2.PolicyOffer | None] = queue.Queue()
        self._executor = concurrent.futures.ThreadPoolExecutor(4)
        self._server = grpc.server(self._executor, options=transport.server_options())
        policy_pb2_grpc.add_PolicyDistributionServicer_to_server(self, self._server)
        self.address = transport.bind(self._server, f"unix:{directory}/hostile")
        self._server.start()

    def Watch(self, request: policy_pb2.WatchRequest, context: Any) -> Iterator[policy_pb2.PolicyOffer]:
        yield from iter(self._offers.get, None)

    def Fetch(self, request: policy_pb2.FetchRequest, context: Any) -> Iterator[policy_pb2.ArtifactChunk]:
        if request.digest not in self.fetched:
            context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        yield from self.fetched[request.digest]

    def Revoke(self, request: policy_pb2.RevokeRequest, context: Any) -> policy_pb2.RevokeResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "nothing is taken back here")
        return policy_pb2.RevokeResponse()

    def send(self, **fields: Any) -> None:
        """Sends one offer after those before it."""
        self._offers.put(policy_pb2.PolicyOffer(**fields))

    def offer(self, client: PolicyClient, **fields: Any) -> None:
        """Sends one offer, and returns when the client has dealt with it."""
        before = client.refused["unknown_offer"]
        self.send(**fields)
        # Offers are dealt with in order: once this one is counted, the one before it is done.
        self.send()
        deadline = time.monotonic() + WAIT_S
        while client.refused["unknown_offer"] == before:
            assert time.monotonic() < deadline, "the client did not take the offer"
            time.sleep(0.002)

    def close(self) -> None:
        self._offers.put(None)
        self._server.stop(None).wait()
        self._executor.shutdown()
