"""Group commit: what shares a commit, when one is due, and that nobody waits forever."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from protos.replay.v1 import replay_pb2
from replay.memory_store import MemoryStore
from replay.store import Append, AppendOutcome, PendingRecord, StoreFull, StoreSettings
from replay.testing import make_append, make_origin
from replay.writer import CommitterClosed, GroupCommitter

SETTINGS = StoreSettings()


class RecordingStore(MemoryStore):
    """Notes each commit; can be held, and can be full."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.groups: list[tuple[int, dict[str, replay_pb2.TableState]]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self.full = False

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        assert self.go.wait(10.0)
        self.threads.add(threading.get_ident())
        if self.full:
            raise StoreFull("full")
        self.groups.append((len(appends), dict(tables)))
        return super().commit(appends, tables, retain_from=retain_from)


def test_what_waits_during_a_commit_shares_the_next() -> None:
    store = RecordingStore()
    committer = GroupCommitter(store, commit_records_max=1, commit_ms_max=1000.0)
    store.go.clear()
    futures = [committer.append(make_append(make_origin(), [sequence])) for sequence in range(20)]
    states = [
        committer.put_table("fresh", replay_pb2.TableState(cursor=sequence, samples=sequence)) for sequence in (1, 2)
    ]
    store.go.set()
    assert [future.result(5.0).inserted for future in futures] == [1] * 20
    assert [future.result(5.0) for future in states] == [None, None]
    assert committer.close(5.0)
    assert len(store.groups) <= 3
    assert sum(appends for appends, _ in store.groups) == 20
    assert store.tables()["fresh"].samples == 2
    assert len(store.threads) == 1
    assert committer.statistics().commits == len(store.groups)


@pytest.mark.parametrize("due", ["records", "time", "table"])
def test_each_reason_makes_a_commit_due(due: str) -> None:
    committer = GroupCommitter(
        MemoryStore(SETTINGS),
        commit_records_max=4 if due == "records" else 1000,
        commit_ms_max=100.0 if due == "time" else 60_000.0,
    )
    start_s = time.monotonic()
    waiting: Future[AppendOutcome] = committer.append(make_append(make_origin(), range(3)))
    if due == "records":
        committer.append(make_append(make_origin(), [3]))
    if due == "table":
        committer.put_table("fresh", replay_pb2.TableState(cursor=0, samples=1))
    assert waiting.result(10.0).inserted == 3
    assert due != "time" or time.monotonic() - start_s >= 0.1
    assert committer.close(5.0)


def test_failures_reach_every_waiter_and_the_thread_goes_on() -> None:
    store = RecordingStore()
    committer = GroupCommitter(store, commit_records_max=1000, commit_ms_max=20.0)
    store.full = True
    failing = [committer.append(make_append(make_origin(), [sequence])) for sequence in range(2)]
    state = committer.put_table("fresh", replay_pb2.TableState(cursor=9, samples=9))
    assert all(isinstance(future.exception(5.0), StoreFull) for future in failing)
    assert isinstance(state.exception(5.0), StoreFull)
    store.full = False
    assert committer.append(make_append(make_origin(), [0])).result(5.0).inserted == 1
    assert "fresh" not in store.tables()
    assert committer.close(5.0)


class FullStore(MemoryStore):
    """Has room for table states only, until `full` is unset."""

    full = True

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        if appends and self.full:
            raise StoreFull("no space on the disk")
        return super().commit(appends, tables, retain_from=retain_from)


def test_a_full_disk_fails_appends_but_not_the_draws_beside_them(caplog: pytest.LogCaptureFixture) -> None:
    store = FullStore(SETTINGS)
    committer = GroupCommitter(store, commit_records_max=1000, commit_ms_max=60_000.0)
    for sequence in range(3):
        refused = committer.append(make_append(make_origin(), [sequence]))
        drawn = committer.put_table("fresh", replay_pb2.TableState(cursor=sequence, samples=sequence))
        assert isinstance(refused.exception(5.0), StoreFull)
        assert drawn.result(5.0) is None
        assert store.tables()["fresh"] == replay_pb2.TableState(cursor=sequence, samples=sequence)
    store.full = False
    stored = committer.append(make_append(make_origin(), [0]))
    assert committer.close(5.0)
    assert stored.result(0).inserted == 1
    (logged,) = caplog.records  # the first failure, not each
    assert logged.getMessage().endswith("no space on the disk")


def test_a_state_that_may_wait_does_and_shares_the_commit_of_one_that_may_not() -> None:
    store = RecordingStore()
    committer = GroupCommitter(store, commit_records_max=1000, commit_ms_max=60_000.0)
    later = committer.put_table("uniform", replay_pb2.TableState(samples=1), within_s=60.0)
    latest = committer.put_table("uniform", replay_pb2.TableState(samples=2), within_s=90.0)
    time.sleep(0.05)
    assert not later.done()
    assert committer.put_table("fresh", replay_pb2.TableState(cursor=1)).result(5.0) is None
    assert (later.result(0), latest.result(0)) == (None, None)
    assert [sorted(tables) for _, tables in store.groups] == [["fresh", "uniform"]]
    assert store.tables()["uniform"].samples == 2
    start_s = time.monotonic()
    soon = committer.put_table("uniform", replay_pb2.TableState(samples=3), within_s=0.1)
    committer.put_table("uniform", replay_pb2.TableState(samples=4), within_s=60.0)  # puts nothing off
    assert soon.result(5.0) is None
    assert time.monotonic() - start_s >= 0.1
    assert store.tables()["uniform"].samples == 4
    assert committer.close(5.0)


