"""An environment registered with Gymnasium that does harm when told to, and records of rollouts in it. Not a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from replay.record import LoggedRecord
from tests.actors.recorded_runs import record_run

ID = "TemperHostile-v0"
CONFIG = EnvironmentConfig(f"gym:{ID}")
STEPS = 6


class HostileEnvironment(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Episodes of STEPS steps. Before each `before_step` is called with the seed and the step; it may do anything."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    before_step: Callable[[int, int], object] = staticmethod(lambda _seed, _step: None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._seed, self._step, self._sum = seed or 0, 0, 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        type(self).before_step(self._seed, self._step)
        self._step, self._sum = self._step + 1, self._sum + int(action)
        return self._observe(), float(self._sum), self._step == STEPS, False, {}

    def _observe(self) -> NDArray[np.float32]:
        return np.array([self._seed % 97 + self._sum / 7, self._step], np.float32)


def hostile_run(**arguments: Any) -> list[LoggedRecord]:
    """As record_run, in this environment."""
    return record_run(CONFIG, **arguments)


@contextmanager
def registered() -> Iterator[type[HostileEnvironment]]:
    """Has it registered, and at first harmless."""
    gymnasium.register(id=ID, entry_point=HostileEnvironment)  # type: ignore[arg-type]
    harmless = HostileEnvironment.before_step
    try:
        yield HostileEnvironment
    finally:
        HostileEnvironment.before_step = staticmethod(harmless)
        del gymnasium.registry[ID]


def standing_still(at: Callable[[int, int], bool], released: threading.Event) -> Callable[[int, int], object]:
    """A `before_step` that stands still where `at` says so, until released."""
    return lambda seed, step: released.wait(60.0) if at(seed, step) else None
