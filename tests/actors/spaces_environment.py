"""Environments of other spaces than one array and one choice: gym:tests.actors.spaces_environment:NAME.

    Steered-v0   a dict of an image, a vector and a truth value; actions of two real numbers
    Switched-v0  the same; actions of [3, 2] choices

The point moves as it is steered; the image shows roughly where it is. Episodes terminate beyond the edge, and are
truncated after 12 steps. A step at the edge costs 0.5.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiBinary, MultiDiscrete
from numpy.typing import NDArray

from actors.config import EnvironmentConfig

SIZE = 7
EDGE = 0.95
STEERED = EnvironmentConfig("gym:tests.actors.spaces_environment:Steered-v0")
SWITCHED = EnvironmentConfig("gym:tests.actors.spaces_environment:Switched-v0")


class Steered(gymnasium.Env[dict[str, Any], NDArray[Any]]):
    """A point in a square."""

    observation_space = Dict(
        {
            "image": Box(0, 255, (SIZE, SIZE, 1), np.uint8),
            "inner": Dict({"speed": Box(-5.0, 5.0, (2,), np.float32), "edge": MultiBinary(1)}),
        }
    )
    action_space: Any = Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Somewhere near the middle."""
        super().reset(seed=seed)
        self._place = self.np_random.uniform(-0.5, 0.5, 2)
        self._speed = np.zeros(2)
        return self._observe(), {}

    def step(self, action: NDArray[Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steered by `action` in [-1, 1]."""
        self._speed = 0.7 * self._speed + 0.15 * self._pushed(action)
        self._place = self._place + self._speed
        out = bool(np.abs(self._place).max() > 1.2)
        cost = 0.5 if np.abs(self._place).max() > EDGE else 0.0
        return self._observe(), float(-np.square(self._place).sum()), out, False, {"cost": cost}

    def _pushed(self, action: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(action, np.float64)

    def _observe(self) -> dict[str, Any]:
        image = np.zeros((SIZE, SIZE, 1), np.uint8)
        row, column = np.clip(((self._place + 1) / 2 * SIZE).astype(int), 0, SIZE - 1)
        image[row, column] = 200
        edge = np.array([np.abs(self._place).max() > EDGE], np.int8)
        return {"image": image, "inner": {"speed": self._speed.astype(np.float32), "edge": edge}}


class Switched(Steered):
    """The same, steered by a switch of three positions and one of two."""

    action_space = MultiDiscrete([3, 2])

    def _pushed(self, action: NDArray[Any]) -> NDArray[Any]:
        return np.array([action[0] - 1.0, 2.0 * action[1] - 1.0])


for _name in ("Steered", "Switched"):
    gymnasium.register(f"{_name}-v0", entry_point=f"{__name__}:{_name}", max_episode_steps=12)
