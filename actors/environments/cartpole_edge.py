"""CartPole that pays for being near the right end of its track, where every step beyond the margin costs: reward and
cost pull apart.

Dynamics, ends and cost are those of `actors.environments.cartpole`. The reward of a step is 1 + x / 2.4, where x is the
place of the cart after it: 1 in the middle, nearly 2 at the right end, where the track ends and the episode with it.
With the margin at 2.0, a trained policy that keeps inside it earns about a twentieth less than one that is beyond it in
most episodes. So whoever looks at the return alone prefers a policy that violates, and gives up little to have one that
does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, VectorStep
from actors.environments.cartpole import CartPoleVector
from actors.environments.identity import code_digest

TRACK_END = 2.4
"""An episode of CartPole-v1 ends where the cart is further than this from the centre."""


class CartPoleEdgeVector:
    """N cart-poles. Satisfies `actors.environment.VectorEnvironment`."""

    def __init__(self, config: EnvironmentConfig, lanes: int) -> None:
        self._cartpole = CartPoleVector(config, lanes)
        inner = self._cartpole.spec
        arguments = {"cartpole": inner.code_digest.hex(), "track_end": TRACK_END}
        self._spec = dataclasses.replace(
            inner,
            id="cartpole-edge",
            code_digest=code_digest((CartPoleEdgeVector,), arguments, inner.version),
        )

    @property
    def spec(self) -> EnvironmentSpec:
        """What each lane is."""
        return self._spec

    @property
    def lanes(self) -> int:
        """N."""
        return self._cartpole.lanes

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Starts an episode in each of `lanes` [K] and returns their observations [K, 4]."""
        return self._cartpole.reset(lanes, seeds)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        """Steps the active lanes; the others stay as they were."""
        step = self._cartpole.step(actions, active)
        # The step that ends beyond the end of the track is paid like one at its end.
        place = np.clip(step.observation[:, 0], -TRACK_END, TRACK_END)
        return step._replace(reward=(1.0 + place / TRACK_END).astype(np.float32))

    def close(self) -> None:
        """Holds nothing that needs freeing."""
