"""Catch with memory: the ball is seen in the first rows only, and the paddle can be moved only once it is out of sight.

The grid, the ball and the rewards are those of `actors.environments.catch`: 10 rows, 5 columns, +1 for a catch and -1
for a miss on the last of 9 steps. The ball is shown while it is in one of the first SEEN_ROWS rows; actions chosen then
do nothing. So nothing that the paddle does or shows depends on where the ball is, and whatever a policy without memory
does, it is under the ball once in COLUMNS times: its expected return is MEMORYLESS_RETURN, no more and no less. One
with memory has six moves left for two columns at most, and can reach 1. There is no cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, VectorStep
from actors.environments.catch import COLUMNS, ROWS
from actors.environments.identity import code_digest, package_version
from policies.spaces import array_space, discrete

SEEN_ROWS = 3
"""Rows in which the ball is seen, from the top."""

MEMORYLESS_RETURN = 2.0 / COLUMNS - 1.0
"""Expected return of every policy that chooses by what it sees at the moment."""


class CatchMemoryVector:
    """N games at once. Satisfies `actors.environment.VectorEnvironment`; observations are f4 [N, 10, 5].

    Args:
      config: its `episode_steps_max` may cut episodes short.
      lanes: N.
    """

    def __init__(self, config: EnvironmentConfig, lanes: int) -> None:
        self._steps_max = config.episode_steps_max or ROWS - 1
        version = package_version("temper")
        arguments = {"episode_steps_max": self._steps_max, "board": [ROWS, COLUMNS, SEEN_ROWS]}
        self._spec = EnvironmentSpec(
            id="catch-memory",
            version=version,
            code_digest=code_digest((CatchMemoryVector,), arguments, version),
            observation=array_space((ROWS, COLUMNS), "<f4"),
            action=discrete(3),
            episode_steps_max=self._steps_max,
        )
        self._lanes = np.arange(lanes)
        self._row, self._ball, self._paddle = (np.zeros(lanes, np.int64) for _ in range(3))

    @property
    def spec(self) -> EnvironmentSpec:
        """What each lane is."""
        return self._spec

    @property
    def lanes(self) -> int:
        """N."""
        return len(self._lanes)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[np.float32]:
        """The ball of each of `lanes` [K] starts in a random column of the top row, its paddle in the middle."""
        for lane, seed in zip(lanes.tolist(), seeds, strict=True):
            self._ball[lane] = np.random.Generator(np.random.PCG64(seed)).integers(COLUMNS)
        self._row[lanes], self._paddle[lanes] = 0, COLUMNS // 2
        return self._observe()[lanes]

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        """Moves the paddles whose ball is out of sight by `actions` - 1, and the balls of all active lanes down."""
        moving = active & (self._row >= SEEN_ROWS)
        self._paddle += np.where(moving, actions - 1, 0)
        np.clip(self._paddle, 0, COLUMNS - 1, out=self._paddle)
        self._row += active
        landed = self._row == ROWS - 1
        reward = np.where(landed, np.where(self._paddle == self._ball, 1.0, -1.0), 0.0).astype(np.float32)
        truncated = ~landed & (self._row >= self._steps_max)
        return VectorStep(self._observe(), reward, np.zeros(self.lanes, np.float32), landed, truncated)

    def close(self) -> None:
        """Holds nothing that needs freeing."""

    def _observe(self) -> NDArray[np.float32]:
        boards = np.zeros((self.lanes, ROWS, COLUMNS), np.float32)
        seen = self._row < SEEN_ROWS
        boards[self._lanes[seen], self._row[seen], self._ball[seen]] = 1.0
        boards[self._lanes, ROWS - 1, self._paddle] = 1.0
        return boards
