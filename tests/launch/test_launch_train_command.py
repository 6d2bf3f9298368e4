"""`temper train` up to the first process: which settings a run gets, and which directory; the run itself is a fake."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.arguments import Train
from launch.commands import train
from launch.config import RunConfig
from launch.config_file import read_config, write_config
from launch.errors import RunDirectoryError, RunFailed
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory, holder_of
from launch.run_paths import RunPaths
from launch.summary import compose, write_summary
from launch.topology import Limits

RunTrain = Callable[..., int]


class FakeRun:
    """Stands where LocalRun does: notes what it was asked for, and ends as it is told to."""

    asked: list[dict[str, Any]]
    signal: int | None
    error: Exception | None

    def __init__(
        self, config: RunConfig, directory: RunDirectory, run_id: str, limits: Limits, *, resume: bool
    ) -> None:
        self._paths = directory.paths
        assert holder_of(self._paths) is not None
        asked = {"config": config, "root": directory.paths.root, "run_id": run_id, "limits": limits, "resume": resume}
        type(self).asked.append(asked)

    def run(self, view: object) -> tuple[dict[str, Any], int | None]:
        if self.error is not None:
            raise self.error
        summary = compose("catch", {}, None, None, None)
        write_summary(summary, self._paths.summary)
        return summary, self.signal


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeRun]:
    """The run of these tests, in a working directory of its own."""
    FakeRun.asked, FakeRun.signal, FakeRun.error = [], None, None
    monkeypatch.setattr(train, "LocalRun", FakeRun)
    monkeypatch.setattr(train, "check", lambda config: None)
    monkeypatch.chdir(tmp_path)
    return FakeRun


def test_a_new_run_has_its_recipe_and_what_was_set(fake: type[FakeRun], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Train("catch", (("seed=3",), ("learner.batch_size=16", "stop.target_return=inf")), "out", max_seconds=5)
    assert train.run(arguments) == 0
    (asked,) = fake.asked
    recipe = make_recipe("catch")
    expected = replace(
        recipe,
        seed=3,
        learner=replace(recipe.learner, batch_size=16),
        stop=replace(recipe.stop, target_return=float("inf")),
    )
    assert asked["config"] == expected == read_config(Path("out/config.toml"))
    assert (asked["root"], asked["limits"], asked["resume"]) == (Path("out").absolute(), Limits(5.0, 0), False)
    printed = capsys.readouterr().out
    assert printed.startswith(f"temper train catch: writing to {Path('out').absolute()}\n")
    assert str(Path("out/summary.json").absolute()) in printed
    assert holder_of(RunPaths(Path("out"))) is None


def test_without_a_directory_it_makes_one_under_runs(fake: type[FakeRun]) -> None:
    train.run(Train("catch"))
    (made,) = Path("runs").iterdir()
    assert fake.asked[0]["root"] == made.absolute()


def test_a_run_goes_on_with_its_own_settings_whatever_its_recipe_has_become(fake: type[FakeRun]) -> None:
    train.run(Train("catch", (("seed=3", "learner.learning_rate=0.5"),), "out"))
    train.run(Train("catch", (("learner.learning_rate=0.25",),), "out", resume=True))
    first, second = fake.asked
    learner = replace(first["config"].learner, learning_rate=0.25)
    assert second["config"] == replace(first["config"], learner=learner) == read_config(Path("out/config.toml"))
    assert (second["run_id"], second["resume"]) == (first["run_id"], True)


def test_a_run_is_repeated_from_its_file_and_resumed_with_it(fake: type[FakeRun]) -> None:
    config = replace(make_recipe("catch"), seed=11)
    write_config(config, Path("mine.toml"))
    train.run(Train("mine.toml", run_dir="out"))
    train.run(Train("out/config.toml", run_dir="copy"))
    train.run(Train("out/config.toml", run_dir="out", resume=True))
    assert [asked["config"] for asked in fake.asked] == [config] * 3
    assert len({asked["run_id"] for asked in fake.asked}) == 2


def test_a_run_is_not_begun_twice(fake: type[FakeRun]) -> None:
    train.run(Train("catch", run_dir="out"))
    with pytest.raises(RunDirectoryError, match="holds a finished run: continue it with --resume"):
        train.run(Train("catch", run_dir="out"))
    assert len(fake.asked) == 1


def test_a_signal_is_the_exit_status(fake: type[FakeRun]) -> None:
    fake.signal = signal.SIGTERM
    assert train.run(Train("catch", run_dir="out")) == 143


def test_a_failed_run_gives_its_directory_back_and_can_be_resumed(fake: type[FakeRun]) -> None:
    fake.error = RunFailed("the learner kept dying")
    with pytest.raises(RunFailed):
        train.run(Train("catch", run_dir="out"))
    assert holder_of(RunPaths(Path("out"))) is None
    fake.error = None
    assert train.run(Train("catch", run_dir="out", resume=True)) == 0
