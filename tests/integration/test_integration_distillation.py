"""Distillation with real processes: from a released teacher to a student that its own gate has released."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.distillation import find_teacher
from launch.releases import open_registry
from launch.run_paths import RunPaths
from learner.lineage_archive import lineage_paths
from learner.lineage_file import read_lineage
from policies.artifact import Artifact
from tests.integration.training_run import QUICK, TrainingRun
from tests.launch import made_up_teacher

pytestmark = pytest.mark.timeout(240)


class DistillationRun(TrainingRun):
    """One `temper distill`; the recipe's place is taken by the teacher's directory."""

    def start(self, *more: str) -> DistillationRun:
        arguments = ["distill", self.recipe, "--run-dir", str(self.directory), *self._arguments, *more]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ,
            )
        return self


SETTINGS = ("--max-seconds=90", "--set=stop.target_return=0.95", *(f"--set={item}" for item in QUICK))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run with a release that catches, of which there are no records."""
    return made_up_teacher.begin(tmp_path_factory.mktemp("runs") / "teacher")


@pytest.fixture(scope="module")
def student(teacher: RunPaths) -> TrainingRun:
    """An ended run that distilled it, with a student of the default size."""
    with DistillationRun(teacher.root.parent / "student", str(teacher.root), *SETTINGS) as run:
        run.start()
        assert run.wait(timeout_s=150) == 0, run.story()
    return run


def test_a_released_student_of_a_tenth_of_the_size(teacher: RunPaths, student: TrainingRun) -> None:
    paths, known = RunPaths(student.directory), find_teacher(str(teacher.root))
    registry = open_registry(paths)
    assert registry is not None
    release = registry.newest()
    assert release is not None, student.story()
    artifact = Artifact.from_bytes(registry.artifact(release.digest), release.digest)
    assert 10 * sum(array.size for array in artifact.parameters.values()) <= known.parameters
    # Pure distillation: it never learnt from a reward, and was judged by a gate of its own.
    assert release.return_mean >= 0.95 * known.release.return_mean
    assert release.run_id != known.release.run_id
    (told,) = student.summary()["distillation"]["teachers"]
    assert told["identity"] == known.identity
    assert told["share_kept"] == pytest.approx(release.return_mean)
    assert f"distilled from {teacher.root}@1: " in student.output.read_text()


def test_every_lineage_of_the_student_names_its_teacher(teacher: RunPaths, student: TrainingRun) -> None:
    known = find_teacher(str(teacher.root)).identity
    lineages = [read_lineage(path) for path in lineage_paths(student.directory / "lineage")]
    assert {lineage.head.teachers for lineage in lineages} == {(known,)}
    # The verdicts bind it: what is verified is the digest of a lineage with its teachers.
    verified = temper("policy", "verify", str(student.directory))
    assert verified.returncode == 0, verified.stderr
    told = temper("policy", "lineage", str(student.directory), "release:1")
    assert f"taught by     {known}" in told.stdout


def test_offline_from_what_a_run_has_left(student: TrainingRun, tmp_path: Path) -> None:
    """The student teaches in its turn, on the records of its own run: nobody acts, and the gate alone sees how."""
    name, size = str(student.directory), "--student-size=12x12"
    with DistillationRun(tmp_path / "grandchild", name, "--offline", size, *SETTINGS) as run:
        run.start()
        assert run.wait(timeout_s=150) == 0, run.story()
    assert run.summary()["evaluation"]["return_mean"] >= 0.95, run.story()
    assert run.summary()["replay"]["records"] == 0
    assert not (run.directory / "logs" / "actors.log").exists()
    final = json.loads((run.directory / "learner" / "final.json").read_text())
    assert (final["records_consumed"], final["stopped_because"]) == (0, "target")


def temper(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
