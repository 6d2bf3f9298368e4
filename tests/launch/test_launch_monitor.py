"""What is gathered of a run, from sources that come and go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch import monitor
from launch.ledger_tail import LedgerTail
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
    taken_back: list[Revoked] | None = None

    def verdicts(self) -> list[Verdict] | None:
        return self.answer

    def revoked(self) -> list[Revoked] | None:
        return self.taken_back


def watching(directory: Path, replay: Replay, gate: Gate, *, since_ns: int = 0) -> RunMonitor:
    """Of a run whose files, where there are any, lie in `directory`."""
    ledger = LedgerTail(directory / "ledger.jsonl")
    return RunMonitor(MetricsTail(directory / "metrics.jsonl"), replay, gate, ledger, since_ns=since_ns)


def test_before_anything_is_known(tmp_path: Path) -> None:
    snapshot = watching(tmp_path, Replay(), Gate()).look()
    assert (snapshot.metrics, snapshot.replay, snapshot.verdicts, snapshot.counts) == ({}, None, (), None)


def test_what_cannot_be_asked_keeps_its_last_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"updates": 1}\n{"updates": 2}\n')
    replay, gate = Replay(), Gate()
    replay.answer, gate.answer = replay_stats(), [verdict(1, 100)]
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(json.dumps({"kind": "verdict", "outcome": "approved"}) + "\n")
    gate.taken_back = [Revoked(1, "bad sensor")]
    watched = watching(tmp_path, replay, gate)
    before = watched.look()
    replay.answer, gate.answer, gate.taken_back = None, None, None
    ledger.unlink()
    after = watched.look()
    assert after.metrics == before.metrics == {"updates": 2}
    assert after.replay == before.replay == replay_stats()
    assert after.verdicts == before.verdicts == (verdict(1, 100),)
    assert after.counts == before.counts == Counts(1, 0)
    assert after.revoked == before.revoked == [Revoked(1, "bad sensor")]


def test_who_is_down_is_as_of_the_last_look(tmp_path: Path) -> None:
    replay = Replay()
    watched = watching(tmp_path, replay, Gate())
    replay.answer, replay.down = replay_stats(), ["replay-1"]
    assert watched.look().replay_down == ("replay-1",)
    replay.down = ()
    assert watched.look().replay_down == ()


def test_verdicts_are_of_this_start_in_order_and_once(tmp_path: Path) -> None:
    gate = Gate()
    watched = watching(tmp_path, Replay(), gate, since_ns=100)
    gate.answer = [verdict(2, 150), verdict(1, 99)]
    assert [found.version for found in watched.look().verdicts] == [2]
    gate.answer = [verdict(4, 300), verdict(3, 200), verdict(2, 150)]
    assert [found.version for found in watched.look().verdicts] == [2, 3, 4]


def test_breaches_and_promotions_are_of_this_start(tmp_path: Path) -> None:
    counted = {"episodes": 20, "violating": 9, "evidence": 8.0, "limit": 0.1, "level": 0.02, "release_number": 1}
    entries = [{"kind": "lease_breach", "epoch": at, "reason": "bad", "time_ns": at, **counted} for at in (1, 2)]
    entries += [{"kind": "promotion", "release_number": at, "why": "good", "time_ns": at} for at in (1, 2)]
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    snapshot = watching(tmp_path, Replay(), Gate(), since_ns=2).look()
    assert [breach.epoch for breach in snapshot.breaches] == [2]
    assert [promoted.release_number for promoted in snapshot.promoted] == [2]


def test_of_a_long_run_only_the_newest_verdicts_are_kept(tmp_path: Path) -> None:
    gate = Gate()
    watched = watching(tmp_path, Replay(), gate)
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
    watched = watching(tmp_path, Replay(), Gate())
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
