"""`temper status` over made-up run directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.arguments import Status
from launch.commands import status as command
from launch.errors import RunDirectoryError
from launch.process_list import write_process_list
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from launch.run_paths import RunPaths
from launch.status import describe, gather
from launch.summary import compose, write_summary
from launch.topology import Addresses
from launch.verdicts import Counts
from tests.launch import made_up_run
from tests.launch.supervision import MakeChild

COUNTED = {"approved": 0, "rejected": 3, "deferred": 0, "void": 0}


def test_an_ended_run_shows_its_summary(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    write_summary(compose("catch", made_up_run.FINAL, None, Counts(0, 3), None), paths.summary)
    status = gather(paths.root)
    assert (status["state"], status["summary"]["candidates"]) == ("ended", COUNTED)
    assert describe(status, paths.root).startswith("catch: ended\ncatch: 10,000 environment steps")


@pytest.mark.parametrize("with_metrics", [False, True])
def test_an_interrupted_run_says_how_far_it_came(tmp_path: Path, with_metrics: bool) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    if with_metrics:
        made_up_run.add_metrics(paths)
    status = gather(paths.root)
    reached = "after about 9,000 environment steps" if with_metrics else "before the first update"
    assert status["state"] == "interrupted"
    assert describe(status, paths.root) == f"catch: interrupted {reached}; continue with --resume"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "run")
    made_up_run.add_metrics(paths)
    paths.failure.write_text(json.dumps({"reason": "learner gave up: breached 5 times", "time_ns": 7}))
    status = gather(paths.root)
    assert (status["state"], status["reason"]) == ("failed", "learner gave up: breached 5 times")
    assert describe(status, paths.root).splitlines() == [
        "catch: failed after about 9,000 environment steps; continue with --resume",
        "reason: learner gave up: breached 5 times",
    ]
    with RunDirectory(paths.root) as directory:
        directory.resume(make_recipe("catch"))
    assert gather(paths.root)["state"] == "interrupted", "what stopped an earlier start says nothing of this one"


def test_a_running_run_is_asked_even_when_its_services_are_down(
    tmp_path: Path, socket_directory: Path, make_child: MakeChild
) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        run_id = directory.begin(make_recipe("catch"))
        paths = directory.paths
        made_up_run.add_metrics(paths)
        addresses = Addresses.in_directory(socket_directory)
        write_process_list(paths, run_id, 5, addresses, [make_child("serve", name="learner")])
        status = gather(paths.root)
    assert status["state"] == "running"
    assert status["metrics"] == made_up_run.METRICS
    text = describe(status, paths.root)
    assert "steps/s      2,500" in text
    assert status["replay_down"] == []
    assert "process      learner stopped, pid None, restarts 0" in text


def test_a_run_that_has_only_just_begun(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(make_recipe("catch"))
        status = gather(directory.paths.root)
    assert (status["state"], status["processes"], status["figures"]) == ("running", [], {})


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        gather(tmp_path)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_lines_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    paths: RunPaths = made_up_run.begin(tmp_path / "run")
    assert command.run(Status(paths.root, as_json)) == 0
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out)["state"] == "interrupted"
    else:
        assert out.startswith("catch: interrupted")
