"""Joining requests: who waits, who shares a batch, and who alone gets the error."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from policies.batching import ROWS_MAX, Batcher, NoPolicy, RequestError
from policies.client import ActingPolicy
from policies.inference_numpy import NumpyPolicy
from policies.policy import ActionBatch, RandomSource
from policies.testing import make_artifact, make_spec, random_observation
from protos.policy.v1 import policy_pb2

SPEC = make_spec((4,), 3)
WAIT_S = 20.0


class GatedPolicy(NumpyPolicy):
    """Acts only while the gate is open; raises once if told to."""

    def __init__(self) -> None:
        super().__init__(make_artifact(SPEC))
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.failure: Exception | None = None

    def act(self, observation: Any, generator: RandomSource, state: Any = None) -> ActionBatch:
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return super().act(observation, generator, state)


class Source:
    def __init__(self, acting: ActingPolicy | None) -> None:
        self.acting = acting

    def current(self) -> ActingPolicy | None:
        return self.acting


@contextlib.asynccontextmanager
async def running(policy: GatedPolicy) -> AsyncIterator[tuple[Batcher, Source]]:
    source = Source(ActingPolicy(policy, 7, b"\x07" * 32, "release", 1))
    batcher = Batcher(source, np.random.default_rng(0))
    task = asyncio.create_task(batcher.run())
    try:
        async with asyncio.timeout(WAIT_S):
            yield batcher, source
    finally:
        policy.gate.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def behind_a_closed_gate(
    policy: GatedPolicy, batcher: Batcher, requests: list[policy_pb2.ActRequest]
) -> list[policy_pb2.ActResponse | BaseException]:
    """Answers to a first request, and to `requests`, all sent while the first is being computed."""
    policy.gate.clear()
    first = asyncio.create_task(batcher.act(request(0)))
    assert await asyncio.to_thread(policy.entered.wait, WAIT_S)
    others = [asyncio.create_task(batcher.act(each)) for each in requests]
    await asyncio.sleep(0.01)
    policy.gate.set()
    return await asyncio.gather(first, *others, return_exceptions=True)


def request(number: int, rows: int = 2) -> policy_pb2.ActRequest:
    observation = random_observation(SPEC, rows, number).tobytes()
    return policy_pb2.ActRequest(request_id=number, count=rows, observation=observation)


def test_requests_that_wait_share_a_batch_and_each_gets_its_rows() -> None:
    async def scenario() -> None:
        policy, oracle = GatedPolicy(), NumpyPolicy(make_artifact(SPEC))
        async with running(policy) as (batcher, _):
            requests = [request(number, rows=number) for number in range(1, 5)]
            responses = await behind_a_closed_gate(policy, batcher, requests)
            assert (batcher.batches, batcher.rows) == (2, 2 + 1 + 2 + 3 + 4)
        for number, response in enumerate(responses):
            assert isinstance(response, policy_pb2.ActResponse)
            rows = number or 2
            logits = np.frombuffer(response.logits, "<f4").reshape(rows, 3)
            expected = oracle.act(random_observation(SPEC, rows, number), np.random.default_rng(0)).logits
            np.testing.assert_allclose(logits, expected, atol=1e-6)
            assert (response.request_id, response.version, response.digest) == (number, 7, b"\x07" * 32)
            assert len(response.action) == len(response.log_prob) == 4 * rows

    asyncio.run(scenario())


def test_a_bad_request_fails_alone() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        async with running(policy) as (batcher, _):
            bad = request(2)
            bad.observation += b"\0"
            responses = await behind_a_closed_gate(policy, batcher, [request(1), bad, request(3)])
        assert [type(response) for response in responses] == [
            policy_pb2.ActResponse,
            policy_pb2.ActResponse,
            RequestError,
            policy_pb2.ActResponse,
        ]
        assert "observation has 33 bytes; 2 of <f4 [4] have 32" in str(responses[2])

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [0, ROWS_MAX + 1])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        async with running(policy) as (batcher, _):
            with pytest.raises(RequestError, match=f"count = {count} must be in"):
                await batcher.act(policy_pb2.ActRequest(count=count))

    asyncio.run(scenario())


def test_a_backend_that_fails_fails_its_batch_and_not_the_next() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        policy.failure = RuntimeError("out of memory")
        async with running(policy) as (batcher, _):
            responses = await behind_a_closed_gate(policy, batcher, [request(1)])
        assert isinstance(responses[0], RuntimeError)
        assert isinstance(responses[1], policy_pb2.ActResponse)

    asyncio.run(scenario())


def test_without_a_policy_nobody_acts_until_there_is_one() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        policy.gate.set()
        async with running(policy) as (batcher, source):
            acting, source.acting = source.acting, None
            with pytest.raises(NoPolicy):
                await batcher.act(request(1))
            source.acting = acting
            assert (await batcher.act(request(2))).version == 7

    asyncio.run(scenario())


def test_a_caller_that_gave_up_does_not_disturb_the_others() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        async with running(policy) as (batcher, _):
            first = asyncio.create_task(batcher.act(request(1)))
            assert await asyncio.to_thread(policy.entered.wait, WAIT_S)
            first.cancel()
            second = asyncio.create_task(batcher.act(request(2)))
            await asyncio.sleep(0)
            policy.gate.set()
            assert (await second).request_id == 2

    asyncio.run(scenario())
