"""Joins the requests of many streams into one evaluation of the policy. Knows no gRPC.

There is no timer: while one batch is computed, the next one gathers. So a lone client waits for nobody, and under load
batches grow by themselves.

Exceptions: NoPolicy when nothing may act now; RequestError (a ValueError) for a request that does not fit the policy.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.client import ActingPolicy
from policies.policy import ActionBatch
from protos.policy.v1 import policy_pb2

ROWS_MAX = 8_192
"""Most observations in one request, and those after which a batch takes no further request."""


class NoPolicy(Exception):
    """No verified policy may act now."""


class RequestError(ValueError):
    """A request's size does not fit the policy's specification."""


class PolicySource(Protocol):
    """Where the policy comes from, e.g. a `policies.client.PolicyClient`."""

    def current(self) -> ActingPolicy | None:
        """What may act at this moment."""


class Batcher:
    """Answers requests in batches. Made and used on one asyncio loop; computes on a thread of its own.

    Args:
      source: asked for the policy once per batch.
      generator: draws all actions.
    """

    def __init__(self, source: PolicySource, generator: np.random.Generator) -> None:
        self.batches = 0
        self.rows = 0
        self._source = source
        self._generator = generator
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="inference")
        # Bounded by the callers: each waits for its answer before it asks again.
        self._queue: asyncio.Queue[tuple[policy_pb2.ActRequest, asyncio.Future[policy_pb2.ActResponse]]]
        self._queue = asyncio.Queue()

    async def act(self, request: policy_pb2.ActRequest) -> policy_pb2.ActResponse:
        """The answer to one request. Raises NoPolicy or RequestError."""
        if not 1 <= request.count <= ROWS_MAX:
            raise RequestError(f"count = {request.count} must be in [1, {ROWS_MAX}]; no action is chosen")
        answer: asyncio.Future[policy_pb2.ActResponse] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, answer))
        return await answer

    async def run(self) -> None:
        """Answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                gathered = await self._gather()
                requests = [request for request, _ in gathered]
                try:
                    results = await loop.run_in_executor(self._executor, self._answer, requests)
                except Exception as error:  # noqa: BLE001 - whatever a backend raises, its callers must hear of it
                    results = [error] * len(requests)
                for (_, answer), result in zip(gathered, results, strict=True):
                    if answer.done():  # its caller has gone
                        continue
                    if isinstance(result, Exception):
                        answer.set_exception(result)
                    else:
                        answer.set_result(result)
        finally:
            self._executor.shutdown(wait=True)

    async def _gather(self) -> list[tuple[policy_pb2.ActRequest, asyncio.Future[policy_pb2.ActResponse]]]:
        gathered = [await self._queue.get()]
        rows = gathered[0][0].count
        while rows < ROWS_MAX and not self._queue.empty():
            gathered.append(self._queue.get_nowait())
            rows += gathered[-1][0].count
        return gathered

    def _answer(self, requests: list[policy_pb2.ActRequest]) -> list[policy_pb2.ActResponse | Exception]:
        """One answer or error per request, from one evaluation of the policy."""
        acting = self._source.current()
        if acting is None:
            return [NoPolicy("there is no verified policy that may act now")] * len(requests)
        results: list[policy_pb2.ActResponse | Exception] = []
        observations: list[NDArray[Any]] = []
        states: list[NDArray[np.float32]] = []
        for request in requests:
            try:
                observation, state = _observation(request, acting), _state(request, acting)
            except RequestError as error:
                results.append(error)
            else:
                observations.append(observation)
                states.append(state)
                results.append(policy_pb2.ActResponse(request_id=request.request_id))
        if observations:
            batch = acting.policy.act(np.concatenate(observations), self._generator, np.concatenate(states))
            self.batches += 1
            self.rows += len(batch.action)
            _distribute(batch, acting, requests, results)
        return results


def _observation(request: policy_pb2.ActRequest, acting: ActingPolicy) -> NDArray[Any]:
    space = acting.policy.spec.observation
    wanted = request.count * space.zeros(1).nbytes
    if len(request.observation) != wanted:
        raise RequestError(
            f"observation has {len(request.observation)} bytes; {request.count} of "
            f"{space.describe()} have {wanted}; no action is chosen"
        )
    return np.frombuffer(request.observation, space.dtype).reshape(request.count, *space.shape)


def _state(request: policy_pb2.ActRequest, acting: ActingPolicy) -> NDArray[np.float32]:
    size = acting.policy.state_size
    if not request.state:
        return np.zeros((request.count, size), np.float32)
    if len(request.state) != 4 * request.count * size:
        raise RequestError(
            f"state has {len(request.state)} bytes; {request.count} of {size} float32 have {4 * request.count * size}; "
            "no action is chosen"
        )
    return np.frombuffer(request.state, "<f4").reshape(request.count, size)


def _distribute(
    batch: ActionBatch,
    acting: ActingPolicy,
    requests: list[policy_pb2.ActRequest],
    results: list[policy_pb2.ActResponse | Exception],
) -> None:
    """Fills the responses among `results` with their rows of the batch, in order."""
    start = 0
    for request, response in zip(requests, results, strict=True):
        if isinstance(response, Exception):
            continue
        rows = slice(start, start + request.count)
        start = rows.stop
        response.action = batch.action[rows].astype(batch.action.dtype.newbyteorder("<"), copy=False).tobytes()
        response.log_prob = batch.log_prob[rows].astype("<f4", copy=False).tobytes()
        response.logits = batch.logits[rows].astype("<f4", copy=False).tobytes()
        if batch.state is not None:
            response.state = batch.state[rows].astype("<f4", copy=False).tobytes()
        response.version, response.digest = acting.version, acting.digest
