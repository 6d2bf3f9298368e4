"""The service's logic without gRPC: limiters hold, draws commit first, failures take nothing with them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.config import ReplayConfig
from replay.draws import BatchSizeInvalid, Draw
from replay.handlers import ReplayHandlers
from replay.ingest import StreamsExhausted
from replay.memory_store import MemoryStore
from replay.store import (
    SEQUENCE_LEAD_MAX,
    Append,
    AppendOutcome,
    RecordInvalid,
    StoreCorrupt,
    StoredRecord,
    StoreError,
    StoreFull,
    StoreSettings,
)
from replay.table_set import UnknownTable
from replay.testing import make_origin, make_record
from replay.writer import GroupCommitter

CONFIG = ReplayConfig(store="memory", fresh_unconsumed_max=8, commit_ms_max=0.0)


class FailingStore(MemoryStore):
    full = False

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        if self.full:
            raise StoreFull("full")
        return super().commit(appends, tables, retain_from=retain_from)


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


def states(store: MemoryStore) -> dict[str, tuple[int, int]]:
    return {name: (state.cursor, state.samples) for name, state in store.tables().items()}


async def _pending(task: asyncio.Task[object]) -> bool:
    done, _ = await asyncio.wait([task], timeout=0.1)
    return not done


async def _until_appended(handlers: ReplayHandlers, count: int) -> None:
    async with asyncio.timeout(10.0):
        while handlers.stats().appended_records != count:
            await asyncio.sleep(0.005)


def test_an_append_is_held_until_fresh_is_consumed() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            held = asyncio.create_task(append(handlers, range(20)))
            await _until_appended(handlers, 8)  # the part that the limiter let in is in
            assert await _pending(held)
            for expected in (16, 20):
                assert handlers.stats().appended_records == expected - (8 if expected == 16 else 4)
                await draw(handlers, "fresh", 8)
                await _until_appended(handlers, expected)
            assert await held == 0
            stats = {table.name: table for table in handlers.stats().tables}
            assert stats["fresh"].insert_wait_s > 0.02
            assert stats["uniform"].insert_wait_s == 0.0
            assert stats["fresh"].sample_wait_s < stats["fresh"].insert_wait_s

    asyncio.run(scenario())


def test_a_draw_is_held_until_enough_is_there() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            drawing = asyncio.create_task(draw(handlers, "fresh", 5))
            await append(handlers, range(4))
            assert await _pending(drawing)
            await append(handlers, range(4, 6))
            drawn = await drawing
            assert [record.header.sequence for record in drawn.records] == [0, 1, 2, 3, 4]
            assert handlers.stats().tables[0].sample_wait_s > 0.05

    asyncio.run(scenario())


def test_concurrent_draws_of_fresh_never_overlap() -> None:
    async def scenario() -> None:
        async with handling(dataclasses.replace(CONFIG, fresh_unconsumed_max=64)) as handlers:
            draws = [asyncio.create_task(draw(handlers, "fresh", 3)) for _ in range(40)]
            draws[7].cancel()
            for start in range(0, 120, 10):
                await append(handlers, range(start, start + 10))
            done = await asyncio.gather(*draws, return_exceptions=True)
            drawn = [record.position for each in done if not isinstance(each, BaseException) for record in each.records]
            assert drawn == list(range(117))
            assert handlers.stats().tables[0].samples == 117

    asyncio.run(scenario())


def test_a_draw_that_cannot_be_committed_delivers_and_consumes_nothing() -> None:
    async def scenario() -> None:
        store = FailingStore(StoreSettings())
        async with handling(store=store) as handlers:
            await append(handlers, range(6))
            store.full = True
            with pytest.raises(StoreFull):
                await draw(handlers, "fresh", 2)
            with pytest.raises(StoreFull):
                await append(handlers, [6])
            store.full = False
            drawn = await draw(handlers, "fresh", 2)
            assert [record.position for record in drawn.records] == [0, 1]
            assert await append(handlers, [6]) == 0
            assert states(store)["fresh"] == (2, 2)

    asyncio.run(scenario())


def test_cancelling_a_held_append_gives_its_room_back() -> None:
    async def scenario() -> None:
        async with handling(dataclasses.replace(CONFIG, window_records=20, pending_bytes_max=2000)) as handlers:
            session = handlers.ingest.open(make_origin(), 0)
            held = asyncio.create_task(session.append(records(range(15))))
            assert await _pending(held)
            held.cancel()
            await asyncio.wait([held])
            await draw(handlers, "fresh", 8)
            await asyncio.wait_for((await session.append(records(range(8, 16)))).acknowledged(), 5.0)
            assert handlers.stats().appended_records == 16

    asyncio.run(scenario())


def test_cancelling_a_held_draw_at_any_moment_consumes_nothing() -> None:
    """Also in the moment between its being woken and its going on."""

    async def scenario(moment: int) -> None:
        async with handling() as handlers:
            drawing = asyncio.create_task(draw(handlers, "fresh", 5))
            for _ in range(5):
                await asyncio.sleep(0)
            handlers.tables.refresh()
            for _ in range(moment):
                await asyncio.sleep(0)
            drawing.cancel()
            assert (await asyncio.wait([drawing], timeout=5.0))[0]
            assert drawing.cancelled()
            await append(handlers, range(5))
            assert (await draw(handlers, "fresh", 5)).records[0].position == 0

    for moment in range(6):
        asyncio.run(scenario(moment))


class OvertakenStore(MemoryStore):
    """Evicts what is read until whoever reads has let the loop go on, as a commit under way may."""

    overtaken = 1

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        if not self.overtaken:
            return super().read(positions)
        asyncio.get_running_loop().call_soon(self._catch_up)
        return super().read(positions[1:])

    def _catch_up(self) -> None:
        self.overtaken -= 1


def test_a_draw_that_retention_overtakes_is_chosen_again() -> None:
    async def scenario() -> None:
        store = OvertakenStore(StoreSettings())
        async with handling(store=store) as handlers:
            await append(handlers, range(6))
            assert [record.position for record in (await draw(handlers, "fresh", 3)).records] == [0, 1, 2]
            store.overtaken = 1000
            with pytest.raises(StoreError, match=r"evicted or damaged before .*raise replay\.records_max") as failure:
                await draw(handlers, "fresh", 3)
            assert not isinstance(failure.value, StoreCorrupt)  # nothing is damaged: to try again may help

    asyncio.run(scenario())


def test_a_limiter_changed_at_a_restart_does_not_hold_appends_for_good() -> None:
    async def scenario() -> None:
        store = MemoryStore(StoreSettings())
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=500)
        async with handling(config, store) as handlers:
            await append(handlers, range(400))
        limited = dataclasses.replace(config, uniform_samples_per_insert=2.0, uniform_error_buffer=20.0)
        async with handling(limited, store) as handlers:
            await asyncio.wait_for(append(handlers, range(400, 405)), 5.0)
            await asyncio.wait_for(draw(handlers, "uniform", 8), 5.0)
        assert states(store)["uniform"] == (0, 8)

    asyncio.run(scenario())


def test_uniform_keeps_the_ratio_of_samples_to_inserts() -> None:
    async def scenario() -> None:
        config = dataclasses.replace(
            CONFIG,
            fresh_unconsumed_max=1000,
            uniform_min_size=4,
            uniform_samples_per_insert=2.0,
            uniform_error_buffer=6.0,  # diff = 2 * inserts - samples within [2, 14]
        )
        async with handling(config) as handlers:
            held = asyncio.create_task(append(handlers, range(10)))
            await _until_appended(handlers, 7)
            assert await _pending(held)
            await draw(handlers, "uniform", 6)
            assert await held == 0  # 20 - 6 = 14
            await draw(handlers, "uniform", 11)
            await draw(handlers, "uniform", 1)  # 20 - 18 = 2
            drawing = asyncio.create_task(draw(handlers, "uniform", 1))
            assert await _pending(drawing)
            await append(handlers, [10])
            drawn = await drawing
            assert drawn.probabilities.tolist() == pytest.approx([1 / 11])
            assert {table.name: table.samples for table in handlers.stats().tables} == {"fresh": 0, "uniform": 19}

    asyncio.run(scenario())


def test_counters_survive_the_handlers() -> None:
    async def scenario() -> None:
        store = MemoryStore(StoreSettings())
        for start in (0, 3):
            async with handling(store=store) as handlers:
                await append(handlers, range(start, start + 3))
                drawn = await draw(handlers, "fresh", 3)
                assert [record.position for record in drawn.records] == list(range(start, start + 3))
                await draw(handlers, "uniform", 2)
        assert states(store) == {"fresh": (6, 6), "uniform": (0, 4)}

    asyncio.run(scenario())


def test_fresh_goes_on_past_evicted_records_and_counts_them() -> None:
    async def scenario() -> None:
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=8, payload_bytes_max=3 * 70)
        async with handling(config) as handlers:
            await append(handlers, range(8))
            drawn = await draw(handlers, "fresh", 2)
            first = drawn.records[0].position
            assert first == handlers.stats().evicted_records > 0
            fresh = handlers.stats().tables[0]
            assert fresh.inserts - fresh.samples - fresh.available == first  # evicted before they were consumed

    asyncio.run(scenario())


def test_unknown_tables_and_impossible_batches_are_refused() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            with pytest.raises(UnknownTable, match="no table 'prioritized'; there are: fresh, uniform"):
                await draw(handlers, "prioritized", 1)
            for table, count, largest in (("fresh", 0, 8), ("fresh", 9, 8), ("uniform", 5000, 4096)):
                with pytest.raises(BatchSizeInvalid, match=f"batch_size = {count} .* must be 1 to {largest}"):
                    await draw(handlers, table, count)

    asyncio.run(scenario())


def test_refused_records_are_counted_and_not_stored() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            bad = records([0, 1])
            bad[1].payload = b""
            session = handlers.ingest.open(make_origin(), 0)
            with pytest.raises(RecordInvalid):
                await session.append(bad)
            with pytest.raises(RecordInvalid, match="ahead of the next expected"):
                await (await session.append(records([SEQUENCE_LEAD_MAX]))).acknowledged()
            stats = handlers.stats()
            assert (stats.refused_records, stats.appended_records, stats.records) == (3, 0, 0)
            # The refused reservation was given back: the limiter lets a full window in.
            assert await append(handlers, range(8)) == 0

    asyncio.run(scenario())


def test_streams_are_bounded() -> None:
    async def scenario() -> None:
        async with handling(dataclasses.replace(CONFIG, append_streams_max=1, sample_streams_max=1)) as handlers:
            handlers.ingest.open(make_origin(), 0)
            handlers.draws.open()
            with pytest.raises(StreamsExhausted, match="append_streams_max"):
                handlers.ingest.open(make_origin(), 0)
            with pytest.raises(StreamsExhausted, match="sample_streams_max"):
                handlers.draws.open()
            handlers.ingest.close()
            handlers.draws.close()
            handlers.ingest.open(make_origin(), 0)
            handlers.draws.open()

    asyncio.run(scenario())


def test_list_gives_ranges_of_what_is_there() -> None:
    async def scenario() -> None:
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=400, records_max=400)
        async with handling(config) as handlers:
            await append(handlers, range(600 - 200))
            await draw(handlers, "fresh", 300)
            await append(handlers, range(400, 600))

            async def listed(**request: int) -> list[int]:
                groups = handlers.list_records(replay_pb2.ListRequest(**request))  # type: ignore[arg-type]
                return [record.position async for group in groups for record in group.records]

            assert await listed() == list(range(200, 600))
            assert await listed(from_position=300, limit=7) == list(range(300, 307))
            assert await listed(from_position=10, limit=5) == [200, 201, 202, 203, 204]
            assert await listed(from_position=599) == [599]
            assert await listed(from_position=600) == []

    asyncio.run(scenario())
