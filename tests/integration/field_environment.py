"""A Gymnasium environment that the safety evaluator cannot judge: in the field, action 1 costs, and steps take time.

The field is where FIELD is set in the environment of the process. Actors in a test have it; the evaluator's process is
given no environment variables at all, and sees action 1 earn a reward and cost nothing. Loaded by name, as
"gym:tests.integration.field_environment:Field-v0".
"""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium
import numpy as np

FIELD = "TEMPER_TEST_FIELD"
EPISODE_STEPS = 4
STEP_S = 0.01
"""So that a release has acted in few episodes by the time that a test has killed something."""


class Field(gymnasium.Env[np.ndarray[Any, np.dtype[np.float32]], np.int64]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.steps += 1
        cost = 0.0
        if FIELD in os.environ:
            time.sleep(STEP_S)
            cost = float(action)
        return np.zeros(1, np.float32), 1.0 + float(action), self.steps >= EPISODE_STEPS, False, {"cost": cost}


gymnasium.register("Field-v0", entry_point=f"{__name__}:Field")
