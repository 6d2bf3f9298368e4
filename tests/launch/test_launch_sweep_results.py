"""What runs came to, and the means of it: against scipy, and from run directories in every state."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from launch.run_paths import RunPaths
from launch.sweep.grid import Member, Setting
from launch.sweep.results import Estimate, RunResult, SettingResult, as_json, estimate, has_ended, result_of
from launch.sweep.scheduler import FAILED, FINISHED, Outcome
from launch.sweep.table import table

SETTING = Setting("learning_rate=0.001", ("learner.learning_rate=0.001",))


def write_run(
    root: Path, reason: str | None, *, steps: int = 100, lines: list[dict[str, object]] | None = None
) -> RunPaths:
    """A run as it lies there; reason None: it has not come to a summary."""
    paths = RunPaths(root)
    paths.final.parent.mkdir(parents=True)
    paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines or []))
    if reason is not None:
        paths.final.write_text(json.dumps({"env_steps": steps, "wall_s": 2.0, "stopped_because": reason}))
        evaluation = {"return_mean": 5.0, "episodes": 64}
        paths.summary.write_text(json.dumps({"evaluation": evaluation, "candidates": {"approved": 3, "rejected": 1}}))
    return paths


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_the_interval_is_students(count: int) -> None:
    values = np.random.default_rng(count).normal(3.0, 2.0, count)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    found = estimate(values.tolist())
    assert found.count == count
    assert [found.mean, found.low, found.high] == pytest.approx([values.mean(), low, high])


def test_too_few_values_have_no_interval() -> None:
    assert estimate([]) == estimate([None, math.nan]) == Estimate(0)
    assert estimate([None, 2.0]) == Estimate(1, 2.0)
    assert estimate([2.0, 2.0]) == Estimate(2, 2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("reason", "ended"), [("target", True), ("env_steps", True), ("seconds", True), ("signal", False), (None, False)]
)
def test_a_run_has_ended_by_its_own_end_alone(tmp_path: Path, reason: str | None, ended: bool) -> None:
    assert has_ended(write_run(tmp_path / "run", reason)) is ended


def test_a_run_that_died_before_its_last_word_has_not_ended(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", "target", lines=[{"env_steps": 100, "time_s": 1.0}])
    paths.final.unlink()
    assert not has_ended(paths)
    assert not has_ended(RunPaths(tmp_path / "nothing"))


def test_a_run_is_what_its_files_say(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"env_steps": 10, "time_s": 0.5, "candidate": {"approved": False, "return_mean": 9.0}},
        {"env_steps": 20, "time_s": 1.0, "candidate": {"approved": True, "return_mean": 4.0}},
        {"env_steps": 30, "time_s": 1.5, "candidate": {"approved": True, "return_mean": 8.0}},
        {"env_steps": 40, "time_s": 2.0, "candidate": {"approved": True, "return_mean": 9.0}},
    ]
    paths = write_run(tmp_path / "run", "env_steps", lines=lines)
    result = result_of(Member(SETTING, 2), paths, Outcome(FINISHED), 8.0)
    assert result == RunResult(
        *(2, "learning_rate=0.001/seed-2", FINISHED, "", 5.0, 64, 100, 2.0, 30, 1.5, 3, "env_steps")
    )
    assert result_of(Member(SETTING, 2), paths, Outcome(FINISHED), math.inf).target_env_steps is None
    nothing = result_of(Member(SETTING, 1), RunPaths(tmp_path / "none"), Outcome(FAILED, "why"), 8.0)
    assert nothing == RunResult(1, "learning_rate=0.001/seed-1", FAILED, "why")


def test_a_canary_reached_the_target_when_the_run_ended(tmp_path: Path) -> None:
    result = result_of(Member(SETTING, 1), write_run(tmp_path / "run", "target"), Outcome(FINISHED), 8.0)
    assert (result.target_env_steps, result.target_wall_s) == (100, 2.0)


def test_means_are_of_the_finished_runs_that_have_the_figure() -> None:
    runs = (
        RunResult(1, "a/seed-1", FINISHED, return_mean=1.0, env_steps=10, wall_s=1.0, stopped_because="env_steps"),
        RunResult(2, "a/seed-2", FINISHED, return_mean=3.0, env_steps=20, wall_s=2.0, stopped_because="env_steps"),
        RunResult(3, "a/seed-3", FINISHED, env_steps=30, wall_s=3.0, stopped_because="env_steps"),
        RunResult(4, "a/seed-4", FAILED, "it kept dying", return_mean=99.0),
    )
    result = SettingResult(Setting("a"), runs)
    assert (result.estimate("return_mean").mean, result.estimate("return_mean").count) == (2.0, 2)
    assert result.estimate("env_steps").count == result.finished == 3
    assert result.estimate("target_wall_s") == Estimate(0)
    shown = table([result]).splitlines()
    assert shown[1].split()[:6] == ["a", "3/4", "2", "[-10.71,", "14.71]", "of"]
    assert [line.strip() for line in shown[2:]] == [
        "seed 1: return 1, 10 steps in 1.0 s, ended by env_steps",
        "seed 2: return 3, 20 steps in 2.0 s, ended by env_steps",
        "seed 3: no release, 30 steps in 3.0 s, ended by env_steps",
        "seed 4: failed: it kept dying",
    ]
    told = as_json("catch", [result], target_return=1.0)["settings"][0]
    assert (told["finished"], told["return_mean"]["count"], told["runs"][3]["why"]) == (3, 2, "it kept dying")
