"""The risk monitor: when an epoch is over, what it answers for, what a restart forgives, and what counts as no news."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path

import pytest

from safety.config import SafetyConfig
from safety.leases.monitor import FIRST_LOOK_S, SAVE_S, RiskMonitor
from safety.leases.monitor_file import FILE_NAME
from safety.leases.training_totals import CountsUnreadable, TrainingCounts, TrainingTotals
from safety.statistics import breach as statistics
from safety.statistics.breach import BreachRule, advance, log_evidence
from safety.statistics.lifetime import spent_level

CONFIG = SafetyConfig(lease_violation_rate_max=0.1, monitor_stale_s_max=30.0, monitor_poll_s=0.01)


class Source:
    """A replay whose counts and clock tests set, and a monitor that can be started anew."""

    def __init__(self, directory: Path, config: SafetyConfig = CONFIG, epoch: int = 1) -> None:
        self.path = directory / FILE_NAME
        self.config = config
        self.totals: TrainingTotals | None = TrainingTotals(TrainingCounts(0, 0), {})
        self.now_s = 1000.0
        self.looks = 0
        self.monitor = self.start(epoch)

    def start(self, epoch: int) -> RiskMonitor:
        self.monitor = RiskMonitor(self.read, self.config, epoch, self.path, lambda: self.now_s)
        return self.monitor

    def read(self) -> TrainingTotals:
        self.looks += 1
        if self.totals is None:
            raise CountsUnreadable("replay does not answer")
        return self.totals

    def look(self, episodes: int, violating: int, **tagged: tuple[int, int]) -> str:
        """Replay has counted so many, of which so many are tagged, e.g. lease_1; returns "breach", a code, or ""."""
        tags = {(name.partition("_")[0], int(name.partition("_")[2])): TrainingCounts(*t) for name, t in tagged.items()}
        self.totals = TrainingTotals(TrainingCounts(episodes, violating), tags)
        self.monitor.look()
        if self.monitor.breach() is not None:
            return "breach"
        refusal = self.monitor.refusal()
        return refusal.code if refusal else ""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_an_epoch_is_over_exactly_when_the_evidence_suffices(source: Source) -> None:
    rule, state = BreachRule(0.1, spent_level(CONFIG.lease_error_rate, 1)), statistics.start()
    for look in range(1, 40):
        state = advance(rule, state, 10, 2)
        assert source.look(10 * look, 2 * look) == ("breach" if statistics.is_breached(rule, state) else "")
    found = source.monitor.breach()
    assert found is not None
    assert (found.epoch, found.limit, found.level) == (1, 0.1, rule.level)
    assert (found.episodes, found.violating) == (state.episodes, state.violating)
    assert found.evidence == log_evidence(state)
    assert f"{state.violating} of {state.episodes} training episodes" in found.reason
    assert 0 < state.episodes < 400


def test_without_episodes_there_is_nothing_to_object_to(source: Source) -> None:
    assert source.look(0, 0) == ""


def test_violations_after_many_clean_episodes_are_found(source: Source) -> None:
    for look in range(500):
        assert source.look(10 * look, 0) == ""
    assert source.look(5050, 50) == "breach"


def test_neither_waiting_nor_clean_episodes_undo_a_breach(source: Source) -> None:
    assert source.look(100, 90) == "breach"
    found = source.monitor.breach()
    source.now_s += 10
    assert source.look(100_000, 90) == "breach"
    assert source.monitor.breach() == found


def test_a_limit_of_one_is_never_breached(tmp_path: Path) -> None:
    source = Source(tmp_path, dataclasses.replace(CONFIG, lease_violation_rate_max=1.0))
    assert source.look(10_000, 10_000) == ""
    source.monitor.save()
    assert not source.path.exists()


def test_an_epoch_answers_for_all_but_releases_and_earlier_epochs(tmp_path: Path) -> None:
    source = Source(tmp_path, epoch=3)
    (tmp_path / "other").mkdir()
    excused = {"release_7": (500, 400), "lease_1": (100, 100), "lease_2": (100, 100)}
    assert source.look(700, 600, **excused) == ""
    assert source.look(800, 610, **excused, lease_3=(100, 10)) == ""
    # Neither tagged at all, nor tagged with an epoch that has not been.
    for more in ({}, {"lease_4": (60, 60)}):
        other = Source(tmp_path / "other", epoch=3)
        other.path.unlink(missing_ok=True)
        assert other.start(3).breach() is None
        assert other.look(760, 660, **excused, **more) == "breach"


def test_the_next_epoch_answers_only_for_what_comes_after_it_begins(source: Source) -> None:
    assert source.look(100, 60, lease_1=(90, 55)) == "breach"
    source.monitor.end(1)
    assert source.monitor.breach() is None
    # Late ones of the first epoch, with its tag and, from actors of a served policy, without any.
    assert source.look(200, 150, lease_1=(150, 110)) == ""
    source.monitor.begin(2)
    assert source.look(300, 240, lease_1=(250, 200)) == ""
    assert source.look(340, 280, lease_1=(250, 200), lease_2=(40, 40)) == "breach"
    found = source.monitor.breach()
    assert found is not None
    assert (found.epoch, found.episodes, found.violating) == (2, 40, 40)
    assert found.level == spent_level(CONFIG.lease_error_rate, 2) < spent_level(CONFIG.lease_error_rate, 1)


def test_an_epoch_begins_once(source: Source) -> None:
    source.look(100, 60)
    source.monitor.end(1)
    source.look(100, 60)
    for episodes in (100, 110, 120, 130):
        source.monitor.begin(2)
        state = source.look(episodes, episodes - 40)
    assert state == "breach"


def test_a_restart_forgives_nothing_and_judges_what_came_meanwhile(source: Source) -> None:
    for look in range(1, 9):
        assert source.look(10 * look, 2 * look) == ""
    source.monitor.save()
    before = json.loads(source.path.read_bytes())
    source.start(1)
    refusal = source.monitor.refusal()
    assert refusal is not None
    assert refusal.code == "unknown"
    assert source.look(80, 16) == ""
    source.monitor.save()
    assert json.loads(source.path.read_bytes()) == before
    source.start(1)
    assert source.look(120, 32) == "breach"


def test_a_breach_is_on_disk_at_once(source: Source) -> None:
    assert source.look(100, 90) == "breach"
    source.start(1)
    assert source.monitor.breach() is not None
    # Clean ones that came while the service was away undo nothing.
    assert source.look(100_000, 90) == "breach"


def test_a_state_that_is_older_than_the_counts_costs_only_beginnings(source: Source) -> None:
    """Killed between two writings: what was not written is judged as one portion."""
    for look in range(1, 6):
        source.now_s += SAVE_S
        source.look(20 * look, look)
    written = source.path.read_bytes()
    source.look(120, 6)
    assert source.path.read_bytes() == written
    source.start(1)
    assert source.look(140, 31) == "breach"


DAMAGES = {
    "missing": None,
    "empty": b"",
    "no JSON": b"\x00\xff",
    "no object": b"[]",
    "cut off": b"half",
    "altered": b"altered",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_without_its_file_all_of_an_epoch_is_one_portion(source: Source, damage: bytes | None) -> None:
    for look in range(1, 100):
        source.look(100 * look, 0)
    source.monitor.save()
    data = source.path.read_bytes()
    if damage is None:
        source.path.unlink()
    else:
        other = {b"half": data[: len(data) // 2], b"altered": data.replace(b'"seen":[9900', b'"seen":[9999')}
        source.path.write_bytes(other.get(damage, damage))
    source.start(1)
    assert source.look(9900, 900) == ""
    source.path.unlink(missing_ok=True)
    source.start(1)
    assert source.look(9900, 1500) == "breach"


@pytest.mark.parametrize("changes", [{"lease_violation_rate_max": 0.05}, {"lease_error_rate": 0.02}])
def test_another_limit_judges_the_whole_epoch_again(source: Source, changes: dict[str, float]) -> None:
    for look in range(1, 100):
        assert source.look(100 * look, 9 * look) == ""
    source.monitor.save()
    source.config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    source.start(1)
    assert source.look(9900, 891) == ("breach" if "lease_violation_rate_max" in changes else "")


def test_the_file_of_an_earlier_epoch_excuses_nothing(source: Source) -> None:
    """A crash between the ledger's entry and the file's: the next epoch then answers for all that has no tag."""
    source.look(100, 90, lease_1=(40, 40))
    assert source.path.exists()
    source.start(2)
    assert source.look(100, 90, lease_1=(100, 90)) == ""
    source.start(2)
    assert source.look(100, 90, lease_1=(40, 40)) == "breach"


def test_an_epoch_that_has_not_begun_is_not_begun_after_a_restart(source: Source) -> None:
    source.look(100, 90)
    source.monitor.end(1)
    source.start(2)
    assert source.look(200, 180) == ""
    source.monitor.begin(2)
    source.start(2)
    assert source.look(260, 240) == "breach"


def test_a_disk_that_fails_costs_no_lease(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    source.path.mkdir()
    source.now_s += SAVE_S
    assert source.look(10, 0) == ""
    assert "cannot be written" in caplog.text


def test_no_news_is_bad_news_after_a_while(source: Source) -> None:
    assert source.look(10, 0) == ""
    source.totals = None
    source.now_s += 30
    source.monitor.look()
    assert source.monitor.refusal() is None
    source.now_s += 0.1
    refusal = source.monitor.refusal()
    assert refusal is not None
    assert (refusal.code, "replay does not answer" in refusal.reason) == ("stale", True)
    assert source.look(10, 0) == ""


def test_until_something_has_been_read_nothing_is_allowed(source: Source) -> None:
    refusal = source.monitor.refusal()
    assert refusal is not None
    assert (refusal.code, "nothing has been read" in refusal.reason) == ("unknown", True)
    source.totals = None
    source.monitor.look()
    refusal = source.monitor.refusal()
    assert refusal is not None
    assert (refusal.code, "replay does not answer" in refusal.reason) == ("unknown", True)
    assert source.look(0, 0) == ""


@pytest.mark.parametrize(
    ("total", "tagged"),
    [
        ((10, 11), {}),
        ((-1, 0), {}),
        ((10, -1), {}),
        ((20, 5), {"release_1": (30, 0)}),
        ((20, 5), {"release_1": (1, 9)}),
    ],
)
def test_impossible_counts_are_no_news(
    source: Source, total: tuple[int, int], tagged: dict[str, tuple[int, int]]
) -> None:
    assert source.look(10, 0) == ""
    source.now_s += 31
    assert source.look(total[0], total[1], **tagged) == "stale"


def test_new_counts_that_contradict_the_old_ones_are_no_news(source: Source) -> None:
    assert source.look(100, 0) == ""
    source.now_s += 31
    assert source.look(101, 2) == "stale"


def test_a_replay_that_starts_anew_is_judged_by_what_it_has(source: Source) -> None:
    for look in range(1, 11):
        assert source.look(100 * look, 0) == ""
    assert source.look(40, 2) == ""
    assert source.look(80, 4) == ""
    # And what there was against it before is not forgotten.
    assert source.look(110, 12) == ""
    for _ in range(3):
        source.look(0, 0)
        state = source.look(30, 9)
    assert state == "breach"


def test_a_monitor_that_never_ran_judges_everything_replay_has_counted(source: Source) -> None:
    assert source.look(5000, 4000) == "breach"


def test_the_thread_looks_often_until_it_has_seen_something(tmp_path: Path) -> None:
    class Stop(threading.Event):
        """Ends the loop at its fifth pause, and lets replay answer at the third look."""

        def __init__(self) -> None:
            super().__init__()
            self.pauses: list[float | None] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.pauses.append(timeout)
            known = len(self.pauses) >= 3
            bench.totals = TrainingTotals(TrainingCounts(4, 0), {}) if known else None
            return len(self.pauses) == 5

    bench, stop = Source(tmp_path, dataclasses.replace(CONFIG, monitor_poll_s=7.0)), Stop()
    bench.monitor.run(stop)
    assert stop.pauses == [0.0, FIRST_LOOK_S, FIRST_LOOK_S, 7.0, 7.0]
    # What it knows at the end is kept.
    assert json.loads(bench.path.read_bytes())["seen"] == [4, 0]


def test_the_thread_looks_until_it_is_stopped(source: Source) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=source.monitor.run, args=(stop,))
    thread.start()
    try:
        while source.looks < 3:
            time.sleep(0.001)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_an_epoch_does_not_begin_with_tags_that_excuse_more_than_there_is(source: Source) -> None:
    assert source.look(100, 50, lease_1=(200, 90)) == "breach"
    source.monitor.end(1)
    with pytest.raises(CountsUnreadable, match="epoch 2"):
        source.monitor.begin(2)
    source.look(300, 90, lease_1=(200, 90))
    source.monitor.begin(2)
    assert source.look(400, 90, lease_1=(200, 90)) == ""
