"""Runs side by side: real processes that end, fail, are killed and stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.run_paths import RunPaths
from launch.sweep.results import has_ended
from launch.sweep.scheduler import FAILED, FINISHED, RESTARTS_MAX, UNFINISHED, Outcome, Scheduler, Task

FAKE_RUN = Path(__file__).with_name("fake_run.py")


def task(root: Path, behaviour: str, name: str = "run") -> Task:
    paths = RunPaths(root / name)
    command = [sys.executable, "-S", str(FAKE_RUN), str(paths.root), behaviour]
    return Task(name, paths, root / f"{name}.log", command, lambda: has_ended(paths), lambda: "well")


def starts(root: Path, name: str = "run") -> list[str]:
    return (root / name / "starts").read_text().splitlines()


class Story:
    """What was said; for each line that begins with a word, what to do then."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.reactions: dict[str, Callable[[str], None]] = {}

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        for words, reaction in self.reactions.items():
            if words in line:
                reaction(line)


def kill_when_up(root: Path) -> Callable[[str], None]:
    """Kills a run that was just started, once it has made its directory."""

    def react(line: str) -> None:
        pid, before = int(line.rpartition(" ")[2]), len(starts(root)) if (root / "run" / "starts").exists() else 0

        def kill() -> None:
            for _ in range(1000):
                if (root / "run" / "starts").exists() and len(starts(root)) > before:
                    break
                threading.Event().wait(0.01)
            os.kill(pid, signal.SIGKILL)

        threading.Thread(target=kill).start()

    return react


def test_all_run_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    story = Story()
    ended: list[int] = []
    behaviours = {"a": "end", "b": "fail", "c": "end"}
    scheduler = Scheduler(2, (), story)
    outcomes = scheduler.run(
        [task(tmp_path, what, name) for name, what in behaviours.items()], on_end=lambda: ended.append(1)
    )
    assert outcomes == {
        "a": Outcome(FINISHED),
        "b": Outcome(FAILED, "the learner kept dying"),
        "c": Outcome(FINISHED),
    }
    assert len(ended) == 3
    assert "b: failed: the learner kept dying" in story.lines
    assert scheduler.signal is None


def test_no_more_than_so_many_at_once(tmp_path: Path) -> None:
    now, most = 0, 0

    def count(line: str) -> None:
        nonlocal now, most
        now += ("started" in line) - ("finished" in line)
        most = max(most, now)

    Scheduler(2, (), count).run([task(tmp_path, "end", str(index)) for index in range(5)])
    assert (now, most) == (0, 2)


def test_a_finished_run_is_kept_and_an_unfinished_one_continued(tmp_path: Path) -> None:
    Scheduler(1, (), Story()).run([task(tmp_path, "end", "a"), task(tmp_path, "fail", "b")])
    story = Story()
    Scheduler(1, (), story).run([task(tmp_path, "end", "a"), task(tmp_path, "end", "b")])
    assert starts(tmp_path, "a") == [""]
    assert starts(tmp_path, "b") == ["", "--resume"]
    assert story.lines[0] == "1 of 2 runs are finished already and are kept"
    assert story.lines[-1].startswith("b: finished (2 of 2): well")


def test_a_killed_run_is_continued_and_given_up_in_the_end(tmp_path: Path) -> None:
    story = Story()
    story.reactions["as process"] = kill_when_up(tmp_path)
    outcomes = Scheduler(1, (), story).run([task(tmp_path, "serve")])
    assert outcomes["run"].state == FAILED
    assert outcomes["run"].why == f"was killed {RESTARTS_MAX + 1} times, the last time by SIGKILL"
    assert starts(tmp_path) == ["", *["--resume"] * RESTARTS_MAX]


def test_a_run_ended_by_somebody_else_has_not_finished(tmp_path: Path) -> None:
    story = Story()
    story.reactions["as process"] = lambda line: threading.Timer(
        0.5, os.kill, (int(line.rpartition(" ")[2]), signal.SIGTERM)
    ).start()
    outcomes = Scheduler(1, (), story).run([task(tmp_path, "serve")])
    assert outcomes["run"].state == FAILED


@pytest.mark.parametrize(("behaviour", "signals"), [("serve", 1), ("stubborn", 2)])
def test_a_signal_ends_all_runs_and_a_second_one_kills_them(tmp_path: Path, behaviour: str, signals: int) -> None:
    story = Story()
    both = threading.Event()

    def send(_line: str) -> None:
        if not both.is_set() and sum("as process" in line for line in story.lines) == 2:
            both.set()
            for number in range(signals):
                threading.Timer(1.0 + number, os.kill, (os.getpid(), signal.SIGTERM)).start()

    story.reactions["as process"] = send
    scheduler = Scheduler(2, (), story)
    tasks = [task(tmp_path, behaviour, name) for name in ("a", "b", "c")]
    with scheduler.handling_signals():
        outcomes = scheduler.run(tasks)
    assert scheduler.signal == signal.SIGTERM
    assert set(outcomes.values()) == {Outcome(UNFINISHED)}
    assert not (tmp_path / "c").exists()
    for line in story.lines[:2]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.rpartition(" ")[2]), 0)


def test_when_nobody_listens_any_more_the_runs_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[OSError] = []
    monkeypatch.setattr("launch.sweep.scheduler.discard_output", told.append)

    def broken(_line: str) -> None:
        raise BrokenPipeError

    scheduler = Scheduler(1, (), broken)
    outcomes = scheduler.run([task(tmp_path, "serve")])
    assert (scheduler.signal, len(told)) == (signal.SIGPIPE, 1)
    assert outcomes["run"] == Outcome(UNFINISHED)
