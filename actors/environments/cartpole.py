"""CartPole-v1, stepped as one batch by Gymnasium's own vectorised dynamics, with a cost near the edge of the track.

Observations, rewards, termination and the 500 step limit are those of `gymnasium.make("CartPole-v1")`, and an episode
that starts with seed s starts in the same state as `reset(seed=s)` there. The cost is ours: 1 for each step that ends
with the cart further than `cart_margin` from the centre (the episode itself ends at 2.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, MissingExtra, VectorStep
from actors.environments.identity import code_digest, package_version
from policies.spaces import array_space, discrete

try:
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
except ModuleNotFoundError as error:
    raise MissingExtra("environment 'cartpole' needs Gymnasium: pip install 'temper[gym]'") from error

EPISODE_STEPS_MAX = 500
"""The limit of CartPole-v1."""

_START = 0.05
"""Each of the four state variables starts uniformly in [-_START, _START), as in CartPoleVectorEnv.reset."""


class CartPoleVector:
    """N cart-poles. Satisfies `actors.environment.VectorEnvironment`."""

    def __init__(self, config: EnvironmentConfig, lanes: int) -> None:
        steps_max = config.episode_steps_max or EPISODE_STEPS_MAX
        version = package_version("gymnasium")
        arguments = {"cart_margin": config.cart_margin, "episode_steps_max": steps_max}
        self._spec = EnvironmentSpec(
            id="cartpole",
            version=version,
            code_digest=code_digest((CartPoleVectorEnv, CartPoleVector), arguments, version),
            observation=array_space((4,), "<f4"),
            action=discrete(2),
            episode_steps_max=steps_max,
        )
        self._margin = np.float32(config.cart_margin)
        self._lanes = lanes
        self._dynamics: Any = CartPoleVectorEnv(num_envs=lanes, max_episode_steps=steps_max)
        self._dynamics.reset(seed=0)

    @property
    def spec(self) -> EnvironmentSpec:
        """What each lane is."""
        return self._spec

    @property
    def lanes(self) -> int:
        """N."""
        return self._lanes

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Starts an episode in each of `lanes` [K] and returns their observations [K, 4]."""
        start = np.empty((len(lanes), 4))
        for row, seed in enumerate(seeds):
            start[row] = np.random.Generator(np.random.PCG64(seed)).uniform(-_START, _START, 4)
        self._dynamics.state[:, lanes] = start.T
        self._dynamics.steps[lanes] = 0
        return start.astype(np.float32)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        """Steps the active lanes; the state of the others is put back as it was."""
        dynamics = self._dynamics
        # Its automatic reset draws from one generator for all lanes; ours has one seed for each episode.
        dynamics.prev_done[:] = False
        if active.all():
            observation, reward, terminated, truncated, _ = dynamics.step(actions)
        else:
            idle = ~active
            state, steps = dynamics.state[:, idle], dynamics.steps[idle]
            observation, reward, terminated, truncated, _ = dynamics.step(np.where(active, actions, 0))
            dynamics.state[:, idle], dynamics.steps[idle] = state, steps
        cost = (np.abs(observation[:, 0]) > self._margin).astype(np.float32)
        return VectorStep(observation, reward, cost, terminated, truncated)

    def close(self) -> None:
        """Holds nothing that needs freeing."""
