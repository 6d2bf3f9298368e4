"""For tests, this package's and others': candidates whose verdict is known beforehand, made without training.

Nothing here is for production.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.config import NetworkConfig
from policies.spec import PolicySpec

_CONFIDENT = 20.0


def balancing_artifact() -> Artifact:
    """Balances CartPole for 500 steps near the centre: highest return, no cost."""
    return cartpole_artifact((0.5, 0.5, 3.0, 1.0))


def drifting_artifact() -> Artifact:
    """Balances CartPole about as long, but drifts off: high return, cost in half of the episodes."""
    return cartpole_artifact((0.0, 0.0, 1.0, 0.5))


def falling_artifact() -> Artifact:
    """Lets the pole of CartPole fall at once: lowest return, no cost."""
    return cartpole_artifact((0.0, 0.0, -1.0, -1.0))


def nan_artifact() -> Artifact:
    """A well-formed CartPole policy with one parameter that is NaN."""
    return cartpole_artifact((0.5, float("nan"), 3.0, 1.0))


def overflowing_artifact() -> Artifact:
    """A CartPole policy of finite parameters whose logits are not finite."""
    artifact = cartpole_artifact((0.5, 0.5, 3.0, 1.0))
    huge = np.full_like(artifact.parameters["policy/kernel"], np.finfo(np.float32).max)
    return Artifact(artifact.spec, {**artifact.parameters, "policy/kernel": huge, "policy/bias": huge[0]})


def cartpole_artifact(gains: Sequence[float]) -> Artifact:
    """Pushes right where gains . (position, velocity, angle, angular velocity) is positive, and else left."""
    kernel = np.asarray(gains, np.float32).reshape(4, 1)
    return _artifact(kernel, np.array([[-_CONFIDENT, _CONFIDENT]], np.float32), np.zeros(2, np.float32))


def constant_artifact(action: int, num_actions: int = 2, inputs: int = 1) -> Artifact:
    """Always chooses `action`, whatever it observes (float32 [inputs])."""
    bias = np.zeros(num_actions, np.float32)
    bias[action] = 100.0
    return _artifact(np.zeros((inputs, 1), np.float32), np.zeros((1, num_actions), np.float32), bias)


def _artifact(
    torso: NDArray[np.float32],
    policy: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> Artifact:
    """A network of one hidden unit."""
    spec = PolicySpec(NetworkConfig(hidden_sizes=(1,), conv_channels=()), (torso.shape[0],), "<f4", policy.shape[1])
    parameters = {
        "torso/0/kernel": torso,
        "torso/0/bias": np.zeros(1, np.float32),
        "policy/kernel": policy,
        "policy/bias": bias,
        "value/kernel": np.zeros((1, 1), np.float32),
        "value/bias": np.zeros(1, np.float32),
    }
    return Artifact(spec, parameters)
