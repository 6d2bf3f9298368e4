"""Teachers made up for tests: really signed releases in a registry of their own. Not a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from learner.distillation.teachers import Teacher, TeacherSource, load_teacher
from policies.artifact import Artifact, artifact_digest
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, signed_verdict
from policies.trust import TrustPolicy


class MadeUpTeacher(NamedTuple):
    """A registry, what signs for it, and how a run finds it."""

    registry: PolicyRegistry
    key: SigningKey
    source: TeacherSource


def begin(root: Path, run_id: str = RUN_ID) -> MadeUpTeacher:
    """A run without releases."""
    root.mkdir()
    key = SigningKey.generate()
    key.verify_key.save(root / "verify_key.pem")
    registry = PolicyRegistry(root / "policies", TrustPolicy(key.verify_key, run_id))
    source = TeacherSource(str(root), root / "policies", root / "verify_key.pem", run_id)
    return MadeUpTeacher(registry, key, source)


def release(teacher: MadeUpTeacher, artifact: Artifact, number: int = 1, **fields: Any) -> bytes:
    """Releases an artifact, and returns its digest."""
    data = artifact.to_bytes()
    digest = artifact_digest(data)
    named = {"run_id": teacher.source.run_id, "release_number": number, "verdict_id": f"{number:032x}"} | fields
    teacher.registry.promote(data, signed_verdict(teacher.key, digest, **named))
    return digest


def teachers(root: Path, artifacts: Sequence[Artifact]) -> list[Teacher]:
    """One verified teacher for each artifact, each of a run of its own."""
    found = []
    for number, artifact in enumerate(artifacts):
        made_up = begin(root / f"teacher-{number}", f"run-{number}")
        release(made_up, artifact)
        found.append(load_teacher(made_up.source))
    return found


def teacher_of(root: Path, seed: int = 0) -> Teacher:
    """A teacher with random weights that acts in CartPole's spaces."""
    return teachers(root, [make_artifact(seed=seed)])[0]
