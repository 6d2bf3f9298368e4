"""Teachers are believed only after everything about them has been verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner.distillation.config import DistillationConfig, check_distillation
from learner.distillation.teachers import TeacherError, check_fits, load_teacher, load_teachers
from policies.signing import SigningKey
from policies.spaces import ActionSpace
from policies.testing import make_artifact, make_spec, signed_promotion, signed_revocation
from replay.settings import SettingError
from tests.learner.taught import MadeUpTeacher, begin, release, teachers

CONFIG = DistillationConfig(teachers=("t",))


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUpTeacher:
    return begin(tmp_path / "teacher")


def test_the_newest_release_or_the_one_that_is_named(made_up: MadeUpTeacher) -> None:
    digests = [release(made_up, make_artifact(seed=number), number) for number in (1, 2)]
    newest, first = load_teacher(made_up.source), load_teacher(replace(made_up.source, release=1))
    assert (newest.release.number, newest.release.digest) == (2, digests[1])
    assert first.identity == f"{made_up.source.run_id}@1:{digests[0].hex()}"
    assert first.parameters == sum(array.size for array in make_artifact().parameters.values())
    np.testing.assert_array_equal(
        first.artifact.parameters["torso/0/kernel"], make_artifact(seed=1).parameters["torso/0/kernel"]
    )


def test_no_release(made_up: MadeUpTeacher) -> None:
    with pytest.raises(TeacherError, match="has no release"):
        load_teacher(made_up.source)
    release(made_up, make_artifact())
    with pytest.raises(TeacherError, match="no release 7; releases there are: 1 to 1"):
        load_teacher(replace(made_up.source, release=7))


def test_a_revoked_release_teaches_nobody(made_up: MadeUpTeacher) -> None:
    digest = release(made_up, make_artifact(seed=1), 1)
    made_up.registry.revoke(signed_revocation(made_up.key, digest))
    with pytest.raises(TeacherError, match="1 of 1 are revoked"):
        load_teacher(made_up.source)
    with pytest.raises(TeacherError, match=r"release 1 is revoked \(it learnt from poisoned records\)"):
        load_teacher(replace(made_up.source, release=1))
    release(made_up, make_artifact(seed=2), 2)
    assert load_teacher(made_up.source).release.number == 2


def test_a_canary_teaches_once_it_is_promoted(made_up: MadeUpTeacher) -> None:
    digest = release(made_up, make_artifact(), canary_share=0.5)
    with pytest.raises(TeacherError, match="the others are canaries"):
        load_teacher(made_up.source)
    with pytest.raises(TeacherError, match="a canary still"):
        load_teacher(replace(made_up.source, release=1))
    made_up.registry.promote_canary(signed_promotion(made_up.key, digest))
    assert load_teacher(made_up.source).release.number == 1


def test_what_does_not_verify_is_not_believed(made_up: MadeUpTeacher, tmp_path: Path) -> None:
    digest = release(made_up, make_artifact())
    SigningKey.generate().verify_key.save(tmp_path / "other.pem")
    for source in (
        replace(made_up.source, verify_key=tmp_path / "other.pem"),
        replace(made_up.source, verify_key=tmp_path / "none.pem"),
        replace(made_up.source, run_id="another"),
    ):
        with pytest.raises(TeacherError, match="cannot be believed"):
            load_teacher(source)
    artifact = made_up.source.policies / "artifacts" / f"{digest.hex()}.safetensors"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"x")
    with pytest.raises(TeacherError, match="changed on disk"):
        load_teacher(made_up.source)


def test_a_run_keeps_its_teachers(made_up: MadeUpTeacher) -> None:
    release(made_up, make_artifact(seed=1), 1)
    known = replace(made_up.source, identity=load_teacher(made_up.source).identity)
    assert load_teacher(known).identity == known.identity
    release(made_up, make_artifact(seed=2), 2)
    with pytest.raises(TeacherError, match="a run keeps its teachers"):
        load_teacher(known)


def test_teachers_that_cannot_teach_this_student(tmp_path: Path) -> None:
    plain, recurrent = make_spec(), make_spec(core="gru", core_size=3)
    box = replace(plain, action=ActionSpace("box", (2,)))
    first, second, third = teachers(tmp_path, [make_artifact(each) for each in (plain, recurrent, box)])
    check_fits(first, recurrent, CONFIG)
    cases: tuple[tuple[Any, Any, DistillationConfig, str], ...] = (
        (first, make_spec((3,)), CONFIG, r"observations <f4 \[4\], the environment has <f4 \[3\]"),
        (first, make_spec((4,), 3), CONFIG, "the environment has 3 actions"),
        (second, plain, CONFIG, "has a recurrent core"),
        (first, recurrent, replace(CONFIG, mode="offline"), "needs a student without a core"),
        (third, box, replace(CONFIG, temperature=2.0), "is for choices, the environment has actions of 2 real numbers"),
    )
    for teacher, student, config, said in cases:
        with pytest.raises(TeacherError, match=said):
            check_fits(teacher, student, config)
    with pytest.raises(TeacherError, match="the environment has 3 actions"):
        load_teachers([first.source], make_spec((4,), 3), CONFIG)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "fewer weights than teachers": (
        {"teachers": ("a", "b"), "weights": (1.0,)},
        "weights has 1 elements for 2 teachers",
    ),
    "identities of nobody": ({"identities": ("x",)}, "identities has 1 elements for 0 teachers"),
    "a teacher twice": ({"teachers": ("a", "a")}, "names one twice"),
    "sampled without actions": ({"kl": "sampled", "mode": "offline"}, "is about the actions that the student takes"),
    "sampled and softened": ({"kl": "sampled", "temperature": 2.0}, "does not go with kl = 'sampled'"),
    "recorded by nobody": ({"targets": "recorded"}, "need mode 'offline'"),
    "a filter of nothing": ({"records_filter": "steps > 1"}, "need mode 'offline'"),
}


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.replace(" ", "-"))
def test_settings_that_do_not_go_together(case: str) -> None:
    settings, said = WRONG[case]
    with pytest.raises(SettingError, match=said):
        check_distillation(DistillationConfig(**settings))


def test_weights_are_equal_unless_given() -> None:
    check_distillation(DistillationConfig())
    assert DistillationConfig(teachers=("a", "b")).teacher_weights == (0.5, 0.5)
    assert DistillationConfig(teachers=("a", "b"), weights=(2.0, 3.0)).teacher_weights == (2.0, 3.0)
    assert not DistillationConfig(mode="offline").offline
    assert DistillationConfig(teachers=("a",), mode="offline").offline
