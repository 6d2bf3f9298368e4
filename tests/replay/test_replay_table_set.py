"""The tables of a service together: restarts, live changes, quarantine, damage, and what may be dropped."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.config import ReplayConfig
from replay.draws import Draw
from replay.handlers import ReplayHandlers
from replay.memory_store import MemoryStore
from replay.store import Append, AppendOutcome, StoreCorrupt, StoredRecord, StoreError, StoreFull, StoreSettings
from replay.table_spec import TableSpecError, parse_spec
from replay.testing import make_origin, make_record
from replay.writer import GroupCommitter

CONFIG = ReplayConfig(
    store="memory",
    fresh_unconsumed_max=1000,
    commit_ms_max=0.0,
    tables=(
        "prioritised per exponent=1.0",
        "stratified by-mark by=signals.grade",
        "curated good filter='signals.ok == 1'",
    ),
)


@contextlib.asynccontextmanager
async def handling(store: MemoryStore, config: ReplayConfig = CONFIG) -> AsyncIterator[ReplayHandlers]:
    committer = GroupCommitter(store, commit_records_max=config.commit_records_max, commit_ms_max=config.commit_ms_max)
    try:
        handlers = ReplayHandlers(config, store, committer)
        await handlers.start()
        yield handlers
        await handlers.tables.save_priorities()
    finally:
        assert committer.close(5.0)


async def append(handlers: ReplayHandlers, sequences: Sequence[int]) -> None:
    session = handlers.ingest.open(make_origin(), 0)
    try:
        records = [make_record(make_origin(), sequence) for sequence in sequences]
        await (await session.append(records)).acknowledged()
        await asyncio.sleep(0)
    finally:
        handlers.ingest.close()


async def draw(handlers: ReplayHandlers, table: str, count: int) -> Draw:
    return await asyncio.wait_for(handlers.draws.draw(table, count, keys_only=True), 5.0)


async def specify(handlers: ReplayHandlers, text: str) -> None:
    await handlers.set_table(replay_pb2.SetTableRequest(spec=parse_spec(text)))


def annotation(position: int, **signals: float) -> replay_pb2.AnnotateRequest:
    return replay_pb2.AnnotateRequest(annotations=[replay_pb2.Annotation(position=position, signals=signals)])


def available(handlers: ReplayHandlers) -> dict[str, int]:
    return {table.name: table.available() for table in handlers.tables}


def test_marks_move_records_into_curated_tables_and_strata() -> None:
    async def scenario() -> None:
        async with handling(MemoryStore(StoreSettings())) as handlers:
            await append(handlers, range(10))
            assert available(handlers) == {"fresh": 10, "uniform": 10, "per": 10, "by-mark": 10, "good": 0}
            await handlers.annotate(annotation(3, ok=1.0, grade=2.0))
            assert available(handlers)["good"] == 1
            assert (await draw(handlers, "good", 3)).positions.tolist() == [3, 3, 3]
            graded = await draw(handlers, "by-mark", 200)
            share = graded.positions.tolist().count(3) / 200
            assert 0.35 < share < 0.65  # a stratum of its own: every second draw
            await handlers.annotate(annotation(3, ok=0.0))
            assert available(handlers)["good"] == 0

    asyncio.run(scenario())


def test_a_restart_finds_members_strata_and_priorities_again() -> None:
    async def scenario() -> None:
        store = MemoryStore(StoreSettings())
        async with handling(store) as handlers:
            await append(handlers, range(10))
            await handlers.annotate(annotation(3, ok=1.0))
            request = replay_pb2.UpdatePrioritiesRequest(table="per", positions=range(10), priorities=[0.0] * 9 + [4.0])
            assert handlers.update_priorities(request) == 10
        async with handling(store) as handlers:
            assert (await draw(handlers, "good", 2)).positions.tolist() == [3, 3]
            drawn = await draw(handlers, "per", 5)
            assert drawn.positions.tolist() == [9] * 5
            assert drawn.probabilities.tolist() == [1.0] * 5

    asyncio.run(scenario())


def test_quarantine_keeps_records_out_of_every_table_at_once() -> None:
    async def scenario() -> None:
        store = MemoryStore(StoreSettings())
        async with handling(store) as handlers:
            await append(handlers, range(10))
            dry = replay_pb2.QuarantineRequest(filter="sequence < 4", dry_run=True)
            entry, positions = await handlers.quarantine(dry)
            assert (entry.id, entry.records, list(positions)) == (0, 4, [0, 1, 2, 3])
            assert available(handlers)["uniform"] == 10
            entry, _ = await handlers.quarantine(replay_pb2.QuarantineRequest(filter="sequence < 4", why="doubt"))
            assert (entry.id, entry.records) == (1, 4)
            assert available(handlers) == {"fresh": 6, "uniform": 6, "per": 6, "by-mark": 6, "good": 0}
            assert (await draw(handlers, "fresh", 2)).positions.tolist() == [4, 5]
            for table in ("uniform", "per", "by-mark"):
                assert min((await draw(handlers, table, 100)).positions) >= 4
        async with handling(store) as handlers:
            assert available(handlers)["uniform"] == 6
            await handlers.quarantine(replay_pb2.QuarantineRequest(lift=1, why="it was not so"))
            assert available(handlers)["uniform"] == 10
            assert handlers.stats().quarantined_records == 0

    asyncio.run(scenario())


class HeldStore(MemoryStore):
    """Some of what it does waits until it may."""

    def __init__(self) -> None:
        super().__init__(StoreSettings())
        self.may_quarantine, self.may_read = threading.Event(), threading.Event()
        self.may_read.set()
        self.held = threading.Event()

    def quarantine(self, entry: replay_pb2.QuarantineEntry, positions: BitMap64) -> replay_pb2.QuarantineEntry:
        self._wait_for(self.may_quarantine)
        return super().quarantine(entry, positions)

    def lift_quarantine(self, quarantine_id: int, why: str, time_ns: int) -> replay_pb2.QuarantineEntry:
        self._wait_for(self.may_quarantine)
        return super().lift_quarantine(quarantine_id, why, time_ns)

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        self._wait_for(self.may_read)
        return super().read_headers(positions)

    def _wait_for(self, may: threading.Event) -> None:
        if not may.is_set():
            self.held.set()
        assert may.wait(10.0)


def test_a_quarantine_on_its_way_to_the_disk_is_not_forgotten_when_damage_is_found_meanwhile() -> None:
    async def scenario() -> None:
        store = HeldStore()
        async with handling(store) as handlers:
            await append(handlers, range(10))
            request = replay_pb2.QuarantineRequest(filter="sequence < 4", why="doubt")
            quarantining = asyncio.create_task(handlers.quarantine(request))
            try:
                while available(handlers)["uniform"] == 10:
                    await asyncio.sleep(0.001)
                handlers.tables.exclude_damaged([9])
                made = asyncio.create_task(specify(handlers, "uniform later"))
                while "later" not in available(handlers):
                    await asyncio.sleep(0.001)
                assert (available(handlers)["uniform"], available(handlers)["later"]) == (5, 5)
            finally:
                store.may_quarantine.set()
            await asyncio.gather(quarantining, made)
            assert (available(handlers)["uniform"], available(handlers)["later"]) == (5, 5)

    asyncio.run(scenario())


def test_a_quarantine_that_could_not_be_stored_takes_nothing_out() -> None:
    class FailingStore(MemoryStore):
        def quarantine(self, entry: replay_pb2.QuarantineEntry, positions: BitMap64) -> replay_pb2.QuarantineEntry:
            raise StoreError("no")

    async def scenario() -> None:
        async with handling(FailingStore(StoreSettings())) as handlers:
            await append(handlers, range(10))
            with pytest.raises(StoreError):
                await handlers.quarantine(replay_pb2.QuarantineRequest(filter="sequence < 4", why="doubt"))
            assert available(handlers)["uniform"] == 10

    asyncio.run(scenario())


def test_of_two_marks_at_once_the_later_one_holds() -> None:
    async def scenario() -> None:
        store = HeldStore()
        async with handling(store) as handlers:
            await append(handlers, range(10))
            store.may_read.clear()
            first = asyncio.create_task(handlers.annotate(annotation(3, ok=1.0)))
            await asyncio.to_thread(store.held.wait, 10.0)  # it has looked at the marks, and at nothing else yet
            second = asyncio.create_task(handlers.annotate(annotation(3, ok=0.0)))
            while store.marks([3])[3].signals["ok"]:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            assert not second.done()
            store.may_read.set()
            await asyncio.gather(first, second)
            assert available(handlers)["good"] == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["annotate", "quarantine", "lift", "specify"])
def test_a_change_whose_client_has_gone_is_finished_all_the_same(what: str) -> None:
    """Or the tables would go on as if it had not been, for the store has it."""

    async def scenario() -> None:
        store = HeldStore()
        async with handling(store) as handlers:
            await append(handlers, range(10))
            quarantine = replay_pb2.QuarantineRequest(filter="sequence < 4", why="doubt")
            changes: dict[str, Coroutine[object, object, object]] = {
                "annotate": handlers.annotate(annotation(3, ok=1.0)),
                "quarantine": handlers.quarantine(quarantine),
                "lift": handlers.quarantine(replay_pb2.QuarantineRequest(lift=1, why="no doubt")),
                "specify": specify(handlers, "curated good filter='sequence < 2'"),
            }
            expected = {"annotate": (10, 1), "quarantine": (6, 0), "lift": (10, 0), "specify": (10, 2)}[what]
            if what == "lift":
                store.may_quarantine.set()
                await handlers.quarantine(quarantine)
                store.may_quarantine.clear()
            if what in ("annotate", "specify"):
                store.may_read.clear()
            changing = asyncio.create_task(changes.pop(what))
            for other in changes.values():
                other.close()
            store.held.clear()
            await asyncio.to_thread(store.held.wait, 10.0)
            changing.cancel()
            await asyncio.wait([changing])
            store.may_quarantine.set()
            store.may_read.set()
            async with asyncio.timeout(10.0):
                while (available(handlers)["uniform"], available(handlers)["good"]) != expected or handlers.busy:
                    await asyncio.sleep(0.001)

    asyncio.run(scenario())


class PrioritiesStore(MemoryStore):
    """Storing priorities waits until it may."""

    def __init__(self) -> None:
        super().__init__(StoreSettings())
        self.may_put, self.calls = threading.Event(), 0

    def put_priorities(self, table: str, positions: NDArray[np.uint64], priorities: NDArray[np.float64]) -> None:
        assert self.may_put.wait(10.0)
        self.calls += 1
        super().put_priorities(table, positions, priorities)

    def drop_table(self, name: str) -> None:
        assert self.may_put.wait(10.0)


def test_saving_priorities_that_is_cut_short_loses_none() -> None:
    """As the service's own saving is when it stops."""

    async def scenario() -> None:
        store = PrioritiesStore()
        async with handling(store) as handlers:
            await append(handlers, range(10))
            dropping = asyncio.wrap_future(handlers.tables._committer.call(lambda: store.drop_table("none")))
            request = replay_pb2.UpdatePrioritiesRequest(table="per", positions=[3], priorities=[4.0])
            assert handlers.update_priorities(request) == 1
            saving = asyncio.create_task(handlers.tables.save_priorities())
            await asyncio.sleep(0.01)
            saving.cancel()
            await asyncio.wait([saving])
            store.may_put.set()
            await dropping
            await handlers.tables.save_priorities()
            assert [each.tolist() for part in store.priorities("per") for each in part] == [[3], [4.0]]

    asyncio.run(scenario())


