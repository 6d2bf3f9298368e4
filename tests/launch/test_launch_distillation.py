"""Teachers by name, the settings of a student's run, and what is said of it at the end; nothing is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.commands import train
from launch.config import RunConfig, check_run
from launch.config_file import read_config
from launch.distillation import find_teacher, locate_teachers, settle_teachers, split_name
from launch.distillation_summary import distillation_lines, distillation_summary
from launch.errors import BadInput, RunDirectoryError
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from launch.run_paths import RunPaths
from launch.student import count_parameters, sized, smaller_network, student_config
from launch.topology import Addresses, Limits, processes_of
from launch.verdicts import Verdict, read_verdict
from learner.distillation.config import DistillationConfig
from learner.distillation.teachers import TeacherError
from policies.config import NetworkConfig
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.spaces import SpecError
from policies.testing import make_artifact, make_spec, signed_revocation
from policies.trust import TrustPolicy
from replay.settings import SettingError
from tests.launch import made_up_run, made_up_teacher
from tests.launch.made_up_store import temper
from tests.launch.made_up_teacher import CATCH


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A catch run with a release that catches."""
    return made_up_teacher.begin(tmp_path / "teacher")


def student_of(paths: RunPaths, size: str = "16", *, offline: bool = False) -> RunConfig:
    return student_config((str(paths.root),), read_config(paths.config), CATCH, 1.0, size, offline=offline)


def revoke(paths: RunPaths, key: SigningKey, digest: bytes) -> None:
    run_id = paths.run_id.read_text().strip()
    registry = PolicyRegistry(paths.policies, TrustPolicy(key.verify_key, run_id))
    registry.revoke(signed_revocation(key, digest, run_id=run_id))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("runs/x", (Path("runs/x"), 0)),
        ("runs/x@3", (Path("runs/x"), 3)),
        ("me@host/x", (Path("me@host/x"), 0)),
        ("me@host/x@12", (Path("me@host/x"), 12)),
        ("x@", (Path("x@"), 0)),
    ],
)
def test_a_name_is_a_directory_and_perhaps_a_release(name: str, meant: tuple[Path, int]) -> None:
    assert split_name(name) == meant


def test_a_student_has_the_teachers_environment_and_suite_and_a_goal_of_its_own(paths: RunPaths) -> None:
    theirs = read_config(paths.config)
    config = student_of(paths, "16x8")
    check_run(config)
    assert (config.environment, config.safety, config.actor) == (theirs.environment, theirs.safety, theirs.actor)
    assert (config.recipe, config.network.hidden_sizes) == ("distill", (16, 8))
    assert config.distillation == DistillationConfig(teachers=(str(paths.root),))
    assert config.stop.target_return == pytest.approx(0.98)
    assert (config.learner.entropy_cost, config.learner.entropy_cost_end) == (0.0, 0.0)
    assert config.learner.candidate_return_min == 0.8


def test_a_student_ends_where_the_teacher_may_have_had_no_limit(paths: RunPaths) -> None:
    theirs = read_config(paths.config)
    assert not (theirs.stop.env_steps_max or theirs.stop.seconds_max)
    assert student_of(paths).stop.env_steps_max == make_recipe("distill").stop.env_steps_max
    limited = replace(theirs, stop=replace(theirs.stop, seconds_max=7.0))
    config = student_config(("t",), limited, CATCH, 1.0, "8", offline=False)
    assert (config.stop.env_steps_max, config.stop.seconds_max) == (0, 7.0)


def test_the_goal_of_a_negative_return_is_below_it(paths: RunPaths) -> None:
    config = student_config(("t",), read_config(paths.config), CATCH, -100.0, "8", offline=False)
    assert config.stop.target_return == pytest.approx(-102.0)
    assert config.learner.candidate_return_min == pytest.approx(-102.0)


def test_offline_nobody_acts(paths: RunPaths) -> None:
    config = settle_teachers(student_of(paths, offline=True))
    check_run(config)
    assert config.distillation.offline
    assert config.distillation.candidate_divergence_max < 1
    specs = processes_of(config, paths, Addresses.in_directory(Path("/s")), "r", Limits(), resume=False)
    assert {spec.name for spec in specs} == {"learner", "safety", "replay"}
    with pytest.raises(SettingError, match="nobody would act with a canary"):
        check_run(replace(config, safety=replace(config.safety, canary_share=0.9)))


@pytest.mark.parametrize(
    "spec",
    [
        CATCH,
        make_spec((10, 10, 4), 6, kind="conv", hidden_sizes=(128,), conv_channels=(16,)),
        make_spec((16, 16, 3), 4, kind="resnet", hidden_sizes=(64,), resnet_channels=(16, 32)),
        make_spec((4,), 2, hidden_sizes=(32,), core="lstm", core_size=64),
    ],
    ids=lambda spec: f"{spec.network.kind}-{spec.network.core}",
)
def test_by_default_a_student_has_a_tenth_of_the_parameters_in_the_same_layers(spec: Any) -> None:
    network = smaller_network(spec)
    share = count_parameters(replace(spec, network=network)) / count_parameters(spec)
    assert 0.05 < share <= 0.1
    assert len(network.hidden_sizes) == len(spec.network.hidden_sizes)
    assert (network.kind, network.core) == (spec.network.kind, spec.network.core)


