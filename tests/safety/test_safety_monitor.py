"""The risk monitor: when snapshots stop, what the window forgets, and what counts as no news."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from scipy import stats

from protos.replay.v1 import replay_pb2
from replay.client import ReplayUnavailable
from safety.config import SafetyConfig
from safety.monitor import FIRST_LOOK_S, CountsUnreadable, RiskMonitor, TrainingCounts
from safety.training_counts import replay_counts

CONFIG = SafetyConfig(
    lease_violation_rate_max=0.1, lease_window_episodes=100, monitor_stale_s_max=30.0, monitor_poll_s=0.01
)


class Source:
    """A replay whose counts and clock tests set."""

    def __init__(self, config: SafetyConfig = CONFIG) -> None:
        self.counts: TrainingCounts | None = TrainingCounts(0, 0)
        self.now_s = 1000.0
        self.looks = 0
        self.monitor = RiskMonitor(self.read, config, lambda: self.now_s)

    def read(self) -> TrainingCounts:
        self.looks += 1
        if self.counts is None:
            raise CountsUnreadable("replay does not answer")
        return self.counts

    def code(self, episodes: int, violating: int) -> str:
        self.counts = TrainingCounts(episodes, violating)
        self.monitor.look()
        refusal = self.monitor.refusal()
        return refusal.code if refusal else ""


def test_snapshots_stop_exactly_when_the_lower_bound_passes_the_limit() -> None:
    for violating in range(101):
        low = stats.binomtest(violating, 100, alternative="greater").proportion_ci(0.95, "exact").low
        assert Source().code(100, violating) == ("risk" if low > 0.1 else "")


def test_without_episodes_there_is_nothing_to_object_to() -> None:
    assert Source().code(0, 0) == ""


def test_the_window_forgets_old_episodes_but_not_too_early() -> None:
    source = Source()
    assert source.code(50, 50) == "risk"
    assert source.code(149, 50) == "risk"
    # A full window of clean episodes since the first 50.
    assert source.code(150, 50) == ""
    assert source.code(250, 50) == ""
    # Violations after many clean episodes are seen at their recent rate.
    assert source.code(350, 90) == "risk"


def test_the_window_is_never_shorter_than_asked_for_and_bounded() -> None:
    source = Source()
    for episodes in range(0, 5000, 7):
        source.code(episodes, 0)
        counts = source.monitor._counts
        assert len(counts) <= CONFIG.lease_window_episodes + 2
        if episodes >= 100:
            assert 100 <= counts[-1].episodes - counts[0].episodes <= 107


def test_waiting_alone_allows_nothing_again() -> None:
    source = Source()
    assert source.code(100, 90) == "risk"
    for _ in range(100):
        source.now_s += 10
        assert source.code(100, 90) == "risk"


def test_no_news_is_bad_news_after_a_while() -> None:
    source = Source()
    assert source.code(10, 0) == ""
    source.counts = None
    source.now_s += 30
    source.monitor.look()
    assert source.monitor.refusal() is None
    source.now_s += 0.1
    refusal = source.monitor.refusal()
    assert refusal is not None
    assert (refusal.code, "replay does not answer" in refusal.reason) == ("stale", True)
    assert source.code(10, 0) == ""


def test_until_something_has_been_read_nothing_is_allowed() -> None:
    source = Source()
    refusal = source.monitor.refusal()
    assert refusal is not None
    assert (refusal.code, "nothing has been read" in refusal.reason) == ("unknown", True)
    source.counts = None
    source.monitor.look()
    refusal = source.monitor.refusal()
    assert refusal is not None
    assert (refusal.code, "replay does not answer" in refusal.reason) == ("unknown", True)
    assert source.code(0, 0) == ""


@pytest.mark.parametrize("counts", [TrainingCounts(10, 11), TrainingCounts(-1, 0), TrainingCounts(10, -1)])
def test_impossible_counts_are_no_news(counts: TrainingCounts) -> None:
    source = Source()
    assert source.code(10, 0) == ""
    source.now_s += 31
    assert source.code(*counts) == "stale"


def test_a_replay_that_starts_anew_is_judged_by_what_it_has() -> None:
    source = Source()
    assert source.code(1000, 0) == ""
    assert source.code(40, 30) == "risk"
    assert source.code(60, 20) == "risk"


def test_a_restarted_monitor_judges_everything_replay_has_counted() -> None:
    assert Source().code(5000, 4000) == "risk"


def test_the_thread_looks_often_until_it_has_seen_something() -> None:
    class Stop(threading.Event):
        """Ends the loop at its fifth pause, and lets replay answer at the third look."""

        def __init__(self) -> None:
            super().__init__()
            self.pauses: list[float | None] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.pauses.append(timeout)
            source.counts = TrainingCounts(0, 0) if len(self.pauses) >= 3 else None
            return len(self.pauses) == 5

    source, stop = Source(dataclasses.replace(CONFIG, monitor_poll_s=7.0)), Stop()
    source.monitor.run(stop)
    assert stop.pauses == [0.0, FIRST_LOOK_S, FIRST_LOOK_S, 7.0, 7.0]


def test_the_thread_looks_until_it_is_stopped() -> None:
    source, stop = Source(), threading.Event()
    thread = threading.Thread(target=source.monitor.run, args=(stop,))
    thread.start()
    try:
        while source.looks < 3:
            time.sleep(0.001)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


class Client:
    def __init__(self, **fields: object) -> None:
        self.response = replay_pb2.StatsResponse(**fields)  # type: ignore[arg-type]

    def stats(self, timeout_s: float) -> replay_pb2.StatsResponse:
        return self.response


def read(**fields: object) -> TrainingCounts:
    return replay_counts(Client(**fields))  # type: ignore[arg-type]


def test_counts_are_taken_from_the_totals_of_replay() -> None:
    totals = {"episodes": 12.0, "violating_episodes": 3.0, "return": 5.5}
    assert read(appended_records=9, signal_totals=totals) == TrainingCounts(12, 3)
    assert read() == TrainingCounts(0, 0)


@pytest.mark.parametrize(
    "totals",
    [{}, {"episodes": 5.0}, {"violating_episodes": 5.0}, {"episodes": float("nan"), "violating_episodes": 0.0}],
)
def test_totals_that_are_missing_are_not_taken_for_none(totals: dict[str, float]) -> None:
    with pytest.raises(CountsUnreadable, match="does not total"):
        read(appended_records=1, signal_totals=totals)


def test_a_replay_that_does_not_answer_is_unreadable() -> None:
    class Dead(Client):
        def stats(self, timeout_s: float) -> replay_pb2.StatsResponse:
            raise ReplayUnavailable("gone")

    with pytest.raises(CountsUnreadable, match="gone"):
        replay_counts(Dead())  # type: ignore[arg-type]
