"""Group commit: what shares a commit, when one is due, and that nobody waits forever."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import pytest

from protos.replay.v1 import replay_pb2
from replay.memory_store import MemoryStore
from replay.store import Append, AppendOutcome, StoreFull, StoreSettings
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
