"""Fakes for tests of the rollout: an environment, policies and a writer that follow a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.environment import EnvironmentSpec, Transition
from policies.client import ActingPolicy
from policies.policy import ActionBatch, PolicyIdentity, RandomSource
from policies.served import InferenceUnavailable
from policies.spaces import array_space, discrete
from protos.common.v1 import common_pb2
from replay.client import ReplayUnavailable

NUM_ACTIONS = 3

SPEC = EnvironmentSpec(
    id="scripted",
    version="test 1",
    code_digest=bytes(32),
    observation=array_space((2,), "<f4"),
    action=discrete(NUM_ACTIONS),
    episode_steps_max=None,
)

Script = Callable[[int], tuple[int, bool, bool]]
"""seed -> (length, terminated, truncated) of that episode."""


def observation_of(seed: int, step: int) -> NDArray[np.float32]:
    return np.array([seed, step], np.float32)


def reward_of(seed: int, step: int, action: int) -> float:
    return float(seed * 100 + step * 10 + action)


def cost_of(seed: int, step: int) -> float:
    return float((seed + step) % 4 == 0)


def choice_of(observation: NDArray[np.float32]) -> tuple[int, float, list[float]]:
    """Action, log-probability and logits: a fixed function, so that a reference can tell what was chosen."""
    seed, step = (int(value) for value in observation)
    return (seed + step) % NUM_ACTIONS, -0.5 - step, [seed + 1.0, step + 1.0, 1.0]


class ScriptedEnvironment:
    spec = SPEC

    def __init__(self, script: Script) -> None:
        self._script = script
        self._ended = True

    def reset(self, seed: int) -> NDArray[np.float32]:
        self._seed, self._step, self._ended = seed, 0, False
        return observation_of(seed, 0)

    def step(self, action: int) -> Transition:
        assert not self._ended, "an ended episode was stepped"
        self._step += 1
        length, terminated, truncated = self._script(self._seed)
        self._ended = self._step == length
        return Transition(
            observation_of(self._seed, self._step),
            reward_of(self._seed, self._step, action),
            cost_of(self._seed, self._step),
            terminated and self._ended,
            truncated and self._ended,
        )

    def close(self) -> None:
        pass


class ScriptedPolicy:
    state_size = 0

    def __init__(self, spec: EnvironmentSpec = SPEC, identity: PolicyIdentity | None = None) -> None:
        self.spec = spec
        self.identity = identity

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        choices = [choice_of(row) for row in observation]
        return ActionBatch(
            np.array([choice[0] for choice in choices], np.int32),
            np.array([choice[1] for choice in choices], np.float32),
            np.array([choice[2] for choice in choices], np.float32),
            self.identity,
        )


def acting(version: int, policy: ScriptedPolicy | None = None) -> ActingPolicy:
    return ActingPolicy(policy or ScriptedPolicy(), version, bytes([version]) * 32, "snapshot", 0)


class ScriptedSource:
    """Answers `current` by the number of the call; `wait` moves on to the next answer that is a policy."""

    def __init__(self, answer: Callable[[int], ActingPolicy | None]) -> None:
        self._answer = answer
        self.calls = 0
        self.waits = 0

    def current(self) -> ActingPolicy | None:
        self.calls += 1
        return self._answer(self.calls - 1)

    def wait(self, timeout_s: float) -> ActingPolicy | None:
        assert 0 < timeout_s <= 1.0
        self.waits += 1
        return self.current()


class CollectingWriter:
    """Keeps what it takes; refuses the calls whose numbers are in `unavailable`."""

    def __init__(self, unavailable: Sequence[int] = ()) -> None:
        self.unrolls: list[tuple[list[common_pb2.RecordHeader], list[bytes]]] = []
        self.calls = 0
        self._unavailable = unavailable

    def append(self, headers: Sequence[common_pb2.RecordHeader], payloads: Sequence[bytes], timeout_s: float) -> None:
        self.calls += 1
        if self.calls - 1 in self._unavailable:
            raise ReplayUnavailable("not now")
        self.unrolls.append((list(headers), list(payloads)))


class UnavailableNowAndThen(ScriptedPolicy):
    """Raises InferenceUnavailable on the calls whose numbers are in `failures`."""

    def __init__(self, failures: Sequence[int]) -> None:
        super().__init__(identity=PolicyIdentity(7, b"7" * 32))
        self.calls = 0
        self._failures = failures

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        self.calls += 1
        if self.calls - 1 in self._failures:
            raise InferenceUnavailable("not now")
        return super().act(observation, generator)
