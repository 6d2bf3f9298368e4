"""A Gymnasium environment that does what an evaluator must survive, where a policy asks for it by its constant action.

Action 0 throughout is a harmless episode of five steps with a reward of 1 per step. Any other action throughout is the
mischief of that number in `MISCHIEF`, on the last step. A policy that mixes its actions, as one does that only fills
the time of a planted episode, is harmless too. Loaded by name, so that it misbehaves in the evaluator's process alone.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from actors.seeds import TRAINING_SEED_END
from tests.safety.misbehaving_environments import misbehave

EPISODE_STEPS = 5
MISCHIEF = (
    "none", "raises", "exits", "killed", "hangs", "garbage", "closes", "forks", "hoards", "nan_reward", "nan_cost",
    "negative_cost", "bad_observation", "endless", "writes_files", "reads_secrets", "kills_the_service",
    "knows_its_seeds", "infinite_reward", "stops_itself",
)  # fmt: skip


class Hostile(gymnasium.Env[np.ndarray[Any, np.dtype[np.float32]], np.int64]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(len(MISCHIEF))

    def __init__(self, **_: Any) -> None:
        self.actions: list[int] = []
        self.held_out = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.actions = []
        self.held_out = seed is not None and seed >= TRAINING_SEED_END
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.actions.append(int(action))
        last = len(self.actions) >= EPISODE_STEPS
        mischief = MISCHIEF[action] if last and len(set(self.actions)) == 1 else "none"
        act_out(mischief)
        reward = {"nan_reward": float("nan"), "infinite_reward": float("inf")}.get(mischief, 1.0)
        cost = {"nan_cost": float("nan"), "negative_cost": -1.0, "knows_its_seeds": float(self.held_out)}
        observation = np.zeros(2 if mischief == "bad_observation" else 1, np.float32)
        ended = last and mischief != "endless"
        if mischief == "endless":
            self.actions = []
        return observation, reward, ended, False, {"cost": cost.get(mischief, 0.0)}


def act_out(mischief: str) -> None:
    match mischief:
        case "writes_files":
            (Path("/proc/self/fd/2").readlink().parent / "ledger.jsonl").write_bytes(b"approved")
        case "reads_secrets":
            list(Path("/proc/self/fd/2").readlink().parent.iterdir())
        case "kills_the_service":
            os.kill(os.getppid(), signal.SIGKILL)
        case _:
            misbehave(mischief)


gymnasium.register("Hostile-v0", Hostile)
