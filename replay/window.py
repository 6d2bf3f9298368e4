"""A bound on what is on the way: records and payload bytes taken in, but not yet committed.

For one asyncio loop. One window per append stream bounds a client; one over all of them bounds the service's memory.
"""

from __future__ import annotations

import asyncio


class Window:
    """Counts records and bytes between `acquire` and `release`. Waiters are served in order.

    Args:
      records_max, bytes_max: the bounds. A single message larger than both still passes, alone.
    """

    def __init__(self, records_max: int, bytes_max: int) -> None:
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._records = 0
        self._bytes = 0
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """Payload bytes taken and not yet given back."""
        return self._bytes

    async def acquire(self, records: int, payload_bytes: int) -> None:
        """Waits until there is room, then takes it. Takes nothing when cancelled."""
        async with self._turn:
            while self._records and (
                self._records + records > self._records_max or self._bytes + payload_bytes > self._bytes_max
            ):
                self._released.clear()
                await self._released.wait()
            self._records += records
            self._bytes += payload_bytes

    def release(self, records: int, payload_bytes: int) -> None:
        """Gives room back."""
        self._records -= records
        self._bytes -= payload_bytes
        self._released.set()
