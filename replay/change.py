"""Something changed: wakes every task of one asyncio loop that waits for it.

Whoever waits looks for itself whether what changed is what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

_WAIT_SHOWN_S = 1.0
"""A wait ends at the latest after this long, so that a long one shows in the statistics while it lasts."""


class Change:
    """A condition without a lock."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wakes everybody who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> float:
        """Waits for the next `notify`, or a second; returns how long it waited (s)."""
        start_s = time.monotonic()
        with contextlib.suppress(TimeoutError):
            # Not wait_for, which in Python 3.11 can swallow a cancellation: a stream that is gone would go on waiting.
            async with asyncio.timeout(_WAIT_SHOWN_S):
                await self._event.wait()
        return time.monotonic() - start_s
