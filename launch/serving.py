"""Runs one asyncio service as a whole process: says when it is ready, stops it in order on a signal; and what the
services' commands have in common.

Exceptions: launch.errors.BadInput.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from launch.errors import BadInput
from launch.logs import configure_logging
from replay.sharding import SHARDS_MAX


def announce(name: str) -> Callable[[str], None]:
    """A callback that prints "temper NAME ready at ADDRESS", the line that a supervisor waits for."""

    def on_ready(address: str) -> None:
        print(f"temper {name} ready at {address}", flush=True)

    return on_ready


def serve_until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Runs one asyncio service until SIGTERM or SIGINT, and returns its exit status, 0.

    Args:
      serve: called with the event that tells it to stop; returns once it has stopped in order.
    """

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(stop)

    configure_logging()
    asyncio.run(body())
    return 0


def check_shard(number: int) -> None:
    """Raises BadInput for what is no number of a replay service."""
    if not 0 <= number < SHARDS_MAX:
        raise BadInput(f"--shard {number} must be 0 to {SHARDS_MAX - 1}")