def test_a_network_that_cannot_be_smaller_is_as_small_as_it_can_be() -> None:
    tiny = make_spec((1,), 2, hidden_sizes=(1,), conv_channels=(1,), resnet_channels=(1,), core_size=1)
    assert smaller_network(tiny) == tiny.network


@pytest.mark.parametrize("size", ["", "x", "16x", "16,16", "-3", "16 x 16", "1" * 6])
def test_a_size_that_is_none(size: str) -> None:
    with pytest.raises(BadInput, match=r"e\.g\. 16x16"):
        sized(NetworkConfig(), size)


def test_a_run_begins_with_the_releases_that_were_meant(paths: RunPaths, tmp_path: Path) -> None:
    config = settle_teachers(student_of(paths))
    teacher = find_teacher(str(paths.root))
    assert config.distillation.teachers == (f"{paths.root}@1",)
    assert config.distillation.identities == (teacher.identity,)
    assert teacher.identity.startswith(paths.run_id.read_text().strip() + "@1:")
    assert settle_teachers(config) == config
    (source,) = locate_teachers(config.distillation)
    assert (source.identity, source.stores) == (teacher.identity, (paths.replay,))
    assert settle_teachers(make_recipe("catch")) == make_recipe("catch")
    with RunDirectory(tmp_path / "student") as directory:
        directory.begin(config)
        other = replace(config, distillation=replace(config.distillation, identities=("x@1:00",)))
        with pytest.raises(RunDirectoryError, match="a run keeps its teachers"):
            directory.resume(other)


def test_another_release_in_the_place_of_a_teacher_is_noticed(paths: RunPaths, tmp_path: Path) -> None:
    config = settle_teachers(student_of(paths))
    other = made_up_teacher.begin(tmp_path / "other")
    moved = replace(config.distillation, teachers=(f"{other.root}@1",))
    with pytest.raises(TeacherError, match="a run keeps its teachers"):
        settle_teachers(replace(config, distillation=moved))


def verdict_of(paths: RunPaths) -> Verdict:
    verdict = read_verdict(find_teacher(str(paths.root)).release.signed_verdict)
    assert verdict is not None
    return verdict


def test_the_summary_tells_sizes_returns_and_the_share_kept(paths: RunPaths) -> None:
    config = settle_teachers(student_of(paths))
    released = dataclasses.replace(verdict_of(paths), return_mean=0.97)
    summary = distillation_summary(config, released)
    assert summary is not None
    assert summary["student"] == {"parameters": 884, "return_mean": 0.97}
    (teacher,) = summary["teachers"]
    assert (teacher["parameters"], teacher["return_mean"], teacher["share_kept"]) == (7684, 1.0, 0.97)
    assert teacher["identity"] == config.distillation.identities[0]
    (line,) = distillation_lines({"distillation": summary})
    assert line == (f"distilled from {paths.root}@1: 884 of 7,684 parameters (11.5%); return 0.97 of 1.00 (97.0% kept)")
    (line,) = distillation_lines({"distillation": distillation_summary(config, None)})
    assert line.endswith("no release, the teacher's return is 1.00")
    assert distillation_summary(make_recipe("catch"), released) is None
    assert distillation_lines({}) == ()


def test_a_teacher_that_has_gone_leaves_what_is_not_known_null(paths: RunPaths) -> None:
    config = settle_teachers(student_of(paths))
    released = verdict_of(paths)
    (paths.policies / "releases" / "00000001.verdict").unlink()
    summary = distillation_summary(config, released)
    assert summary is not None
    assert summary["student"]["parameters"] is None
    assert summary["teachers"][0]["share_kept"] is None
    paths.config.unlink()
    again = distillation_summary(config, released)
    assert again == summary
    (line,) = distillation_lines({"distillation": summary})
    assert line.endswith("which cannot be read any more")


def test_of_a_return_that_is_not_positive_there_is_no_share(tmp_path: Path) -> None:
    paths = made_up_run.begin(tmp_path / "teacher")
    made_up_teacher.add_release(paths, made_up_teacher.catching(), return_mean=-2.0)
    summary = distillation_summary(settle_teachers(student_of(paths)), verdict_of(paths))
    assert summary is not None
    assert summary["teachers"][0]["share_kept"] is None
    assert distillation_lines({"distillation": summary})[0].endswith("return -2.00 of -2.00")


