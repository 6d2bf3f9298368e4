"""The way of an append: held by windows, limiters and the disk, each told apart; refused whole or not at all."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Mapping, Sequence

import pytest

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.memory_store import MemoryStore
from replay.store import SEQUENCE_LEAD_MAX, Append, AppendOutcome, RecordInvalid, StoreSettings
from replay.testing import make_origin
from tests.replay.handling import CONFIG, append, draw, handling, is_pending, records, until_appended


def test_an_append_is_held_until_fresh_is_consumed() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            held = asyncio.create_task(append(handlers, range(20)))
            await until_appended(handlers, 8)  # the part that the limiter let in is in
            assert await is_pending(held)
            for expected in (16, 20):
                assert handlers.stats().appended_records == expected - (8 if expected == 16 else 4)
                await draw(handlers, "fresh", 8)
                await until_appended(handlers, expected)
            assert await held == 0
            stats = {table.name: table for table in handlers.stats().tables}
            assert stats["fresh"].insert_wait_s > 0.02
            assert stats["uniform"].insert_wait_s == 0.0
            assert stats["fresh"].sample_wait_s < stats["fresh"].insert_wait_s

    asyncio.run(scenario())


def test_cancelling_a_held_append_gives_its_room_back() -> None:
    async def scenario() -> None:
        async with handling(dataclasses.replace(CONFIG, window_records=20, pending_bytes_max=2000)) as handlers:
            session = handlers.ingest.open(make_origin(), 0)
            held = asyncio.create_task(session.append(records(range(15))))
            assert await is_pending(held)
            held.cancel()
            await asyncio.wait([held])
            await draw(handlers, "fresh", 8)
            assert await asyncio.wait_for(append(handlers, range(8, 16)), 5.0) == 0
            assert handlers.stats().appended_records == 16

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


def test_a_message_of_too_many_records_is_refused_unread() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            session = handlers.ingest.open(make_origin(), 0)
            with pytest.raises(RecordInvalid, match=r"8193 records in one message, at most 8192 .* nothing .* stored"):
                await session.append([common_pb2.Record()] * 8193)
            assert handlers.stats().refused_records == 8193

    asyncio.run(scenario())


def test_a_message_that_reaches_too_far_ahead_is_refused_whole_although_a_limiter_would_let_a_part_in() -> None:
    async def scenario() -> None:
        async with handling() as handlers:
            session = handlers.ingest.open(make_origin(), 0)
            submitted = await session.append(records(range(4)))  # on its way: what is expected next is 4 by then
            with pytest.raises(RecordInvalid, match=r"is 65536 ahead of the next expected, 4; .* nothing .* stored"):
                await session.append(records(range(SEQUENCE_LEAD_MAX, SEQUENCE_LEAD_MAX + 5)))
            assert (await submitted.acknowledged()).sequences == [0, 1, 2, 3]
            assert handlers.stats().appended_records == 4
            within = await session.append(records(range(SEQUENCE_LEAD_MAX, SEQUENCE_LEAD_MAX + 4)))
            assert (await within.acknowledged()).duplicates == 0

    asyncio.run(scenario())


def test_a_window_is_given_back_when_the_acknowledgement_has_been_delivered() -> None:
    """Not before, or a client that never reads any would fill the memory with them."""

    async def scenario() -> None:
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=100, window_records=20)
        async with handling(config) as handlers:
            session = handlers.ingest.open(make_origin(), 0)
            first = await (await session.append(records(range(15)))).acknowledged()
            held = asyncio.create_task(session.append(records(range(15, 30))))
            assert await is_pending(held)
            session.delivered(first)
            await asyncio.wait_for(held, 5.0)

    asyncio.run(scenario())


class SlowStore(MemoryStore):
    """Commits nothing until it may."""

    def __init__(self) -> None:
        super().__init__(StoreSettings())
        self.may_commit = threading.Event()
        self.may_commit.set()

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        assert self.may_commit.wait(10.0)
        return super().commit(appends, tables, retain_from=retain_from)


@pytest.mark.parametrize("reason", ["disk", "limiter"])
def test_what_appends_wait_for_is_told_while_they_wait(reason: str) -> None:
    """A full memory is what both come to in the end; whose fault that is, is not told by it."""

    async def scenario() -> None:
        store = SlowStore()
        waiting_max = 8 if reason == "limiter" else 1000
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=waiting_max, pending_bytes_max=4000)
        async with handling(config, store) as handlers:
            if reason == "disk":
                store.may_commit.clear()
            sessions = [handlers.ingest.open(make_origin(run_id=f"run-{index}"), 0) for index in range(4)]
            appending = [asyncio.create_task(session.append(records(range(15)))) for session in sessions]
            await asyncio.sleep(0.3)
            stats = handlers.stats()
            assert 0 < stats.pending_bytes <= 4000
            if reason == "disk":
                assert stats.disk_wait_s > 0.3  # of several streams together
                assert stats.tables[0].insert_wait_s == 0.0
                store.may_commit.set()
            else:
                assert stats.disk_wait_s < 0.3  # of three streams that have waited
                while not handlers.stats().tables[0].insert_wait_s:  # told once a second
                    await asyncio.sleep(0.01)
                for _ in range(7):
                    await draw(handlers, "fresh", 8)
            await asyncio.gather(*appending)
            # Three streams have waited for more than a second each where it was for the limiter.
            disk_wait_s = handlers.stats().disk_wait_s
            assert disk_wait_s > 0.3 if reason == "disk" else disk_wait_s < 1.0

    asyncio.run(scenario())


def test_small_records_count_as_what_they_take_in_memory() -> None:
    async def scenario() -> None:
        store = SlowStore()
        config = dataclasses.replace(CONFIG, fresh_unconsumed_max=1000, pending_bytes_max=40 * 1024)
        async with handling(config, store) as handlers:
            store.may_commit.clear()
            sessions = [handlers.ingest.open(make_origin(run_id=f"run-{index}"), 0) for index in range(10)]
            appending = [asyncio.create_task(session.append(records(range(15)))) for session in sessions]
            await asyncio.sleep(0.05)
            assert sum(task.done() for task in appending) == 2  # 30 records, of less than 200 bytes each
            store.may_commit.set()
            await asyncio.gather(*appending)

    asyncio.run(scenario())
