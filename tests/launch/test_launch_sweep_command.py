"""`temper sweep` up to the first run: what it asks for, and what it refuses before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launch.cli import main
from launch.commands import sweep
from launch.recipes import make_recipe
from launch.sweep.local_sweep import parallel_runs
from launch.sweep.results import SettingResult
from launch.sweep.scheduler import FINISHED, Outcome, Scheduler, Task


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Task]:
    """The tasks that a scheduler was given; it runs none, and says that all have finished."""
    tasks: list[Task] = []

    def note(_self: Scheduler, given: Sequence[Task], *, on_end: Callable[[], None]) -> dict[str, Outcome]:
        tasks.extend(given)
        on_end()
        return {task.name: Outcome(FINISHED) for task in given}

    monkeypatch.setattr(Scheduler, "run", note)
    monkeypatch.setattr(sweep, "check", lambda config: None)
    monkeypatch.chdir(tmp_path)
    return tasks


def test_a_run_for_each_setting_and_seed(asked: list[Task], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "sweep",
        "catch",
        "--sweep-dir",
        "s",
        "--seed-list",
        "4,7",
        "--vary",
        "learner.learning_rate=1e-3,5e-4",
    ]
    assert main([*arguments, "--set", "learner.batch_size=8", "--max-env-steps", "99"]) == 0
    root = Path("s").absolute()
    assert [task.name for task in asked] == [
        f"learning_rate={rate}/seed-{seed}" for seed in (4, 7) for rate in ("0.001", "0.0005")
    ]
    first = asked[0]
    assert first.paths.root == root / "learning_rate=0.001" / "seed-4"
    assert first.log == root / "learning_rate=0.001" / "seed-4.log"
    assert list(first.command[4:]) == [
        *("train", str(root / "base.toml"), "--run-dir", str(first.paths.root)),
        *("--set", "learner.learning_rate=0.001", "seed=4", "--max-env-steps", "99"),
    ]
    assert "batch_size = 8" in (root / "base.toml").read_text()
    assert str(root / "sweep.json") in capsys.readouterr().out
    assert json.loads((root / "sweep.json").read_text())["recipe"] == "catch"


def test_json_is_all_of_standard_output(asked: list[Task], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "catch", "--sweep-dir", "s", "--json", "--seeds", "2"]) == 0
    assert len(asked) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(Path("s/sweep.json").read_text())
    assert "2 runs of catch" in printed.err


def test_a_failed_run_is_the_exit_status(
    asked: list[Task], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def results(_results: Sequence[SettingResult]) -> list[str]:
        return ["base/seed-2 failed: it kept dying"]

    monkeypatch.setattr(sweep, "failures", results)
    assert main(["sweep", "catch", "--sweep-dir", "s"]) == 1
    said = "temper: base/seed-2 failed: it kept dying; run them again with --resume\n"
    assert capsys.readouterr().err == said
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "no recipe 'nosuch'"),
        (["catch", "--vary", "learner.lerning_rate=1"], "did you mean 'learner.learning_rate'"),
        (["catch", "--vary", "learner.learning_rate=1,-1"], "is out of range"),
        (["catch", "--vary", "learner.learning_rate="], "the grid would be empty"),
        (["catch", "--seeds", "0"], "--seeds 0 is outside"),
        (["catch", "--seed-list", "a"], "is not an integer"),
        (["catch", "--parallel", "-1"], "--parallel -1 is negative"),
        (["catch", "--max-env-steps", "-1"], "--max-env-steps -1 is negative"),
        (["catch", "--set", "seed=3"], "--seeds or --seed-list"),
        (["catch", "--vary", "stop.target_return=1,inf"], "the runs would never end"),
        (["catch", "--resume"], "no sweep to resume"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    asked: list[Task], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments, "--sweep-dir", "s"]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert (printed.out, asked, Path("s").exists()) == ("", [], False)


def test_a_directory_of_another_sweep_is_refused(asked: list[Task], capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "catch", "--sweep-dir", "s", "--seeds", "1"])
    assert main(["sweep", "catch", "--sweep-dir", "s", "--seeds", "1"]) == 2
    assert main(["sweep", "catch", "--sweep-dir", "s", "--seeds", "2", "--resume"]) == 2
    assert "holds another sweep, which differs in the seeds" in capsys.readouterr().err
    assert main(["sweep", "catch", "--sweep-dir", "s", "--seeds", "1", "--resume"]) == 0
    # The plan of the first, and no other, was run.
    assert len(asked) == 2


def test_as_many_runs_at_once_as_asked_and_at_least_one() -> None:
    catch = make_recipe("catch")
    assert parallel_runs(7, catch) == 7
    assert parallel_runs(0, catch) >= 1
