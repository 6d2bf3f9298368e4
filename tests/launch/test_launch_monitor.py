"""What is gathered of a run, from sources that come and go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch import monitor
from launch.metrics_tail import MetricsTail
from launch.monitor import VERDICTS_SHOWN_MAX, RunMonitor
from launch.verdicts import Counts, Revoked, Verdict
from protos.replay.v1 import replay_pb2
from tests.launch.made_up_run import replay_stats
from tests.launch.supervision import Eventually


def verdict(number: int, issue_time_ns: int, *, approved: bool = True) -> Verdict:
    return Verdict(f"{number:x}", number, "00", approved, "", number, 10, 0, 1.0, (0.5, 1.5), issue_time_ns)


class Replay:
    """Answers with `answer`."""

    answer: replay_pb2.StatsResponse | None = None
    down: Sequence[str] = ()

    def stats(self) -> replay_pb2.StatsResponse | None:
        return self.answer


class Gate:
    """Answers with `answer`, newest first."""

    answer: list[Verdict] | None = None
    count: Counts | None = None
    taken_back: list[Revoked] | None = None

    def verdicts(self) -> list[Verdict] | None:
        return self.answer

    def counts(self) -> Counts | None:
        return self.count

    def revoked(self) -> list[Revoked] | None:
        return self.taken_back


def test_before_anything_is_known(tmp_path: Path) -> None:
    snapshot = RunMonitor(MetricsTail(tmp_path / "none"), Replay(), Gate(), since_ns=0).look()
    assert (snapshot.metrics, snapshot.replay, snapshot.verdicts, snapshot.counts) == ({}, None, (), None)


def test_what_cannot_be_asked_keeps_its_last_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"updates": 1}\n{"updates": 2}\n')
    replay, gate = Replay(), Gate()
    replay.answer, gate.answer, gate.count = replay_stats(), [verdict(1, 100)], Counts(1, 0)
    gate.taken_back = [Revoked(1, "bad sensor")]
    watched = RunMonitor(MetricsTail(path), replay, gate, since_ns=0)
    before = watched.look()
    replay.answer, gate.answer, gate.count, gate.taken_back = None, None, None, None
    after = watched.look()
    assert after.metrics == before.metrics == {"updates": 2}
    assert after.replay == before.replay == replay_stats()
    assert after.verdicts == before.verdicts == (verdict(1, 100),)
    assert after.counts == before.counts == Counts(1, 0)
    assert after.revoked == before.revoked == [Revoked(1, "bad sensor")]


def test_who_is_down_is_as_of_the_last_look(tmp_path: Path) -> None:
    replay = Replay()
    watched = RunMonitor(MetricsTail(tmp_path / "none"), replay, Gate(), since_ns=0)
    replay.answer, replay.down = replay_stats(), ["replay-1"]
    assert watched.look().replay_down == ("replay-1",)
    replay.down = ()
    assert watched.look().replay_down == ()


def test_verdicts_are_of_this_start_in_order_and_once(tmp_path: Path) -> None:
    gate = Gate()
    watched = RunMonitor(MetricsTail(tmp_path / "none"), Replay(), gate, since_ns=100)
    gate.answer = [verdict(2, 150), verdict(1, 99)]
    assert [found.version for found in watched.look().verdicts] == [2]
    gate.answer = [verdict(4, 300), verdict(3, 200), verdict(2, 150)]
    assert [found.version for found in watched.look().verdicts] == [2, 3, 4]


def test_of_a_long_run_only_the_newest_verdicts_are_kept(tmp_path: Path) -> None:
    gate = Gate()
    watched = RunMonitor(MetricsTail(tmp_path / "none"), Replay(), gate, since_ns=0)
    for newest in range(1, 4 * VERDICTS_SHOWN_MAX):
        gate.answer = [verdict(number, number) for number in range(newest, max(0, newest - 3), -1)]
        watched.look()
    assert [found.version for found in watched.snapshot.verdicts] == list(
        range(3 * VERDICTS_SHOWN_MAX, 4 * VERDICTS_SHOWN_MAX)
    )


def test_it_watches_by_itself_until_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(monitor, "POLL_S", 0.01)
    path = tmp_path / "metrics.jsonl"
    watched = RunMonitor(MetricsTail(path), Replay(), Gate(), since_ns=0)
    watched.start()
    try:
        path.write_text(json.dumps({"updates": 5}) + "\n")
        eventually(lambda: watched.snapshot.metrics.get("updates") == 5)
    finally:
        watched.stop()
    with path.open("a") as file:
        file.write('{"updates": 6}\n')
    assert watched.snapshot.metrics["updates"] == 5
    assert watched.snapshot.elapsed_s > 0
