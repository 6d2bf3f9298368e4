"""Whether a sweep may begin or go on in a directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launch.config_file import read_config
from launch.recipes import make_recipe
from launch.sweep.directory import SweepDirectory, SweepDirectoryError
from launch.sweep.grid import Setting
from launch.sweep.plan import Plan, PlanError, read_plan, write_plan

CATCH = make_recipe("catch")
PLAN = Plan("catch", (Setting("a", ("learner.batch_size=8",)), Setting("b", ("learner.batch_size=16",))), (1, 2), 500)


def test_a_sweep_begins_once_and_goes_on_as_itself(tmp_path: Path) -> None:
    with SweepDirectory(tmp_path / "s") as directory:
        directory.begin(PLAN, CATCH)
        assert read_plan(directory.plan) == PLAN
        assert read_config(directory.base) == CATCH
    with SweepDirectory(tmp_path / "s") as directory:
        directory.resume(PLAN, CATCH)
        with pytest.raises(SweepDirectoryError, match="holds a sweep already: continue it with --resume"):
            directory.begin(PLAN, CATCH)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": "cartpole"}, "differs in the recipe:"),
        ({"settings": PLAN.settings[:1]}, "differs in --vary:"),
        ({"seeds": (1, 2, 3)}, "differs in the seeds:"),
        ({"env_steps_max": 501, "seeds": (2,)}, "differs in the seeds, --max-env-steps:"),
    ],
)
def test_another_sweep_is_not_resumed(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with SweepDirectory(tmp_path / "s") as directory:
        directory.begin(PLAN, CATCH)
        with pytest.raises(SweepDirectoryError, match=said):
            directory.resume(dataclasses.replace(PLAN, **change), CATCH)  # type: ignore[arg-type]


def test_nor_one_whose_shared_settings_differ(tmp_path: Path) -> None:
    with SweepDirectory(tmp_path / "s") as directory:
        directory.begin(PLAN, CATCH)
        other = dataclasses.replace(CATCH, stop=dataclasses.replace(CATCH.stop, target_return=0.5))
        with pytest.raises(SweepDirectoryError, match="differs in a setting that all runs share"):
            directory.resume(PLAN, other)


def test_a_directory_with_other_things_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with (
        SweepDirectory(tmp_path) as directory,
        pytest.raises(SweepDirectoryError, match="not empty and holds no sweep"),
    ):
        directory.begin(PLAN, CATCH)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with SweepDirectory(tmp_path / "new") as directory, pytest.raises(SweepDirectoryError, match="no sweep to resume"):
        directory.resume(PLAN, CATCH)
    assert not (tmp_path / "new").exists()


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    with SweepDirectory(tmp_path / "s"), pytest.raises(SweepDirectoryError, match="is in use by another sweep"):
        SweepDirectory(tmp_path / "s")


def test_every_run_is_judged_by_the_suite_as_it_was(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text("was = 1\n")
    base = dataclasses.replace(CATCH, safety=dataclasses.replace(CATCH.safety, suite=str(suite)))
    with SweepDirectory(tmp_path / "s") as directory:
        directory.begin(PLAN, base)
        suite.write_text("has become = 2\n")
        own = Path(read_config(directory.base).safety.suite)
        assert (own.parent, own.read_text()) == (directory.root, "was = 1\n")
        directory.resume(PLAN, base)
        with pytest.raises(SweepDirectoryError, match="a setting that all runs share"):
            directory.resume(PLAN, CATCH)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "recipe": "catch"}'])
def test_what_is_no_plan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError):
        read_plan(path)
    write_plan(PLAN, path)
    assert read_plan(path) == PLAN
