"""The service's logic without gRPC: limiters hold, draws commit first, failures take nothing with them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from protos.replay.v1 import replay_pb2
from replay.draws import BatchSizeInvalid
from replay.ingest import StreamsExhausted
from replay.memory_store import MemoryStore
from replay.store import (
    Append,
    AppendOutcome,
    StoreCorrupt,
    StoredRecord,
    StoreError,
    StoreFull,
    StoreSettings,
)
from replay.table_set import UnknownTable
from replay.testing import make_origin, make_record
from tests.replay.handling import CONFIG, append, draw, handling, is_pending, until_appended


class FailingStore(MemoryStore):
    full = False

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        if self.full:
            raise StoreFull("full")
        return super().commit(appends, tables, retain_from=retain_from)


def states(store: MemoryStore) -> dict[str, tuple[int, int]]:
    return {name: (state.cursor, state.samples) for name, state in store.tables().items()}


def test_a_draw_is_held_until_enough_is_there() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            drawing = asyncio.create_task(draw(handlers, "fresh", 5))
            await append(handlers, range(4))
            assert await is_pending(drawing)
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
            await until_appended(handlers, 7)
            assert await is_pending(held)
            await draw(handlers, "uniform", 6)
            assert await held == 0  # 20 - 6 = 14
            await draw(handlers, "uniform", 11)
            await draw(handlers, "uniform", 1)  # 20 - 18 = 2
            drawing = asyncio.create_task(draw(handlers, "uniform", 1))
            assert await is_pending(drawing)
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


def test_quarantined_records_are_those_that_are_there() -> None:
    async def scenario() -> None:
        store = MemoryStore(StoreSettings())
        async with handling(dataclasses.replace(CONFIG, fresh_unconsumed_max=20, records_max=5), store) as handlers:
            await append(handlers, range(5))
            await handlers.quarantine(replay_pb2.QuarantineRequest(filter="position >= 2", why="doubt"))
            assert handlers.stats().quarantined_records == 3
            await append(handlers, range(5, 9))
            handlers.tables.evict_if_due()
            await append(handlers, range(9, 10))
            stats = handlers.stats()
            assert (stats.evicted_records > 2, stats.quarantined_records) == (True, max(0, 5 - stats.evicted_records))

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


def test_a_batch_of_too_many_bytes_is_refused_and_consumes_nothing() -> None:
    """Also where the mean size promises less: most records are small, but those whose turn it is are not."""

    async def scenario() -> None:
        steps = 640_000  # of 25 bytes each
        large = make_origin("large", steps=steps)
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=2000, sample_bytes_max=2 * 16 * 1024**2)
        async with handling(config) as handlers:
            session = handlers.ingest.open(large, 0)
            for sequence in range(3):
                submission = await session.append([make_record(large, sequence, steps=steps)])
                session.delivered(await submission.acknowledged())
            for start in range(0, 900, 300):
                await append(handlers, range(start, start + 300))
            with pytest.raises(BatchSizeInvalid, match=r"100 records of table 'fresh' .*sample_bytes_max = 33554432"):
                await draw(handlers, "fresh", 100)
            assert (await handlers.draws.draw("fresh", 1, keys_only=True)).positions.tolist() == [0]
            assert [record.position for record in (await draw(handlers, "fresh", 100)).records] == list(range(1, 101))

    asyncio.run(scenario())


def test_records_read_in_parts_come_in_the_order_drawn_and_as_often() -> None:
    async def scenario() -> None:
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=100, sample_bytes_max=16 * 1024**2)  # one at a time
        async with handling(config) as handlers:
            await append(handlers, range(20))
            drawn = await draw(handlers, "uniform", 60)
            assert [record.position for record in drawn.records] == drawn.positions.tolist()
            assert sorted(set(drawn.positions.tolist())) != drawn.positions.tolist()
            assert all(record.payload for record in drawn.records)

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