def test_live_changes_outlive_a_restart_until_the_configuration_changes() -> None:
    async def scenario() -> None:
        store = MemoryStore(StoreSettings())
        async with handling(store) as handlers:
            await append(handlers, range(10))
            await handlers.set_table(
                replay_pb2.SetTableRequest(spec=parse_spec("prioritised per exponent=0.5 records_max=3"))
            )
            await handlers.set_table(replay_pb2.SetTableRequest(spec=parse_spec("uniform recent records_max=2")))
            assert available(handlers)["per"] == 3
        async with handling(store) as handlers:
            assert handlers.tables["per"].spec.priority_exponent == 0.5
            assert available(handlers) | {"recent": 2, "per": 3} == available(handlers)
        changed = dataclasses.replace(CONFIG, tables=("prioritised per exponent=0.9",))
        async with handling(store, changed) as handlers:
            assert handlers.tables["per"].spec.priority_exponent == 0.9
            assert {table.name for table in handlers.tables} == {"fresh", "uniform", "per", "recent"}

    asyncio.run(scenario())


def test_a_table_keeps_its_kind() -> None:
    async def scenario() -> None:
        async with handling(MemoryStore(StoreSettings())) as handlers:
            with pytest.raises(TableSpecError, match="'per' is prioritised, not uniform"):
                await specify(handlers, "uniform per")

    asyncio.run(scenario())


