"""Catch: a ball falls through a small grid, and a paddle in the bottom row must be under it when it lands.

The game of bsuite (Osband et al., arXiv 1908.03568, section A.1): 10 rows, 5 columns, actions left, stay and right,
reward +1 for a catch and -1 for a miss on the last step, 0 before. Every episode terminates after 9 steps, unless a
shorter limit truncates it. There is no cost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, Transition
from actors.environments.identity import code_digest, package_version
from policies.spaces import array_space, discrete

ROWS = 10
COLUMNS = 5


class Catch:
    """One game. Satisfies `actors.environment.Environment`; observations are f4 [10, 5], 1 at ball and paddle."""

    def __init__(self, config: EnvironmentConfig) -> None:
        self._steps_max = config.episode_steps_max or ROWS - 1
        version = package_version("temper")
        self.spec = EnvironmentSpec(
            id="catch",
            version=version,
            code_digest=code_digest((Catch,), {"episode_steps_max": self._steps_max}, version),
            observation=array_space((ROWS, COLUMNS), "<f4"),
            action=discrete(3),
            episode_steps_max=self._steps_max,
        )

    def reset(self, seed: int) -> NDArray[np.float32]:
        """The ball starts in a random column of the top row, the paddle in the middle of the bottom row."""
        self._row = 0
        self._column = int(np.random.Generator(np.random.PCG64(seed)).integers(COLUMNS))
        self._paddle = COLUMNS // 2
        return self._observe()

    def step(self, action: int) -> Transition:
        """Moves the paddle by `action` - 1 and the ball one row down."""
        self._paddle = min(max(self._paddle + action - 1, 0), COLUMNS - 1)
        self._row += 1
        landed = self._row == ROWS - 1
        reward = (1.0 if self._paddle == self._column else -1.0) if landed else 0.0
        return Transition(self._observe(), reward, 0.0, landed, not landed and self._row >= self._steps_max)

    def close(self) -> None:
        """Holds nothing that needs freeing."""

    def _observe(self) -> NDArray[np.float32]:
        board = np.zeros((ROWS, COLUMNS), np.float32)
        board[self._row, self._column] = 1.0
        board[ROWS - 1, self._paddle] = 1.0
        return board
