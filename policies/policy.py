"""The contract of a policy that acts: observations in, actions with their log-probabilities out. Imports no framework.

All backends share the preprocessing and the sampling below, so that they differ in nothing but who computes the
logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.spec import PolicyInterface


class PolicyIdentity(NamedTuple):
    """Which policy chose: learner update count and artifact digest (32 bytes)."""

    version: int
    digest: bytes


class ActionBatch(NamedTuple):
    """The actions of N environments, and the behaviour distribution they were drawn from.

    Attributes:
      action: int32 [N], in [0, A).
      log_prob: float32 [N], log-probability of `action`.
      logits: float32 [N, A], not normalised.
      identity: who chose, where a service chose with whatever policy it had; None where the policy that was called did.
    """

    action: NDArray[np.int32]
    log_prob: NDArray[np.float32]
    logits: NDArray[np.float32]
    identity: PolicyIdentity | None = None


class RandomSource(Protocol):
    """What a policy draws its actions from: a generator of NumPy is one, and so is one that keeps its rows apart."""

    def random(self, size: tuple[int, int], dtype: type[np.float32]) -> NDArray[np.float32]:
        """Numbers in [0, 1) of that shape, one row per environment; the array belongs to the caller."""


class Policy(Protocol):
    """A stochastic policy over A discrete actions. One thread at a time: implementations reuse their buffers."""

    @property
    def spec(self) -> PolicyInterface:
        """What goes in and comes out."""

    def act(self, observation: NDArray[Any], generator: RandomSource) -> ActionBatch:
        """Draws one action per observation [N, *observation_shape]. The result shares no memory with the policy.

        Raises:
          ValueError: the observation's shape or type is not that of the specification.
        """

    def greedy(self, observation: NDArray[Any]) -> NDArray[np.int32]:
        """The most probable action (the first among equals) per observation [N, *observation_shape] -> int32 [N]."""


def as_float32(observation: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Writes an observation into `out` (same shape) as the network takes it.

    Images, that is dtype |u1, are divided by 255; every other type, bool included, is cast.
    """
    if observation.dtype == np.uint8:
        np.multiply(observation, np.float32(1 / 255), out=out, casting="unsafe")
    else:
        np.copyto(out, observation, casting="unsafe")


def check_observation(observation: NDArray[Any], spec: PolicyInterface) -> None:
    """Raises ValueError unless `observation` is [N, *observation_shape], N at least 1, of the specified dtype."""
    if observation.ndim == 0 or observation.shape[1:] != spec.observation_shape or observation.shape[0] < 1:
        wanted = ", ".join(map(str, ("N", *spec.observation_shape)))
        raise ValueError(f"observation has shape {list(observation.shape)}, the policy wants [{wanted}] with N >= 1")
    if observation.dtype.str != spec.observation_dtype:
        # Not cast silently: whether 255 means white or two hundred fifty-five depends on the type.
        raise ValueError(f"observation has type {observation.dtype.str}, the policy wants {spec.observation_dtype}")


def most_probable(logits: NDArray[np.float32]) -> NDArray[np.int32]:
    """The first of the largest logits in each row [N, A] -> int32 [N]."""
    action: NDArray[np.int32] = np.argmax(logits, axis=1).astype(np.int32)
    return action


def sample_categorical(
    logits: NDArray[np.float32], generator: RandomSource
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Draws from softmax(logits) by inverting the cumulative distribution with one uniform number per row.

    Args:
      logits: float32 [N, A], finite; a row that is not gives an action in [0, A) and a log-probability of NaN.
      generator: source of randomness; advances by N float32.

    Returns:
      action int32 [N] and its log-probability float32 [N] (log-softmax in float32).
    """
    rows = logits.shape[0]
    shifted: NDArray[np.float32] = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    cumulative: NDArray[np.float32] = np.exp(shifted)
    np.add.accumulate(cumulative, axis=1, out=cumulative)
    total = cumulative[:, -1:]
    threshold = generator.random((rows, 1), dtype=np.float32)
    threshold *= total
    # Not the last column: rounding may lift the threshold to the total, and the last action must then be taken.
    passed = cumulative[:, :-1] <= threshold
    action = np.add.reduce(passed, axis=1, dtype=np.int32)
    log_prob = shifted[np.arange(rows), action]
    log_prob -= np.log(total[:, 0])
    return action, log_prob
