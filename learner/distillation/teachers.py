"""Teachers: releases of other runs, believed only after their verdicts have been verified with those runs' own keys.

What was released is read whole, verified and checked against the student's environment before anything is learnt from
it. Whether a release was revoked is looked at when it is loaded, not afterwards.

Exceptions: TeacherError (a ValueError), one clear line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from learner.distillation.config import DistillationConfig
from policies.artifact import Artifact, ArtifactError
from policies.registry import PolicyRegistry, RegistryError, Release
from policies.signing import KeyFileError, VerifyKey
from policies.spec import PolicySpec, mismatch
from policies.trust import TrustPolicy


class TeacherError(ValueError):
    """A teacher cannot be learnt from; the message says which, and why."""


@dataclasses.dataclass(frozen=True)
class TeacherSource:
    """Which release of which run is a teacher, and where things of that run are.

    Attributes:
      name: as the user named it.
      policies: the run's registry.
      verify_key: PEM of the key that its verdicts verify with.
      run_id: the run's id.
      release: number of the release; 0: the newest that may act everywhere.
      stores: the run's replay stores, one a shard.
      identity: who it has been found to be before, as `Teacher.identity`; "": never looked at.
    """

    name: str
    policies: Path
    verify_key: Path
    run_id: str
    release: int = 0
    stores: tuple[Path, ...] = ()
    identity: str = ""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A verified release."""

    source: TeacherSource
    release: Release
    artifact: Artifact

    @property
    def identity(self) -> str:
        """RUN_ID@NUMBER:DIGEST, the artifact's digest in hexadecimal."""
        return f"{self.release.run_id}@{self.release.number}:{self.release.digest.hex()}"

    @property
    def parameters(self) -> int:
        """How many it has."""
        return sum(array.size for array in self.artifact.parameters.values())


def load_teacher(source: TeacherSource) -> Teacher:
    """The release that is meant, verified.

    Raises:
      TeacherError: there is none, it was revoked or is a canary still, is not the one that was found before, or
        anything of the run's registry cannot be believed.
    """
    try:
        trust = TrustPolicy(VerifyKey.load(source.verify_key), source.run_id)
        registry = PolicyRegistry(source.policies, trust)
        release = _release(source, registry)
        artifact = Artifact.from_bytes(registry.artifact(release.digest), release.digest).check_finite()
    except (KeyFileError, RegistryError, ArtifactError) as error:
        raise TeacherError(f"teacher {source.name} cannot be believed: {error}") from error
    teacher = Teacher(source, release, artifact)
    if source.identity and teacher.identity != source.identity:
        raise TeacherError(
            f"teacher {source.name} is {teacher.identity}, this run began with {source.identity}: a run keeps its "
            "teachers; start a new one"
        )
    return teacher


def check_fits(teacher: Teacher, spec: PolicySpec, config: DistillationConfig) -> None:
    """Checks that a student of this specification can learn from a teacher. Raises TeacherError."""
    name, theirs = teacher.source.name, teacher.artifact.spec
    if misfit := mismatch(theirs, spec):
        raise TeacherError(f"teacher {name} has {misfit} of this run: it cannot be learnt from here")
    if theirs.state_size:
        raise TeacherError(
            f"teacher {name} has a recurrent core ({theirs.network.core}): its state at the beginning of a record is "
            "not known; only teachers without one can be learnt from"
        )
    if config.offline and spec.state_size:
        raise TeacherError(
            f"network.core = {spec.network.core!r}, but records of teacher {name} hold no states of this student: "
            "distillation.mode = 'offline' needs a student without a core"
        )
    if config.temperature != 1.0 and not spec.action.is_discrete:
        raise TeacherError(
            f"distillation.temperature = {config.temperature} is for choices, the environment has "
            f"{spec.action.describe()}: leave it at 1"
        )


def load_teachers(sources: Sequence[TeacherSource], spec: PolicySpec, config: DistillationConfig) -> list[Teacher]:
    """All of them, each verified, and such that the student can learn from them. Raises TeacherError."""
    teachers = [load_teacher(source) for source in sources]
    for teacher in teachers:
        check_fits(teacher, spec, config)
    return teachers


def _release(source: TeacherSource, registry: PolicyRegistry) -> Release:
    if not source.release:
        newest = registry.newest()
        if newest is None:
            raise TeacherError(_nothing(source.name, registry.releases()))
        return newest
    releases = {release.number: release for release in registry.releases()}
    release = releases.get(source.release)
    if release is None:
        known = f"1 to {max(releases)}" if releases else "none"
        raise TeacherError(f"teacher {source.name}: no release {source.release}; releases there are: {known}")
    if release.revocation is not None:
        raise TeacherError(
            f"teacher {source.name}: release {release.number} is revoked ({release.revocation.why}): nothing is learnt "
            "from it"
        )
    if not release.promoted:
        raise TeacherError(f"teacher {source.name}: release {release.number} is a canary still, wait for its promotion")
    return release


def _nothing(name: str, releases: Sequence[Release]) -> str:
    if not releases:
        return f"teacher {name} has no release: there is nothing that passed its gate to learn from"
    revoked = sum(release.revocation is not None for release in releases)
    return (
        f"teacher {name} has no release that may act everywhere: {revoked} of {len(releases)} are revoked, the others "
        "are canaries"
    )
