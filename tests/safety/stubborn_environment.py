"""An environment that misbehaves only for a policy that chooses action 1 thirty times in a row: candidates can be made
that do, and planted episodes, which choose at random, never do. Otherwise as `misbehaving_environments`.

Loaded by name, as "gym:tests.safety.stubborn_environment:stubborn-hangs-v0".
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from tests.safety import misbehaving_environments
from tests.safety.misbehaving_environments import Misbehaving

STREAK = 30
EPISODE_STEPS = 40


class Stubborn(Misbehaving):
    """Episodes of forty steps."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.streak = 0
        self.made = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.streak = self.made = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: np.int64) -> Any:
        self.streak = self.streak + 1 if action == 1 else 0
        self.made += 1
        # The episode ends when this says so.
        self.steps = misbehaving_environments.EPISODE_STEPS if self.made >= EPISODE_STEPS else 0
        return super().step(np.int64(1 if self.streak >= STREAK else 0))


for name in misbehaving_environments.MISBEHAVIOURS:
    gymnasium.register(f"stubborn-{name}-v0", Stubborn, kwargs={"misbehaviour": name})
