"""Group commit: one thread takes everything that waits, writes it in one transaction, then tells those waiting.

The thread is the store's only writer (an LMDB write transaction is bound to its thread). A commit is due when
commit_records_max records wait, when the oldest of them has waited for commit_ms_max, or at once when a table's state
waits that a sampler waits for. Everything else that writes (marks, quarantines, priorities) runs on the same thread
between commits. Memory is bounded by whoever submits (see window.py).

On a full disk appends fail, and are tried again by those who sent them; draws of that commit, and the evictions that
free space, need a few pages only, and are committed without them.

Exceptions: CommitterClosed for what comes after `close`; whatever the store raises, to each future of that commit.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from protos.replay.v1 import replay_pb2
from replay.store import Append, AppendOutcome, Store, StoreError, StoreFull

TABLE_S_MAX = 0.05
"""Longest time that a table's state waits for a commit when nobody waits for it (s)."""

LOG_AGAIN_S = 10.0
"""Appends that failed are sent again and again: their failures are logged this often at most."""

_SYNC_AGAIN_S = 1.0

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class CommitterClosed(StoreError):
    """The committer was closed before this could be committed; nothing of it is stored."""


class CommitStatistics(NamedTuple):
    """Commits since the start, and the mean time of one (ms)."""

    commits: int
    commit_ms_mean: float


