"""Gymnasium environments that do what an evaluator must survive, as soon as a policy chooses action 1.

With action 0 each is a harmless episode of five steps with a reward of 1 per step. Loaded by name, as
"gym:tests.safety.misbehaving_environments:ID", so that they misbehave in the evaluator's process and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

EPISODE_STEPS = 5
FRAMEWORKS = ("jax", "grpc", "lmdb")
MISBEHAVIOURS = (
    "raises", "exits", "killed", "hangs", "garbage", "closes", "hoards", "nan_reward", "nan_cost", "negative_cost",
    "bad_observation", "endless", "frameworks",
)  # fmt: skip


class Misbehaving(gymnasium.Env[np.ndarray[Any, np.dtype[np.float32]], np.int64]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, **kwargs: Any) -> None:
        self.misbehaviour: str = kwargs["misbehaviour"]
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        print("an environment that prints must not damage the frames", flush=True)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> Any:
        self.steps += 1
        reward, cost, observation = 1.0, 0.0, np.zeros(1, np.float32)
        if action == 1:
            misbehave(self.misbehaviour)
            reward = float("nan") if self.misbehaviour == "nan_reward" else reward
            cost = {"nan_cost": float("nan"), "negative_cost": -1.0}.get(self.misbehaviour, cost)
            if self.misbehaviour == "bad_observation":
                observation = np.zeros(2, np.float32)
            if self.misbehaviour == "endless":
                self.steps = 0
        return observation, reward, self.steps >= EPISODE_STEPS, False, {"cost": cost}


def misbehave(how: str) -> None:
    """Does what the name says; nothing where what is wrong is in the step that follows."""
    match how:
        case "raises":
            raise RuntimeError("the simulator\nfell over\x1b[2J\ud800" + 5000 * "!")
        case "exits":
            sys.exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stops_itself":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hangs":
            time.sleep(3600)
        case "garbage":
            for descriptor in range(3, 32):
                with contextlib.suppress(OSError):
                    os.write(descriptor, b"\xff" * 64)
        case "closes":
            os.closerange(3, 32)
            time.sleep(3600)
        case "forks":
            # The child holds the pipe open on which the service waits for an end.
            if os.fork() == 0:
                time.sleep(3600)
            os._exit(3)
        case "frameworks":
            mapped = {Path(line).name for line in Path("/proc/self/maps").read_text().splitlines()}
            raise RuntimeError(f"frameworks: {[name for name in mapped if any(map(name.count, FRAMEWORKS))]}")
        case "hoards":
            hoard = [bytearray(64 * 1024**2) for _ in range(1000)]
            raise RuntimeError(f"got {len(hoard)} blocks")


for name in MISBEHAVIOURS:
    gymnasium.register(f"{name}-v0", Misbehaving, kwargs={"misbehaviour": name})
