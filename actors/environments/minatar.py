"""The games of MinAtar (Young and Tian, arXiv 1903.03176), with the defaults of that package.

Observations are b1 [10, 10, C]; all games have 6 actions; an action is repeated in place of the chosen one with
probability 0.1, and difficulty ramps. MinAtar has no step limit: ours truncates. There is no cost.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, MissingExtra, Transition
from actors.environments.headless import without_drawing
from actors.environments.identity import code_digest, package_version
from policies.spaces import array_space, discrete

try:
    with without_drawing():
        from minatar.environment import Environment as MinAtarEnvironment
except ModuleNotFoundError as error:
    raise MissingExtra("environments 'minatar:GAME' need MinAtar: pip install 'temper[minatar]'") from error

EPISODE_STEPS_MAX = 5000
"""Far beyond what the published agents reach; it only keeps an episode from lasting for ever."""


class MinAtar:
    """One game. Satisfies `actors.environment.Environment`.

    Args:
      game: "asterix", "breakout", "freeway", "seaquest" or "space_invaders".
      config: `episode_steps_max` is used.
    """

    def __init__(self, game: str, config: EnvironmentConfig) -> None:
        self._steps_max = config.episode_steps_max or EPISODE_STEPS_MAX
        self._game: Any = MinAtarEnvironment(game)
        version = package_version("MinAtar")
        rules = importlib.import_module(f"minatar.environments.{game}").Env
        arguments = {"game": game, "episode_steps_max": self._steps_max}
        self.spec = EnvironmentSpec(
            id=f"minatar:{game}",
            version=version,
            code_digest=code_digest((MinAtarEnvironment, rules, MinAtar), arguments, version),
            observation=array_space(tuple(self._game.state_shape()), "|b1"),
            action=discrete(self._game.num_actions()),
            episode_steps_max=self._steps_max,
        )

    def reset(self, seed: int) -> NDArray[np.bool_]:
        """Starts a game with a RandomState of its own for `seed`."""
        # A RandomState takes 32 bits at a time, as a sequence; MinAtar itself would keep the last action of the
        # previous episode to repeat it.
        self._game.seed([seed & 0xFFFFFFFF, seed >> 32])
        self._game.last_action = 0
        self._game.reset()
        self._steps = 0
        return self._observe()

    def step(self, action: int) -> Transition:
        """Takes one step."""
        reward, terminated = self._game.act(action)
        self._steps += 1
        truncated = not terminated and self._steps >= self._steps_max
        return Transition(self._observe(), float(reward), 0.0, bool(terminated), truncated)

    def close(self) -> None:
        """Holds nothing that needs freeing."""

    def _observe(self) -> NDArray[np.bool_]:
        state: NDArray[np.bool_] = self._game.state()
        return state