class GroupCommitter:
    """The writer thread of a store. Thread-safe.

    Args:
      store: written to by this thread alone from now on; not closed by it.
      commit_records_max: records that make a commit due at once.
      commit_ms_max: longest wait of an append for others (ms).

    Attributes:
      retain_from: the next commit evicts records below this position; set from any thread.
    """

    def __init__(self, store: Store, *, commit_records_max: int, commit_ms_max: float) -> None:
        self.retain_from = 0
        self._store = store
        self._commit_records_max = commit_records_max
        self._commit_s_max = commit_ms_max / 1e3
        self._condition = threading.Condition()
        self._closing = False
        self._appends: list[tuple[Append, Future[AppendOutcome]]] = []
        self._tables: dict[str, replay_pb2.TableState] = {}
        self._table_futures: list[Future[None]] = []
        self._table_due_s = math.inf
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._evict = False
        self._records = 0
        self._due_s = 0.0
        self._commits = 0
        self._commit_s = 0.0
        self._log_due_s = 0.0
        self._sync_again_s = 0.0
        self._thread = threading.Thread(target=self._run, name="replay-commit", daemon=True)
        self._thread.start()

    def append(self, append: Append) -> Future[AppendOutcome]:
        """Submits records; the future ends once they are committed, or with what the store raised."""
        future: Future[AppendOutcome] = Future()
        with self._condition:
            if self._closing:
                future.set_exception(_closed())
                return future
            first = not self._appends
            if first:
                self._due_s = time.monotonic() + self._commit_s_max
            self._appends.append((append, future))
            self._records += len(append.records)
            # The thread sleeps until the first one is due: wake it for that one and when the group is full.
            if first or self._records >= self._commit_records_max:
                self._condition.notify()
        return future

    def put_table(self, name: str, state: replay_pb2.TableState, *, within_s: float = 0.0) -> Future[None]:
        """Submits a table's state, which replaces any not yet committed; commits within that time (s)."""
        future: Future[None] = Future()
        with self._condition:
            if self._closing:
                future.set_exception(_closed())
                return future
            self._tables[name] = state
            self._table_futures.append(future)
            due_s = time.monotonic() + within_s
            if due_s < self._table_due_s:
                self._table_due_s = due_s
                self._condition.notify()
        return future

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Submits anything else that writes to the store: `function` runs on this thread, between commits, in order."""
        future: Future[Result] = Future()
        with self._condition:
            if self._closing:
                future.set_exception(_closed())
                return future
            self._calls.append((function, future))
            self._condition.notify()
        return future

    def evict(self) -> None:
        """Commits soon even if nothing is submitted, so that what lies below `retain_from` is evicted."""
        with self._condition:
            self._evict = True
            self._condition.notify()

    def statistics(self) -> CommitStatistics:
        """Commits so far and their mean time."""
        commits = self._commits
        return CommitStatistics(commits, 1e3 * self._commit_s / commits if commits else 0.0)

    def close(self, timeout_s: float) -> bool:
        """Commits what waits, refuses the rest, ends the thread. Returns whether it ended within `timeout_s`."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._round():
            pass

    def _round(self) -> bool:
        """Waits until something is due and does all that waits; returns whether there may be more to do."""
        # One call for each, so that nothing of what was committed is held while the next is waited for.
        with self._condition:
            while not (self._closing or self._is_due()):
                self._condition.wait(self._sleep_s())
            appends, self._appends, self._records = self._appends, [], 0
            tables, self._tables = self._tables, {}
            table_futures, self._table_futures = self._table_futures, []
            self._table_due_s = math.inf
            calls, self._calls = self._calls, []
            evict, self._evict = self._evict, False
        if appends or tables or evict:
            # From here on a future can no longer be cancelled, and what was cancelled before is not stored.
            appends = [item for item in appends if item[1].set_running_or_notify_cancel()]
            table_futures = [future for future in table_futures if future.set_running_or_notify_cancel()]
            self._commit(appends, tables, table_futures)
        for function, future in calls:
            _call(function, future)
        self._sync_if_due()
        return bool(not self._closing or appends or tables or calls)

    def _is_due(self) -> bool:
        if self._calls or self._evict or self._records >= self._commit_records_max:
            return True
        return time.monotonic() >= self._next_s()

    def _next_s(self) -> float:
        """When there will be something to do without anything more being submitted (monotonic, s)."""
        sync_due_s = self._store.sync_due_s()
        sync_s = math.inf if sync_due_s is None else max(sync_due_s, self._sync_again_s)
        return min(sync_s, self._table_due_s, self._due_s if self._appends else math.inf)

    def _sleep_s(self) -> float | None:
        next_s = self._next_s()
        return None if math.isinf(next_s) else max(0.0, next_s - time.monotonic())

    def _sync_if_due(self) -> None:
        """In durability mode async: puts on disk what has waited long enough."""
        sync_due_s = self._store.sync_due_s()
        if sync_due_s is not None and (self._closing or time.monotonic() >= max(sync_due_s, self._sync_again_s)):
            try:
                self._store.sync()
            except Exception as error:  # noqa: BLE001  without this thread everybody would wait forever
                self._sync_again_s = time.monotonic() + _SYNC_AGAIN_S
                self._log_failure(error)

    def _commit(
        self,
        appends: list[tuple[Append, Future[AppendOutcome]]],
        tables: dict[str, replay_pb2.TableState],
        table_futures: list[Future[None]],
    ) -> None:
        start_s = time.monotonic()
        try:
            outcomes = self._store.commit([append for append, _ in appends], tables, retain_from=self.retain_from)
        except Exception as error:  # noqa: BLE001  every waiter must hear of it, or it would wait forever
            self._log_failure(error)
            for _, future in appends:
                future.set_exception(error)
            if appends and isinstance(error, StoreFull):
                self._commit([], tables, table_futures)
                return
            for table_future in table_futures:
                table_future.set_exception(error)
            return
        self._commit_s += time.monotonic() - start_s
        self._commits += 1
        for (_, future), outcome in zip(appends, outcomes, strict=True):
            future.set_result(outcome)
        for table_future in table_futures:
            table_future.set_result(None)

    def _log_failure(self, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s >= self._log_due_s:
            self._log_due_s = now_s + LOG_AGAIN_S
            _log.error("a commit failed (further failures within %.0f s are not logged): %s", LOG_AGAIN_S, error)


def _call(function: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except Exception as error:  # noqa: BLE001  whoever waits must hear of it
        future.set_exception(error)
    else:
        future.set_result(result)


def _closed() -> CommitterClosed:
    return CommitterClosed("the replay service is shutting down: nothing of this was stored; send it again")
