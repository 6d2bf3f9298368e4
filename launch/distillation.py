"""Teachers by the names that a user gives them: which run directory and release is meant, and whether to believe it.

A run that begins writes into its settings which releases its teachers turned out to be (distillation.identities), so
that whoever reads them later knows who taught it, and nobody else can take their place.

Exceptions: launch.errors.BadInput; TeacherError (learner.distillation.teachers); SettingError of the teacher's run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from actors.environments.catalog import make_vector
from launch.config import RunConfig
from launch.config_file import read_config
from launch.errors import BadInput
from launch.json_output import printable
from launch.releases import require_trust, revocations
from launch.run_paths import RunPaths, require_run_directory
from learner.distillation.config import DistillationConfig
from learner.distillation.teachers import Teacher, TeacherError, TeacherSource, check_fits, load_teacher
from policies.spec import PolicySpec
from safety.ledger import LedgerError

_NUMBER_DIGITS_MAX = 9


def locate_teachers(config: DistillationConfig) -> tuple[TeacherSource, ...]:
    """Where the teachers of a run are; nothing of them is believed yet.

    Raises:
      BadInput: one is no run directory, or has no key or id.
    """
    identities = config.identities or ("",) * len(config.teachers)
    return tuple(_located(name, identity) for name, identity in zip(config.teachers, identities, strict=True))


def find_teacher(name: str) -> Teacher:
    """A teacher by its name, verified.

    Raises:
      BadInput: there is no such run directory, or it has no key or id.
      TeacherError: there is no such release, it was revoked, or it cannot be believed.
    """
    return _verified(_located(name, ""))


def settle_teachers(config: RunConfig) -> RunConfig:
    """The settings with the teachers' releases and identities in them, once all have been verified and fit the run.

    Raises:
      BadInput, TeacherError: as `find_teacher`; or one does not fit, or is not the one that the run began with.
    """
    if not config.distillation.teachers:
        return config
    teachers = [_verified(source) for source in locate_teachers(config.distillation)]
    spec = _student_spec(config)
    for teacher in teachers:
        check_fits(teacher, spec, config.distillation)
    settled = dataclasses.replace(
        config.distillation,
        teachers=tuple(f"{teacher.source.policies.parent}@{teacher.release.number}" for teacher in teachers),
        identities=tuple(teacher.identity for teacher in teachers),
    )
    return dataclasses.replace(config, distillation=settled)


def split_name(name: str) -> tuple[Path, int]:
    """The run directory and the number of the release that RUN_DIR or RUN_DIR@NUMBER means; 0: the newest."""
    path, separator, number = name.rpartition("@")
    if separator and number.isdecimal() and len(number) <= _NUMBER_DIGITS_MAX:
        if not int(number):
            raise BadInput(f"teacher {name}: releases are numbered from 1; without a number the newest is meant")
        return Path(path), int(number)
    return Path(name), 0


def _located(name: str, identity: str) -> TeacherSource:
    root, release = split_name(name)
    paths = require_run_directory(root.absolute())
    if not paths.policies.is_dir():
        raise BadInput(f"teacher {name} has no release: there is nothing that passed its gate to learn from")
    trust = require_trust(paths)
    stores = tuple(paths.replay_stores(read_config(paths.config).replay.shards))
    return TeacherSource(name, paths.policies, paths.verify_key, trust.run_id, release, stores, identity)


def _verified(source: TeacherSource) -> Teacher:
    teacher = load_teacher(source)
    try:
        # Of those in the gate's ledger alone the registry has not heard yet.
        revoked = {each.digest: each for each in revocations(RunPaths(source.policies.parent))}
    except LedgerError as error:
        raise TeacherError(f"teacher {source.name} cannot be believed: {error}") from error
    revocation = revoked.get(teacher.release.digest)
    if revocation is not None:
        raise TeacherError(
            f"teacher {source.name}: release {teacher.release.number} is revoked ({printable(revocation.why)}): "
            "nothing is learnt from it"
        )
    return teacher


def _student_spec(config: RunConfig) -> PolicySpec:
    environment = make_vector(config.environment, 1)
    try:
        return PolicySpec(config.network, environment.spec.observation, environment.spec.action)
    finally:
        environment.close()
