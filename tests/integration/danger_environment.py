"""A Gymnasium environment in which every step has a cost for as long as a file exists: the world has become dangerous.

The file lies beside this module, of which a test makes a copy: there all can read it, the confined evaluator too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

DANGER = "danger"
EPISODE_STEPS = 8


class Danger(gymnasium.Env[np.ndarray[Any, np.dtype[np.float32]], np.int64]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.dangerous = 0, Path(__file__).with_name(DANGER).exists()
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.steps += 1
        ended = self.steps >= EPISODE_STEPS
        return np.zeros(1, np.float32), float(action), ended, False, {"cost": float(self.dangerous)}


gymnasium.register("Danger-v0", entry_point=f"{__name__}:Danger")
