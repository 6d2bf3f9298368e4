"""What can be known to be wrong with a run before a directory is made or a process started.

Exceptions: launch.errors.BadInput and MissingExtra; EnvironmentUnsupported, SpecError, JobError and SchemaError of the
packages that would find the same later, in a process of the run.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported, VectorEnvironment
from actors.environments.catalog import make_vector
from actors.process import check_window
from actors.seeds import TRAINING_SEED_END
from launch.config import RunConfig
from launch.errors import BadInput, extra_of, missing_extra
from policies.spec import PolicySpec
from protos.transport import UNIX_PATH_BYTES_MAX
from protos.transport_roles import ROLES
from safety.evaluation.perturbations import perturb
from safety.statistics.parameters import ParameterError
from safety.suite_file import make_suite
from safety.suite_fit import check_slices
from safety.suites.spec import Perturbation

_NEEDED = ("jax", "flax", "optax", "orbax", "tensorboardX")


def check(config: RunConfig) -> None:
    """Checks that this machine and this configuration can train: packages, environment, and network on it.

    Raises:
      MissingExtra: packages that only an extra brings are not installed.
      EnvironmentUnsupported: the environment cannot be made, or its spaces are not supported; or a slice of the suite
        is for other policies.
      SpecError: the network does not fit the environment's observations.
      BadInput: sockets cannot be made under the temporary directory, or the run's own processes may not use them; or
        learner.burn_in leaves nothing to train on.
      JobError, SchemaError: a record, or an unroll of all lanes, is too large to be sent.
      BadInput, SuiteFileError: the environment's first reset or step fails; or no candidate could be judged.
    """
    needed = (*_NEEDED, "lmdb", "pyroaring") if config.replay.store == "lmdb" else _NEEDED
    extras = {extra for name in needed if importlib.util.find_spec(name) is None and (extra := extra_of(name))}
    if extras:
        raise missing_extra("train", sorted(extras))
    _check_socket_paths(Path(tempfile.gettempdir()))
    if missing := ROLES.keys() - set(config.transport.local_roles):
        raise BadInput(
            f"transport.local_roles lacks {', '.join(sorted(missing))}: a run on one machine talks over sockets, and "
            "its own processes could not; leave it as it is here"
        )
    _check_teachers(config)
    check_suite(config)
    environment = make_vector(config.environment, 1)
    try:
        spec = environment.spec
        policy = PolicySpec(config.network, spec.observation, spec.action)
        check_window(config.actor, spec, policy.state_size)
        _check_burn_in(config, policy)
        _try_out(environment)
    finally:
        environment.close()


def _check_teachers(config: RunConfig) -> None:
    if config.recipe == "distill" and not config.distillation.teachers:
        raise BadInput(
            "the recipe distill needs a teacher: temper distill RUN_DIR takes environment, suite and settings from its "
            "run"
        )


def check_suite(config: RunConfig) -> None:
    """Checks that the run's candidates could be judged by its settings, or on its suite file.

    Raises:
      BadInput, SuiteFileError: not by any of them.
      EnvironmentUnsupported: a slice cannot be made, or the policies of this run could not act there.
    """
    try:
        suite = make_suite(config.safety, config.environment)
    except ParameterError as error:
        raise BadInput(str(error)) from None
    others = [each for each in suite.slices if each.environment != config.environment or each.perturbations]
    if others:
        trained_in = _made(config.environment, ())
        for each in others:
            try:
                spec = _made(each.environment, each.perturbations)
            except EnvironmentUnsupported as error:
                raise EnvironmentUnsupported(f"slice {each.name}: {error}") from error
            check_slices({each.name: spec}, trained_in)


def _made(environment: EnvironmentConfig, perturbations: Sequence[Perturbation]) -> EnvironmentSpec:
    made = perturb(make_vector(environment, 1), perturbations)
    made.close()
    return made.spec


def _check_burn_in(config: RunConfig, policy: PolicySpec) -> None:
    burn_in, rows = config.learner.burn_in, config.actor.unroll_length
    if burn_in and not policy.state_size:
        raise BadInput(f"learner.burn_in = {burn_in} is for recurrent policies: set it to 0, or network.core")
    if burn_in >= rows:
        raise BadInput(
            f"learner.burn_in = {burn_in} must be below actor.unroll_length = {rows}: nothing would be trained on"
        )


def _check_socket_paths(place: Path) -> None:
    length = len(os.fsencode(place / "temper-12345678" / "inference.sock"))
    if length > UNIX_PATH_BYTES_MAX:
        raise BadInput(
            f"under the temporary directory {place} a socket's path has {length} bytes, the limit is "
            f"{UNIX_PATH_BYTES_MAX}: set TMPDIR to a shorter one"
        )


def _try_out(environment: VectorEnvironment) -> None:
    """One reset, with as large a seed as there will be, and one step."""
    try:
        environment.reset(np.array([0]), [TRAINING_SEED_END - 1])
        environment.step(environment.spec.action.zeros(1), np.ones(1, np.bool_))
    except EnvironmentUnsupported:
        raise
    except Exception as error:
        # Foreign code: whatever it raises has to reach the person who named it, and where.
        frames = traceback.extract_tb(error.__traceback__)
        # The innermost that can be looked at: compiled code names files that are not there.
        place = next(frame for frame in reversed(frames) if Path(frame.filename).is_file())
        raise BadInput(
            f"environment {environment.spec.id} fails at its first reset or step: {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})"
        ) from error
