"""Works on several requests of one stream at a time, and answers them in the order in which they came.

For streaming servicers whose answers wait for something slow (a synced commit) that the next request need not wait
for. Knows nothing of replay.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def answer_in_order(
    requests: AsyncIterator[Request], start: Callable[[Request], Awaitable[asyncio.Task[Answer]]], ahead: int
) -> AsyncGenerator[Answer, None]:
    """Yields the answer to each request; ends after the last, or raises what `requests`, `start` or a task raised.

    Close it (`contextlib.aclosing`): only then has everything begun come to an end.

    Args:
      requests: read one after another.
      start: begins the work on a request and returns its task; the next request is read once it returns.
      ahead: most requests begun and not yet answered.
    """
    begun: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(ahead)

    async def read() -> None:
        try:
            async for request in requests:
                await slots.acquire()
                begun.put_nowait(await start(request))
        finally:
            begun.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await begun.get()) is not None:
            yield await task
            slots.release()
        await reading
    finally:
        await _end(reading)
        while not begun.empty():
            if (task := begun.get_nowait()) is not None:
                await _end(task)


async def _end(task: asyncio.Task[Answer] | asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # whoever waited for the stream has been told of the first failure; this is a later one
