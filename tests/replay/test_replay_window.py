"""The window: never more on the way than its bounds, waiters in order, nothing lost to cancellation."""

from __future__ import annotations

import asyncio

from replay.window import Window


def test_waits_for_room_and_serves_in_order() -> None:
    async def scenario() -> list[int]:
        window, passed = Window(10, 1000), list[int]()

        async def enter(name: int, records: int, size: int) -> None:
            await window.acquire(records, size)
            passed.append(name)

        tasks = [asyncio.create_task(enter(*each)) for each in ((0, 8, 10), (1, 4, 10), (2, 1, 10))]
        await asyncio.sleep(0.01)
        assert passed == [0]  # 2 would fit, but 1 is before it
        window.release(8, 10)
        await asyncio.gather(*tasks)
        return passed

    assert asyncio.run(scenario()) == [0, 1, 2]


def test_bytes_count_too_and_an_oversize_message_passes_alone() -> None:
    async def scenario() -> None:
        window = Window(10, 100)
        await window.acquire(1, 5000)
        waiting = asyncio.create_task(window.acquire(1, 1))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        window.release(1, 5000)
        await asyncio.wait_for(waiting, 1.0)

    asyncio.run(scenario())


def test_cancelled_waiters_take_nothing() -> None:
    async def scenario() -> None:
        window = Window(1, 100)
        await window.acquire(1, 1)
        waiting = asyncio.create_task(window.acquire(1, 1))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        window.release(1, 1)
        await asyncio.wait_for(window.acquire(1, 100), 1.0)

    asyncio.run(scenario())
