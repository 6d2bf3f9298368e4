"""Both ways of showing a run, drawn for real: lines into a pipe, a table onto a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
from collections.abc import Iterator
from typing import IO

import pytest

from launch.monitor import RunSnapshot
from launch.verdicts import BreachedEpoch, Counts, Promoted, Revoked, Verdict
from launch.view import LiveView, PlainView, ProcessLine, figures, make_view
from tests.launch.made_up_run import METRICS, replay_stats

PROCESSES = [ProcessLine("learner", "running", 1, 0), ProcessLine("replay", "starting", 2, 0)]
APPROVED = Verdict("a", 7, "00", True, "", 1, 100, 0, 480.0, (470.0, 490.0), 1)
REJECTED = Verdict("b", 9, "00", False, "its returns fell", 0, 100, 0, 1.0, (0.0, 2.0), 2)


def test_figures_before_anything_is_known() -> None:
    shown = dict(figures(RunSnapshot()))
    assert shown["return"] == shown["replay"] == shown["insert wait"] == shown["candidates"] == "-"
    assert shown["policy lag"] == "- (p95 -)"


def test_figures_of_a_running_run() -> None:
    snapshot = RunSnapshot(metrics=METRICS, replay=replay_stats(), counts=Counts(12, 345))
    assert dict(figures(snapshot)) == {
        "env steps": "9,000",
        "steps/s": "2,500",
        "return": "12.50",
        "policy lag": "2.0 (p95 4)",
        "updates": "40",
        "replay": "1,234 records, 6 MB",
        "insert wait": "2.0 s",
        "sample wait": "0.8 s",
        "learner wait": "0.2 s",
        "lease": "held",
        "candidates": "12 approved, 345 rejected",
    }


def test_revoked_releases_are_shown_where_there_are_some() -> None:
    assert "revoked" not in dict(figures(RunSnapshot()))
    snapshot = RunSnapshot(revoked=(Revoked(2, "bad sensor"), Revoked(1, "worse")))
    assert dict(figures(snapshot))["revoked"] == "release 1 (worse), release 2 (bad sensor)"


def test_rollbacks_are_shown_where_there_were_some() -> None:
    assert "rollbacks" not in dict(figures(RunSnapshot(metrics={**METRICS, "rollbacks": 0})))
    metrics = {**METRICS, "rollbacks": 2, "lease_refusal": "40 of 90 training episodes of snapshots had a cost"}
    shown = dict(figures(RunSnapshot(metrics=metrics)))
    assert shown["rollbacks"] == "2"
    assert shown["lease"] == "refused: 40 of 90 training episodes of snapshots had a cost"


BREACHED = BreachedEpoch(3, 90, 40, 30.0, 0.1, 0.01, 2, "40 of 90 training episodes of snapshots had a cost", 3)


def test_a_breach_is_told_in_full_once() -> None:
    stream = io.StringIO()
    view = PlainView(stream, interval_s=0.0)
    metrics = {**METRICS, "lease_refusal": BREACHED.reason}
    for _ in range(3):
        view.show(RunSnapshot(metrics=metrics, breaches=(BREACHED,)), PROCESSES)
    assert stream.getvalue().count("40 of 90 training episodes") == 1
    assert stream.getvalue().count("lease refused: epoch 3 is breached  candidates") == 3


def test_a_refusal_that_is_no_breach_is_shown_as_it_is() -> None:
    metrics = {**METRICS, "lease_refusal": "the training violations are not known yet"}
    shown = dict(figures(RunSnapshot(metrics=metrics, breaches=(BREACHED,))))
    assert shown["lease"] == "refused: the training violations are not known yet"


def test_decisions_come_in_their_order_whenever_each_is_heard_of() -> None:
    stream, promoted = io.StringIO(), Promoted(1, "canary: 0 of 90 episodes had a cost; and more", 5)
    view = PlainView(stream, interval_s=3600.0)
    view.show(RunSnapshot(metrics=METRICS), PROCESSES)
    for verdicts in ((), (APPROVED, REJECTED)):
        view.show(
            RunSnapshot(metrics=METRICS, verdicts=verdicts, promoted=(promoted,), breaches=(BREACHED,)), PROCESSES
        )
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()[1:]]
    assert [line.partition(":")[0] for line in lines] == [
        "leases breached (epoch 3)",
        "release 1 is promoted, to act everywhere",
        "candidate 7 approved as release 1",
        "candidate 9 rejected",
    ]


def test_an_evaluation_under_way_is_shown() -> None:
    under_way = {"version": 1200, "episodes_done": 64, "episodes_total": 1400}
    shown = dict(figures(RunSnapshot(metrics={**METRICS, "evaluation": under_way})))
    assert shown["evaluation"] == "candidate 1200, 64 of at most 1,400 episodes"
    assert "evaluation" not in dict(figures(RunSnapshot(metrics={**METRICS, "evaluation": None})))


def test_candidates_are_counted_by_what_became_of_them() -> None:
    shown = dict(figures(RunSnapshot(counts=Counts(1, 2, 3, 4))))
    assert shown["candidates"] == "1 approved, 2 rejected, 3 deferred, 4 void"


def test_plain_revocations_come_at_once_and_once() -> None:
    stream, first, second = io.StringIO(), Revoked(1, "first"), Revoked(2, "second")
    view = PlainView(stream, interval_s=3600.0)
    for revoked in ((), (first,), (first,), (first, second), (first, second)):
        view.show(RunSnapshot(metrics=METRICS, revoked=revoked), PROCESSES)
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()[1:]]
    assert lines == ["revoked: release 1 (first)", "revoked: release 2 (second)"]


def test_why_the_learner_waits_is_shown() -> None:
    metrics = {**METRICS, "sample_failure": "replay at h:1 failed: the disk is on fire (INTERNAL)"}
    shown = dict(figures(RunSnapshot(metrics=metrics)))["learner wait"]
    assert shown == "0.2 s; since the last batch: replay at h:1 failed: the disk is on fire (INTERNAL)"


def test_a_shard_that_is_down_is_named() -> None:
    snapshot = RunSnapshot(replay=replay_stats(), replay_down=("replay-1", "replay-3"))
    assert dict(figures(snapshot))["replay"] == "1,234 records, 6 MB; down: replay-1, replay-3"
    assert dict(figures(RunSnapshot(replay_down=("replay-1",))))["replay"] == "-"


def test_a_mean_over_nothing_is_unknown() -> None:
    assert dict(figures(RunSnapshot(metrics={"return_mean": None})))["return"] == "-"


def test_plain_lines_come_at_their_interval() -> None:
    stream = io.StringIO()
    with PlainView(stream, interval_s=3600.0) as view:
        for _ in range(3):
            view.show(RunSnapshot(elapsed_s=1.5, metrics=METRICS), PROCESSES)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("[    1.5 s] env steps 9,000  steps/s 2,500  return 12.50")


def test_plain_start_up_names_the_processes() -> None:
    stream = io.StringIO()
    PlainView(stream).show(RunSnapshot(), PROCESSES)
    assert stream.getvalue() == "[    0.0 s] starting: learner running, replay starting\n"


def test_plain_verdicts_and_restarts_come_at_once_and_once() -> None:
    stream = io.StringIO()
    view = PlainView(stream, interval_s=3600.0)
    view.show(RunSnapshot(metrics=METRICS), PROCESSES)
    restarted = [ProcessLine("learner", "starting", 3, 1)]
    for verdicts in ((APPROVED,), (APPROVED, REJECTED), (APPROVED, REJECTED)):
        view.show(RunSnapshot(metrics=METRICS, verdicts=verdicts), restarted)
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()[1:]]
    assert lines == [
        "learner started again (restart 1)",
        "candidate 7 approved as release 1: return 480.00 [470.00, 490.00], 0 of 100 episodes with a violation",
        "candidate 9 rejected: its returns fell",
    ]


def test_the_last_plain_line_comes_whatever_the_interval() -> None:
    stream = io.StringIO()
    view = PlainView(stream, interval_s=3600.0)
    view.show(RunSnapshot(metrics=METRICS), PROCESSES)
    view.finish(RunSnapshot(metrics={**METRICS, "updates": 41}, verdicts=(APPROVED,)), PROCESSES)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "candidate 7 approved" in lines[1]
    assert "updates 41" in lines[2]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[IO[str], int]]:
    """A stream onto a pseudo-terminal, and the descriptor to read what was drawn."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield stream, ours
    os.close(ours)


