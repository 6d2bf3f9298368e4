"""The Inference service: acts for thin actors with the policy that it has verified itself. Translates; thinks nothing.

Statuses: INVALID_ARGUMENT for a request that does not fit the policy, UNAVAILABLE while nothing may act.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from policies.batching import Batcher, NoPolicy, RequestError
from policies.client import PolicyClient
from policies.config import Backend
from policies.signing import VerifyKey
from policies.trust import TrustPolicy
from protos import transport
from protos.policy.v1 import policy_pb2, policy_pb2_grpc
from protos.transport_guard import guarded_server

STREAMS_MAX = 4_096

_SERVICE = policy_pb2.DESCRIPTOR.services_by_name["Inference"].full_name


class InferenceServicer(policy_pb2_grpc.InferenceServicer):
    """Translates between Act streams and a batcher."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def Act(
        self,
        request_iterator: AsyncIterable[policy_pb2.ActRequest],
        context: grpc.aio.ServicerContext[policy_pb2.ActRequest, policy_pb2.ActResponse],
    ) -> AsyncIterator[policy_pb2.ActResponse]:
        """Answers each request before it reads the next one of the stream."""
        async for request in request_iterator:
            try:
                response = await self._batcher.act(request)
            except RequestError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except NoPolicy as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            yield response


async def serve(
    policy_address: str,
    trust_key_path: Path,
    run_id: str,
    address: str,
    *,
    backend: Backend,
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
    actor_id: str = "inference",
) -> None:
    """Serves inference until `stop` is set.

    Args:
      policy_address: of the PolicyDistribution service to watch; it need not be up.
      trust_key_path: PEM file of the safety service's public key.
      run_id: the training run whose policies may act.
      address: to listen on; port 0: any free one.
      backend: how the policies are computed.
      on_ready: called once with the bound address.
      stop: ends the service in order.
      actor_id: name under which it watches.

    Raises:
      AddressError, KeyFileError, BackendError: for input that cannot be used.
    """
    trust = TrustPolicy(VerifyKey.load(trust_key_path), run_id)
    server = guarded_server(calls_max=STREAMS_MAX)
    bound = transport.bind(server, address)
    source = PolicyClient(policy_address, trust, backend, actor_id, secrets.token_hex(8))
    batcher = Batcher(source, np.random.default_rng())
    running = asyncio.create_task(batcher.run())
    try:
        policy_pb2_grpc.add_InferenceServicer_to_server(InferenceServicer(batcher), server)
        health = transport.add_health_and_reflection(server, [_SERVICE])
        await server.start()
        await transport.set_serving(health, [_SERVICE])
        on_ready(bound)
        await stop.wait()
    finally:
        await server.stop(1.0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        source.close()