def test_calls_come_after_what_was_submitted_before_them_in_order_and_one_that_fails_fails_alone() -> None:
    store = RecordingStore()
    committer = GroupCommitter(store, commit_records_max=1000, commit_ms_max=60_000.0)
    store.go.clear()
    committer.put_table("x", replay_pb2.TableState())  # holds the thread
    appended = committer.append(make_append(make_origin(), range(3)))
    seen: list[int] = []

    def look() -> int:
        seen.append(store.counters().records)
        return threading.get_ident()

    def fail() -> None:
        seen.append(-1)
        raise KeyError("no")

    calls: list[Future[Any]] = [committer.call(look), committer.call(fail), committer.call(look)]
    cancelled = committer.call(look)
    assert cancelled.cancel()
    store.go.set()
    assert {calls[0].result(5.0), calls[2].result(5.0)} == store.threads
    assert isinstance(calls[1].exception(5.0), KeyError)
    assert appended.result(0).inserted == 3
    last = committer.call(look)
    assert committer.close(5.0)
    assert last.result(0) in store.threads
    assert seen == [3, -1, 3, 3]
    with pytest.raises(CommitterClosed):
        committer.call(look).result(0)


class LazyStore(MemoryStore):
    """Wants to be synced 50 ms after a commit; may be unable to."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.due_s: float | None = None
        self.syncs = 0
        self.failure: Exception | None = None

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        self.due_s = self.due_s or time.monotonic() + 0.05
        return super().commit(appends, tables, retain_from=retain_from)

    def sync_due_s(self) -> float | None:
        return self.due_s

    def until_synced(self) -> None:
        deadline_s = time.monotonic() + 5.0
        while not self.syncs:
            assert time.monotonic() < deadline_s
            time.sleep(0.005)

    def sync(self) -> None:
        try:
            if self.failure is not None:
                raise self.failure
            self.due_s = None
        finally:
            self.syncs += 1


def test_what_is_not_on_disk_yet_is_put_there_when_it_is_due_and_at_the_end() -> None:
    store = LazyStore()
    committer = GroupCommitter(store, commit_records_max=1, commit_ms_max=0.0)
    committer.append(make_append(make_origin(), [0])).result(5.0)
    store.until_synced()
    assert store.due_s is None
    committer.append(make_append(make_origin(), [1])).result(5.0)
    assert committer.close(5.0)
    assert (store.syncs, store.due_s) == (2, None)


@pytest.mark.parametrize("failure", [StoreFull("full"), OSError("the disk is on fire")])
def test_a_sync_that_fails_is_tried_again_and_ends_nothing(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = LazyStore()
    committer = GroupCommitter(store, commit_records_max=1, commit_ms_max=0.0)
    store.failure = failure
    committer.append(make_append(make_origin(), [0])).result(5.0)
    store.until_synced()
    time.sleep(0.1)
    assert store.syncs == 1  # not again and again
    assert committer.append(make_append(make_origin(), [1])).result(5.0).inserted == 1
    store.failure = None
    assert committer.close(5.0)
    assert store.due_s is None
    assert str(failure) in caplog.text


def test_what_was_committed_is_let_go_of_although_nothing_follows() -> None:
    class Records(list[PendingRecord]):
        """A list that can be watched."""

    committer = GroupCommitter(MemoryStore(SETTINGS), commit_records_max=1, commit_ms_max=0.0)
    records = Records(make_append(make_origin(), range(3)).records)
    watched = weakref.ref(records)
    future = committer.append(make_append(make_origin(), [0])._replace(records=records))
    del records
    assert future.result(5.0).inserted == 3
    deadline_s = time.monotonic() + 5.0
    while watched() is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    assert committer.close(5.0)


def test_closing_commits_what_waits_and_refuses_the_rest() -> None:
    store = MemoryStore(SETTINGS)
    committer = GroupCommitter(store, commit_records_max=1000, commit_ms_max=60_000.0)
    waiting = committer.append(make_append(make_origin(), range(3)))
    assert committer.close(5.0)
    assert waiting.result(0).inserted == 3
    with pytest.raises(CommitterClosed, match="nothing of this was stored"):
        committer.append(make_append(make_origin(), [3])).result(0)
    with pytest.raises(CommitterClosed):
        committer.put_table("x", replay_pb2.TableState()).result(0)
    assert store.counters().records == 3


def test_cancelled_before_its_commit_is_not_stored() -> None:
    store = MemoryStore(SETTINGS)
    committer = GroupCommitter(store, commit_records_max=1000, commit_ms_max=60_000.0)
    cancelled = committer.append(make_append(make_origin("a"), [0]))
    kept = committer.append(make_append(make_origin("b"), [0]))
    assert cancelled.cancel()
    assert committer.close(5.0)
    assert kept.result(0).inserted == 1
    assert store.counters().records == 1
