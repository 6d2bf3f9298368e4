"""One whole run with fake processes: what it leaves behind, and how it ends when they misbehave."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from launch import local_run
from launch.child import ChildSpec
from launch.errors import BadInput, RunFailed
from launch.local_run import LocalRun
from launch.monitor import RunSnapshot
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from launch.topology import Limits
from launch.view import PlainView, ProcessLine
from tests.launch import made_up_run
from tests.launch.supervision import FAKE_CHILD, Eventually

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    """A run that has begun, its lock held."""
    with RunDirectory(tmp_path / "run") as held:
        held.begin(make_recipe("catch"))
        yield held


@pytest.fixture
def sockets(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this run makes its socket directory."""
    place = socket_directory
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def specs_of(**behaviours: str) -> list[ChildSpec]:
    return [
        ChildSpec(
            name,
            [sys.executable, "-S", str(FAKE_CHILD), *behaviour.split()],
            ends_run=name == "learner",
            restarts_max=1,
        )
        for name, behaviour in behaviours.items()
    ]


@contextlib.contextmanager
def shown_run(root: Path, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """shown_run.py with a learner that serves; killed at the end, and its child with it."""
    command = [sys.executable, "-m", "tests.launch.shown_run", str(root), *arguments, "learner=serve"]
    process = subprocess.Popen(command, cwd=REPOSITORY, **streams)
    try:
        yield process
    finally:
        family = [process, *(child for child in _children(process.pid))]
        for member in family:
            member.kill()
        process.wait(10.0)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def run(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, **behaviours: str) -> tuple[object, str]:
    monkeypatch.setattr(local_run, "processes_of", lambda *_, **__: specs_of(**behaviours))
    stream = io.StringIO()
    one = LocalRun(make_recipe("catch"), directory, "run-1", Limits(), resume=False)
    return one.run(PlainView(stream)), stream.getvalue()


def test_it_ends_with_a_summary_and_nothing_left(
    directory: RunDirectory, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_run.add_final(directory.paths)
    made_up_run.add_releases(directory.paths, 1)
    result, shown = run(directory, monkeypatch, learner="exit 0", actors="serve")
    assert isinstance(result, tuple)
    summary, signal_number = result
    assert signal_number is None
    assert summary["release"]["version"] == 10
    assert summary["revoked_releases"] == []
    assert json.loads(directory.paths.summary.read_text()) == summary
    assert not directory.paths.processes.exists()
    assert list(sockets.iterdir()) == []
    assert "starting: learner" in shown
    assert (directory.paths.logs / "learner.log").read_text() == "temper: told to end with 0\n"


def test_a_reader_that_goes_away_ends_the_run_in_order(tmp_path: Path, eventually: Eventually) -> None:
    """As in `temper train RECIPE | head`: the learner has time for its checkpoint, and there is a summary."""
    log = tmp_path / "run" / "logs" / "learner.log"
    with shown_run(tmp_path / "run", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        eventually(lambda: log.exists() and "ready" in log.read_text())
        process.stdout.close()
        assert process.wait(20.0) == 128 + signal.SIGPIPE
    assert log.read_text().endswith("temper fake ended in order\n")
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_terminal_that_is_closed_ends_the_run_in_order(tmp_path: Path, eventually: Eventually) -> None:
    log = tmp_path / "run" / "logs" / "learner.log"
    ours, theirs = pty.openpty()
    try:
        with shown_run(tmp_path / "run", "terminal", stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            eventually(lambda: log.exists() and "ready" in log.read_text())
            eventually(lambda: "running" in os.read(ours, 1 << 16).decode(errors="replace"))
            os.close(ours)
            ours = -1
            assert process.wait(20.0) == 128 + signal.SIGHUP
    finally:
        if ours >= 0:
            os.close(ours)
    assert log.read_text().endswith("temper fake ended in order\n")
    assert (tmp_path / "run" / "summary.json").exists()


class Removing(PlainView):
    """Takes the run's directory away as soon as the run is shown."""

    def __init__(self, root: Path) -> None:
        super().__init__(io.StringIO())
        self._root = root

    def show(self, snapshot: RunSnapshot, processes: Sequence[ProcessLine]) -> None:
        shutil.rmtree(self._root, ignore_errors=True)


def test_a_run_directory_that_is_taken_away_fails_the_run_in_one_line(
    directory: RunDirectory, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_run, "processes_of", lambda *_, **__: specs_of(learner="exit 0", actors="serve"))
    one = LocalRun(make_recipe("catch"), directory, "run-1", Limits(), resume=False)
    with pytest.raises(RunFailed, match=r"run cannot go on: .*No such file or directory"):
        one.run(Removing(directory.paths.root))
    assert list(sockets.iterdir()) == []


def test_a_full_disk_is_named_as_the_reason(
    directory: RunDirectory, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(RunFailed, match=r"the disk of .* is full: make room, and --resume"):
        run(directory, monkeypatch, learner="exit 1")


@pytest.mark.parametrize(("behaviour", "error"), [("exit 2", BadInput), ("exit 1", RunFailed)])
def test_a_failed_run_stops_the_others_and_writes_no_summary(
    directory: RunDirectory,
    sockets: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
    error: type[Exception],
) -> None:
    with pytest.raises(error) as raised:
        run(directory, monkeypatch, learner="serve", replay=behaviour)
    assert not directory.paths.summary.exists()
    failure = json.loads(directory.paths.failure.read_text())
    assert failure["reason"] == str(raised.value)
    assert failure["time_ns"] > 0
    assert not directory.paths.processes.exists()
    assert list(sockets.iterdir()) == []
