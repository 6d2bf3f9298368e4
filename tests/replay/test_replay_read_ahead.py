"""Working ahead on a stream: order, bound, failure, and no task left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from replay.read_ahead import answer_in_order


async def _requests(count: int) -> AsyncIterator[int]:
    for request in range(count):
        yield request


def test_answers_come_in_order_and_overlap() -> None:
    async def scenario() -> tuple[list[int], int]:
        running = most = 0

        async def work(request: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02 if request % 2 == 0 else 0.0)
            running -= 1
            return request * 10

        async def start(request: int) -> asyncio.Task[int]:
            return asyncio.create_task(work(request))

        return [answer async for answer in answer_in_order(_requests(10), start, 3)], most

    answers, most = asyncio.run(scenario())
    assert answers == [request * 10 for request in range(10)]
    assert 1 < most <= 3


@pytest.mark.parametrize("where", ["start", "work", "requests"])
def test_a_failure_comes_after_the_answers_before_it(where: str) -> None:
    async def scenario() -> list[int]:
        answers = list[int]()

        async def requests() -> AsyncIterator[int]:
            for request in range(10):
                if where == "requests" and request == 2:
                    raise LookupError("requests")
                yield request

        async def work(request: int) -> int:
            if where == "work" and request >= 2:
                raise LookupError("work")
            return request

        async def start(request: int) -> asyncio.Task[int]:
            if where == "start" and request == 2:
                raise LookupError("start")
            return asyncio.create_task(work(request))

        with pytest.raises(LookupError, match=where):
            async for answer in answer_in_order(requests(), start, 4):
                answers.append(answer)
        assert len(asyncio.all_tasks()) == 1
        return answers

    assert asyncio.run(scenario()) == [0, 1]


def test_leaving_early_cancels_what_was_begun() -> None:
    async def scenario() -> None:
        async def start(request: int) -> asyncio.Task[int]:
            return asyncio.create_task(asyncio.sleep(0 if request == 0 else 60, request))

        answers = answer_in_order(_requests(10), start, 5)
        assert await anext(answers) == 0
        await answers.aclose()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