def test_the_live_view_draws_figures_processes_and_verdicts(terminal: tuple[IO[str], int]) -> None:
    stream, descriptor = terminal
    view = make_view(stream, "cartpole")
    assert isinstance(view, LiveView)
    with view:
        snapshot = RunSnapshot(
            metrics=METRICS, replay=replay_stats(), verdicts=(APPROVED, REJECTED), breaches=(BREACHED,)
        )
        view.show(snapshot, [ProcessLine("learner", "running", 1, 2)])
        view.show(RunSnapshot(), [ProcessLine("safety", "starting", 2, 0)])
        view.finish(snapshot, PROCESSES)
    stream.flush()
    drawn = ""
    while select.select([descriptor], [], [], 0.2)[0]:
        drawn += os.read(descriptor, 1 << 16).decode(errors="replace")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "temper train cartpole" in text
    assert "9,000" in text
    assert "learner running (restarted 2x)" in text
    assert "candidate 9 rejected: its returns fell" in text
    assert "leases breached (epoch 3)" in text
    # The second call came too soon to be drawn, the last picture is always, and the cursor is given back.
    assert "safety starting" not in text
    assert "replay starting" in text
    assert drawn.rstrip().endswith("\x1b[?25h")


def test_anything_but_a_terminal_gets_plain_lines() -> None:
    assert isinstance(make_view(io.StringIO(), "cartpole"), PlainView)