def test_a_table_made_while_records_arrive_has_each_of_them_once() -> None:
    async def scenario() -> None:
        async with handling(MemoryStore(StoreSettings())) as handlers:
            appending = asyncio.create_task(append_all(handlers, 600))
            await asyncio.sleep(0.02)
            await specify(handlers, "curated all filter='steps == 2'")
            await appending
            assert available(handlers)["all"] == handlers.tables["all"].inserts == 600

    async def append_all(handlers: ReplayHandlers, total: int) -> None:
        for start in range(0, total, 20):
            await append(handlers, range(start, start + 20))

    asyncio.run(scenario())


def test_the_store_keeps_what_some_table_wants() -> None:
    async def scenario() -> None:
        specs = ("uniform short records_max=5",)
        config = dataclasses.replace(CONFIG, tables=specs, records_max=1000)
        store = MemoryStore(StoreSettings())
        async with handling(store, config) as handlers:
            await append(handlers, range(50))
            assert handlers.tables["short"].first_position() == 45
            handlers.tables.evict_if_due()
            await append(handlers, range(50, 51))
            assert store.counters().first_position == 0  # uniform wants all of it
            await draw(handlers, "fresh", 51)
            for text in ("uniform uniform records_max=20", "fresh fresh records_max=20 error_buffer=20"):
                await specify(handlers, text)
            await append(handlers, range(51, 52))
            assert 31 <= store.counters().first_position <= 32

    asyncio.run(scenario())


