"""One whole run with fake processes: what it leaves behind, and how it ends when they misbehave."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import local_run
from launch.child import ChildSpec
from launch.errors import BadInput, RunFailed
from launch.local_run import LocalRun
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from launch.topology import Limits
from launch.view import PlainView
from tests.launch import made_up_run
from tests.launch.supervision import FAKE_CHILD


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    """A run that has begun, its lock held."""
    with RunDirectory(tmp_path / "run") as held:
        held.begin(make_recipe("catch"))
        yield held


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this run makes its socket directory."""
    place = tmp_path / "sockets"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def run(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, **behaviours: str) -> tuple[object, str]:
    specs = [
        ChildSpec(
            name,
            [sys.executable, "-S", str(FAKE_CHILD), *behaviour.split()],
            ends_run=name == "learner",
            restarts_max=1,
        )
        for name, behaviour in behaviours.items()
    ]
    monkeypatch.setattr(local_run, "processes_of", lambda *_, **__: specs)
    # Nobody answers here, and the answer would be None anyway.
    monkeypatch.setattr(local_run, "FINAL_CALL_S_MAX", 0.05)
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
    assert json.loads(directory.paths.summary.read_text()) == summary
    assert not directory.paths.processes.exists()
    assert list(sockets.iterdir()) == []
    assert "starting: learner" in shown
    assert (directory.paths.logs / "learner.log").read_text() == "temper: told to end with 0\n"


@pytest.mark.parametrize(("behaviour", "error"), [("exit 2", BadInput), ("exit 1", RunFailed)])
def test_a_failed_run_stops_the_others_and_writes_no_summary(
    directory: RunDirectory,
    sockets: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        run(directory, monkeypatch, learner="serve", replay=behaviour)
    assert not directory.paths.summary.exists()
    assert not directory.paths.processes.exists()
    assert list(sockets.iterdir()) == []
