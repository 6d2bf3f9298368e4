"""Whose a run directory is: locks between real processes, new runs, resumed runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch.config_file import read_config
from launch.errors import RunDirectoryError
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory, holder_of
from launch.run_paths import RunPaths, default_run_directory, require_run_directory
from policies.signing import KeyFileError
from tests.launch.supervision import Eventually, MakeChild

REPOSITORY = Path(__file__).resolve().parents[2]

HOLD = """
import sys, time
from pathlib import Path
from launch.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path/run."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_directory_in_use_names_its_process(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(RunDirectoryError, match=f"in use by process {holder.pid}"):
        RunDirectory(tmp_path / "run")
    assert holder_of(RunPaths(tmp_path / "run")) == str(holder.pid)


def test_a_killed_holder_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert holder_of(RunPaths(tmp_path / "run")) is None
    with RunDirectory(tmp_path / "run") as directory:
        assert directory.paths.lock.read_text() == f"{os.getpid()}\n"


def test_a_child_that_inherited_the_lock_keeps_it(
    tmp_path: Path, make_child: MakeChild, eventually: Eventually
) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(make_recipe("catch"))
        child = make_child("serve", descriptors=(directory.lock_descriptor,), ready_s_max=10.0)
        child.start()
        eventually(lambda: child.poll() or child.ready)
    with pytest.raises(RunDirectoryError, match="or by one that it started"):
        RunDirectory(tmp_path / "run")
    child.kill()
    RunDirectory(tmp_path / "run").close()


def test_a_new_run_has_its_settings_an_id_and_a_place_for_logs(tmp_path: Path) -> None:
    config = make_recipe("catch")
    with RunDirectory(tmp_path / "a" / "run") as directory:
        run_id = directory.begin(config)
    paths = RunPaths(tmp_path / "a" / "run")
    assert read_config(paths.config) == config
    assert paths.run_id.read_text().strip() == run_id
    assert len(run_id) == 32
    assert paths.logs.is_dir()
    assert require_run_directory(paths.root) == paths


def test_run_ids_differ(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        with RunDirectory(tmp_path / name) as directory:
            ids.add(directory.begin(make_recipe("catch")))
    assert len(ids) == 2


@pytest.mark.parametrize(("finished", "said"), [(True, "a finished run"), (False, "an unfinished run")])
def test_an_existing_run_is_not_overwritten(tmp_path: Path, finished: bool, said: str) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(make_recipe("catch"))
        if finished:
            directory.paths.summary.write_text("{}")
        with pytest.raises(RunDirectoryError, match=f"holds {said}: continue it with --resume"):
            directory.begin(make_recipe("catch"))
        with pytest.raises(RunDirectoryError, match="'catch', not 'cartpole'"):
            directory.begin(make_recipe("cartpole"))


def test_resume_keeps_the_run_id_and_clears_what_only_an_end_writes(tmp_path: Path) -> None:
    config = make_recipe("catch")
    with RunDirectory(tmp_path / "run") as directory:
        run_id = directory.begin(config)
        directory.paths.final.parent.mkdir()
        for stale in (directory.paths.summary, directory.paths.final):
            stale.write_text("{}")
    changed = replace(config, learner=replace(config.learner, learning_rate=0.5))
    with RunDirectory(tmp_path / "run") as directory:
        assert directory.resumable_config("catch") == config
        assert directory.resume(changed) == run_id
        assert read_config(directory.paths.config) == changed
        assert not directory.paths.summary.exists()
        assert not directory.paths.final.exists()


def test_a_directory_that_disappears_can_still_be_given_back(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(make_recipe("catch"))
        shutil.rmtree(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_resume_refuses_another_unroll_length(tmp_path: Path) -> None:
    """The records that wait in replay could not be stacked with the new ones."""
    config = make_recipe("catch")
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(config)
        changed = replace(config, actor=replace(config.actor, unroll_length=7))
        with pytest.raises(RunDirectoryError, match=r"unroll_length = 7, but the records .* have 20 rows"):
            directory.resume(changed)


@pytest.mark.parametrize(
    ("section", "setting", "value"), [("network", "hidden_sizes", (8,)), ("environment", "episode_steps_max", 5)]
)
def test_resume_refuses_what_a_checkpoint_depends_on(tmp_path: Path, section: str, setting: str, value: object) -> None:
    config = make_recipe("catch")
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(config)
        changed = replace(config, **{section: replace(getattr(config, section), **{setting: value})})
        with pytest.raises(RunDirectoryError, match=rf"the {section}\.\* settings differ"):
            directory.resume(changed)
        assert read_config(directory.paths.config) == config


def test_resume_of_nothing_or_of_another_recipe(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        with pytest.raises(RunDirectoryError, match="holds no run to resume"):
            directory.resumable_config("catch")
        directory.begin(make_recipe("catch"))
        with pytest.raises(RunDirectoryError, match="of recipe 'catch', not 'cartpole'"):
            directory.resumable_config("cartpole")


def test_a_directory_that_never_became_a_run_is_removed(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").close()
    assert not (tmp_path / "run").exists()


def test_somebody_elses_files_stay(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with RunDirectory(tmp_path) as directory, pytest.raises(RunDirectoryError, match="not empty and holds no run"):
        directory.begin(make_recipe("catch"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("diary.txt", "mine")]


def test_somebody_elses_file_called_lock_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    (tmp_path / "lock").write_text("the combination is 1234\n")
    with RunDirectory(tmp_path) as directory, pytest.raises(RunDirectoryError, match="not empty and holds no run"):
        directory.begin(make_recipe("catch"))
    assert (tmp_path / "lock").read_text() == "the combination is 1234\n"


def test_nobody_holds_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert holder_of(RunPaths(tmp_path / "none")) is None
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        require_run_directory(tmp_path / "none")


def test_the_default_directory_is_named_after_recipe_and_time() -> None:
    path = default_run_directory("gym:my/Env-v0")
    assert path.parent == Path("runs")
    assert path.name.startswith("gym-my-Env-v0-2")
    assert len(path.name) == len("gym-my-Env-v0-YYYYmmdd-HHMMSS")


def test_a_run_whose_keys_would_lie_in_it_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_KEYS", str(tmp_path / "run" / "keys"))
    with pytest.raises(KeyFileError, match="keys must be apart"), RunDirectory(tmp_path / "run") as directory:
        directory.begin(make_recipe("catch"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_lost_its_keys_does_not_go_on(tmp_path: Path, keys_of_the_test: Path) -> None:
    config = make_recipe("catch")
    with RunDirectory(tmp_path / "run") as directory:
        run_id = directory.begin(config)
        directory.paths.safety.mkdir()
        (directory.paths.safety / "ledger.jsonl").touch()
        with pytest.raises(KeyFileError, match=f"key directory {keys_of_the_test / run_id} is missing"):
            directory.resume(config)
        (keys_of_the_test / run_id).mkdir()
        assert directory.resume(config) == run_id


def test_the_suite_of_a_run_is_kept_with_it(tmp_path: Path) -> None:
    given = tmp_path / "suite.toml"
    given.write_text('name = "first"\n[[slices]]\nname = "a"\n')
    recipe = make_recipe("catch")
    config = replace(recipe, safety=replace(recipe.safety, suite=str(given)))
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(config)
        own = directory.paths.suite
    assert own.read_text() == given.read_text()
    assert read_config(directory.paths.config).safety.suite == str(own)
    given.write_text("what became of it since")
    with RunDirectory(tmp_path / "run") as directory:
        directory.resume(directory.resumable_config("catch"))
    assert 'name = "first"' in own.read_text()
