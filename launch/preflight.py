"""What can be known to be wrong with a run before a directory is made or a process started.

Exceptions: launch.errors.MissingExtra; actors.environment.EnvironmentUnsupported and policies.spec.SpecError, which
name the value, the bound and what to do.
"""

from __future__ import annotations

import importlib.util

from actors.environments.catalog import make_vector
from launch.config import RunConfig
from launch.errors import extra_of, missing_extra
from policies.spec import PolicySpec

_NEEDED = ("jax", "flax", "optax", "orbax", "tensorboardX")


def check(config: RunConfig) -> None:
    """Checks that this machine and this configuration can train: packages, environment, and network on it.

    Raises:
      MissingExtra: packages that only an extra brings are not installed.
      EnvironmentUnsupported: the environment cannot be made, or its spaces are not supported.
      SpecError: the network does not fit the environment's observations.
    """
    needed = (*_NEEDED, "lmdb") if config.replay.store == "lmdb" else _NEEDED
    extras = {extra for name in needed if importlib.util.find_spec(name) is None and (extra := extra_of(name))}
    if extras:
        raise missing_extra("train", sorted(extras))
    environment = make_vector(config.environment, 1)
    try:
        spec = environment.spec
        PolicySpec(config.network, spec.observation_shape, spec.observation_dtype, spec.num_actions)
    finally:
        environment.close()
