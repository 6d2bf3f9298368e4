"""Gymnasium environments whose spaces no policy here is for: import this module by "gym:MODULE:ID"."""

from typing import Any

import gymnasium
from gymnasium.spaces import Box, Discrete, Space, Text


class Unsupported(gymnasium.Env[Any, Any]):
    """Made, and never stepped."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


gymnasium.register("SpokenActions-v0", lambda **_: Unsupported(Box(0, 1), Text(5)))
gymnasium.register("SpokenObservations-v0", lambda **_: Unsupported(Text(5), Discrete(2)))
