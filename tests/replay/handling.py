"""A service's handlers without a service, and the few calls that their tests make of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from protos.common.v1 import common_pb2
from replay.config import ReplayConfig
from replay.draws import Draw
from replay.handlers import ReplayHandlers
from replay.memory_store import MemoryStore
from replay.store import StoreSettings
from replay.testing import make_origin, make_record
from replay.writer import GroupCommitter

CONFIG = ReplayConfig(store="memory", fresh_unconsumed_max=8, commit_ms_max=0.0)


@contextlib.asynccontextmanager
async def handling(config: ReplayConfig = CONFIG, store: MemoryStore | None = None) -> AsyncIterator[ReplayHandlers]:
    store = store or MemoryStore(StoreSettings(config.signal_totals))
    committer = GroupCommitter(store, commit_records_max=config.commit_records_max, commit_ms_max=config.commit_ms_max)
    try:
        handlers = ReplayHandlers(config, store, committer)
        await handlers.start()
        yield handlers
    finally:
        assert committer.close(5.0)


def records(sequences: Sequence[int]) -> list[common_pb2.Record]:
    return [make_record(make_origin(), sequence) for sequence in sequences]


async def append(handlers: ReplayHandlers, sequences: Sequence[int]) -> int:
    session = handlers.ingest.open(make_origin(), 0)
    try:
        return (await (await session.append(records(sequences))).acknowledged()).duplicates
    finally:
        handlers.ingest.close()


async def draw(handlers: ReplayHandlers, table: str, count: int) -> Draw:
    return await handlers.draws.draw(table, count, keys_only=False)


async def is_pending(task: asyncio.Task[object]) -> bool:
    done, _ = await asyncio.wait([task], timeout=0.1)
    return not done


async def until_appended(handlers: ReplayHandlers, count: int) -> None:
    async with asyncio.timeout(10.0):
        while handlers.stats().appended_records != count:
            await asyncio.sleep(0.005)