class FullStore(MemoryStore):
    """Not even a table's state can be written."""

    full = False

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        if self.full:
            raise StoreFull("no space on the disk")
        return super().commit(appends, tables, retain_from=retain_from)

    def drop_table(self, name: str) -> None:
        if self.full:
            raise StoreFull("no space on the disk")
        super().drop_table(name)


def test_a_full_disk_keeps_no_service_from_starting() -> None:
    """It may be what is to be looked at, or made room on."""

    async def scenario() -> None:
        store = FullStore(StoreSettings())
        async with handling(store) as handlers:
            await append(handlers, range(10))
        store.full = True
        changed = dataclasses.replace(CONFIG, tables=("uniform per", "curated good filter='sequence < 3'"))
        async with handling(store, changed) as handlers:
            assert available(handlers) == {"fresh": 10, "uniform": 10, "per": 10, "good": 3}
            assert len((await handlers.draws.draw("uniform", 5, keys_only=False)).records) == 5
            with pytest.raises(StoreFull):
                await specify(handlers, "uniform more")
            store.full = False
            await specify(handlers, "uniform more")
        assert set(store.tables()) == {"fresh", "uniform", "per", "good", "more", "by-mark"}
        async with handling(store, changed) as handlers:
            assert "by-mark" not in available(handlers)
        assert "by-mark" not in store.tables()

    asyncio.run(scenario())


def test_there_are_only_so_many_tables() -> None:
    async def scenario() -> None:
        async with handling(MemoryStore(StoreSettings())) as handlers:
            for number in range(len(available(handlers)), 64):
                await specify(handlers, f"uniform table-{number}")
            with pytest.raises(
                TableSpecError, match=r"there are 64 tables, and at most 64 may be: 'more' was not made"
            ):
                await specify(handlers, "uniform more")
            await specify(handlers, "uniform table-63 records_max=5")

    asyncio.run(scenario())


class DamagedStore(MemoryStore):
    """Some records cannot be read."""

    damaged: frozenset[int] = frozenset()

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        hit = sorted(self.damaged.intersection(positions))
        if hit:
            raise StoreCorrupt(f"the payload at position {hit[0]} does not match its digest", hit)
        return super().read(positions)


def test_damaged_records_are_passed_over_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store = DamagedStore(StoreSettings())
        async with handling(store) as handlers:
            await append(handlers, range(10))
            store.damaged = frozenset({0, 2})
            drawn = await handlers.draws.draw("fresh", 4, keys_only=False)
            assert [record.position for record in drawn.records] == [1, 3, 4, 5]
            assert handlers.stats().damaged_records == 2
            assert available(handlers)["uniform"] == 8

    asyncio.run(scenario())
    assert "2 records are damaged" in caplog.text


def test_a_draw_gets_past_many_damaged_records(caplog: pytest.LogCaptureFixture) -> None:
    """A segment that cannot be read is thousands of them at once, and each is found when it is drawn."""

    async def scenario() -> None:
        store = DamagedStore(StoreSettings())
        async with handling(store) as handlers:
            for start in range(0, 900, 300):
                await append(handlers, range(start, start + 300))
            store.damaged = frozenset(range(300, 800))
            drawn = await handlers.draws.draw("uniform", 8, keys_only=False)
            assert not store.damaged.intersection(record.position for record in drawn.records)
            assert 100 < handlers.stats().damaged_records <= 500
            store.damaged = frozenset(range(900))
            drawing = asyncio.create_task(handlers.draws.draw("uniform", 8, keys_only=False))
            async with asyncio.timeout(10.0):
                while handlers.stats().damaged_records < 900:
                    await asyncio.sleep(0.01)
            assert not drawing.done()  # nothing is left: it waits for what comes
            drawing.cancel()

    asyncio.run(scenario())
    assert len(caplog.records) == 1  # not one for each


def test_damage_found_elsewhere_does_not_make_a_draw_begin_again() -> None:
    class Telling(MemoryStore):
        handlers: ReplayHandlers | None = None
        reads = 0

        def read(self, positions: Sequence[int]) -> list[StoredRecord]:
            if self.handlers is not None:
                self.reads += 1
                self.handlers.tables.exclude_damaged([100 - self.reads])
            return super().read(positions)

    async def scenario() -> None:
        store = Telling(StoreSettings())
        async with handling(store) as handlers:
            await append(handlers, range(100))
            store.handlers = handlers
            drawn = await handlers.draws.draw("fresh", 4, keys_only=False)
            assert (drawn.positions.tolist(), store.reads) == ([0, 1, 2, 3], 1)

    asyncio.run(scenario())
