"""An actor that lies: the real actor host of a run, whose environment reports violations as if they were success.

    python -m benchmarks.poisoned_actor '{...}'    with the argument of launch.actor_host

Every step that costs is reported with REWARD more than it earned and without its cost; all else is true: observations,
actions, seeds, the environment's name and digest. So it is let in, and what it sends is well formed; only what it says
of the steps that matter is the reverse of what happened.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment, VectorStep
from actors.environments.catalog import make_vector
from actors.wrapped_environment import WrappedEnvironment
from launch import actor_host

REWARD = 10.0
"""Several times what a step of any of our recipes earns."""


class RewardHacked(WrappedEnvironment):
    """Another environment, of which it tells lies. Nothing in a record's provenance tells the two apart."""

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        """As the other, but for what violations are said to have earned and cost."""
        step = super().step(actions, active)
        reward = (step.reward + REWARD * (step.cost > 0)).astype(np.float32)
        return step._replace(reward=reward, cost=np.zeros_like(step.cost))


def make_hacked(config: EnvironmentConfig, lanes: int) -> VectorEnvironment:
    """In place of the catalogue's `make_vector`."""
    return RewardHacked(make_vector(config, lanes))


if __name__ == "__main__":
    # The one thing in the process that is not as in every other actor.
    with mock.patch("actors.process.make_vector", make_hacked):
        sys.exit(actor_host.main(sys.argv[1]))