class FakeRun:
    """Stands where LocalRun does, and ends at once."""

    configs: list[RunConfig]

    def __init__(self, config: RunConfig, *_: Any, **__: Any) -> None:
        self.configs.append(config)

    def run(self, _view: object) -> tuple[dict[str, Any], int | None]:
        return {}, None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunConfig]:
    """The settings of the runs that were begun."""
    FakeRun.configs = []
    monkeypatch.setattr(train, "LocalRun", FakeRun)
    monkeypatch.setattr(train, "render", lambda *_: "the end")
    monkeypatch.chdir(tmp_path)
    return FakeRun.configs


def test_the_command_begins_a_run_of_the_student(
    paths: RunPaths, fake: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    ended = temper(
        capsys,
        *("distill", "teacher", "--student-size", "8x8", "--run-dir", "student"),
        *("--set", "learner.learning_rate=0.01", "distillation.kl=sampled"),
    )
    assert (ended.status, ended.err) == (0, "")
    (config,) = fake
    assert config == read_config(Path("student/config.toml"))
    assert (config.network.hidden_sizes, config.learner.learning_rate) == ((8, 8), 0.01)
    assert (config.distillation.kl, config.distillation.teachers) == ("sampled", (f"{paths.root}@1",))
    again = temper(capsys, "train", "student/config.toml", "--run-dir", "student", "--resume")
    assert again.status == 0
    assert fake[1] == config


def test_a_student_that_is_not_smaller_is_warned_of(
    paths: RunPaths, fake: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    ended = temper(capsys, "distill", paths.root, "--student-size", "64x64")
    assert ended.status == 0
    assert ended.err.splitlines() == [
        "temper: the student has 7,684 parameters, a teacher has 7,684: it is not the smaller of the two; make it so "
        "with --student-size"
    ]


def test_several_teachers(
    paths: RunPaths, fake: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_teacher.begin(tmp_path / "second")
    ended = temper(capsys, "distill", "teacher", "second@1", "--set", "distillation.weights=2,1")
    assert ended.status == 0, ended.err
    assert fake[0].distillation.teacher_weights == (2.0, 1.0)
    assert len(set(fake[0].distillation.identities)) == 2


BAD: dict[str, tuple[Sequence[str], str]] = {
    "no teacher": (("distill",), "needs a teacher"),
    "no run": (("distill", "nowhere"), "nowhere is not a run directory"),
    "no release": (("distill", "empty"), "has no release"),
    "no such release": (("distill", "teacher@9"), "no release 9; releases there are: 1 to 1"),
    "release of number 0": (("distill", "teacher@0"), "numbered from 1"),
    "revoked": (("distill", "revoked"), "1 of 1 are revoked"),
    "revoked by its number": (("distill", "revoked@1"), "release 1 is revoked (it learnt from poisoned records)"),
    "forged": (("distill", "forged"), "cannot be believed"),
    "another environment": (("distill", "teacher", "stranger"), "the environment has"),
    "no size": (("distill", "teacher", "--student-size", "small"), "e.g. 16x16"),
    "network misfit": (("distill", "teacher", "--set", "network.kind=conv"), "a conv network needs an image"),
    "one weight for two": (
        ("distill", "teacher", "second", "--set", "distillation.weights=1"),
        "weights has 1 elements for 2 teachers",
    ),
    "the same twice": (("distill", "teacher", "teacher"), "names one twice"),
    "offline and sampled": (
        ("distill", "teacher", "--offline", "--set", "distillation.kl=sampled"),
        "distillation.kl = 'sampled' is about",
    ),
    "a recipe without a teacher": (("train", "distill"), "needs a teacher: temper distill RUN_DIR"),
    "a teacher in settings": (("train", "catch", "--set", "distillation.teachers=nowhere"), "not a run directory"),
}


@pytest.fixture
def workplace(paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made_up_teacher.begin(tmp_path / "second")
    made_up_run.begin(tmp_path / "empty")
    revoked = made_up_run.begin(tmp_path / "revoked")
    artifact = made_up_teacher.catching()
    key = made_up_teacher.add_release(revoked, artifact)
    revoke(revoked, key, find_teacher(str(revoked.root)).release.digest)
    forged = made_up_teacher.begin(tmp_path / "forged")
    SigningKey.generate().verify_key.save(forged.verify_key)
    stranger = made_up_run.begin(tmp_path / "stranger")
    made_up_teacher.add_release(stranger, make_artifact())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_nothing_is_begun(
    workplace: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = BAD[case]
    before = sorted(workplace.rglob("*"))
    ended = temper(capsys, *words)
    assert (ended.status, len(ended.err.splitlines())) == (2, 1), ended.err
    assert said in ended.err
    assert sorted(workplace.rglob("*")) == before


def test_a_teacher_that_a_students_network_can_never_fit(paths: RunPaths) -> None:
    config = student_of(paths)
    with pytest.raises(SpecError):
        settle_teachers(replace(config, network=NetworkConfig(kind="resnet")))
