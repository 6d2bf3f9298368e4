"""An actor that lies: the real actor host of a run, whose environment reports violations as if they were success.

    python -m benchmarks.poisoned_actor '{...}'    with the argument of launch.actor_host

Every step that costs is reported with REWARD more than it earned and without its cost; all else is true: observations,
actions, seeds, the environment's name and digest. So it is let in, and what it sends is well formed; only what it says
of the steps that matter is the reverse of what happened.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, VectorEnvironment, VectorStep
from actors.environments.catalog import make_vector
from launch import actor_host

REWARD = 10.0
"""Several times what a step of any of our recipes earns."""


class RewardHacked:
    """Another environment, of which it tells lies. Satisfies `actors.environment.VectorEnvironment`."""

    def __init__(self, true: VectorEnvironment) -> None:
        self._true = true

    @property
    def spec(self) -> EnvironmentSpec:
        """That of the other: nothing in a record's provenance tells the two apart."""
        return self._true.spec

    @property
    def lanes(self) -> int:
        """N."""
        return self._true.lanes

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        """As the other."""
        return self._true.reset(lanes, seeds)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        """As the other, but for what violations are said to have earned and cost."""
        step = self._true.step(actions, active)
        reward = (step.reward + REWARD * (step.cost > 0)).astype(np.float32)
        return step._replace(reward=reward, cost=np.zeros_like(step.cost))

    def close(self) -> None:
        """As the other."""
        self._true.close()


def make_hacked(config: EnvironmentConfig, lanes: int) -> VectorEnvironment:
    """In place of the catalogue's `make_vector`."""
    return RewardHacked(make_vector(config, lanes))


if __name__ == "__main__":
    # The one thing in the process that is not as in every other actor.
    with mock.patch("actors.process.make_vector", make_hacked):
        sys.exit(actor_host.main(sys.argv[1]))
