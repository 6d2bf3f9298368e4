"""The contract of a policy that acts: observations in, actions with their log-probabilities out. Imports no framework.

All backends share the preprocessing below and the sampling of policies.distributions, so that they differ in nothing
but who computes the parameters of the distributions.
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
      action: [N, *action shape], as the specification's action space has it.
      log_prob: float32 [N], log-probability of `action`; of a box, the logarithm of its density.
      logits: float32 [N, P], the parameters of the distribution: of choices the logits, not normalised.
      identity: who chose, where a service chose with whatever policy it had; None where the policy that was called did.
      state: float32 [N, S], what a recurrent policy must be given at the next step; None where it is not recurrent.
    """

    action: NDArray[Any]
    log_prob: NDArray[np.float32]
    logits: NDArray[np.float32]
    identity: PolicyIdentity | None = None
    state: NDArray[np.float32] | None = None


class RandomSource(Protocol):
    """What a policy draws its actions from: a generator of NumPy is one, and so is one that keeps its rows apart."""

    def random(self, size: tuple[int, int], dtype: type[np.float32]) -> NDArray[np.float32]:
        """Numbers in [0, 1) of that shape, one row per environment; the array belongs to the caller."""


class Policy(Protocol):
    """A stochastic policy. One thread at a time: implementations reuse their buffers."""

    @property
    def spec(self) -> PolicyInterface:
        """What goes in and comes out."""

    @property
    def state_size(self) -> int:
        """S: numbers that it keeps from step to step for one environment; 0 where it is not recurrent."""

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        """Draws one action per observation [N, *observation shape]. The result shares no memory with the policy.

        Args:
          observation: what is seen.
          generator: what the actions are drawn from.
          state: float32 [N, S], from the step before; zeros where an episode begins. None: zeros everywhere.

        Raises:
          ValueError: the observation's or the state's shape or type is not that of the specification.
        """


def as_float32(observation: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Writes an observation into `out` (same shape) as the network takes it.

    Images, that is dtype |u1, are divided by 255; every other type, bool included, is cast.
    """
    if observation.dtype == np.uint8:
        np.multiply(observation, np.float32(1 / 255), out=out, casting="unsafe")
    else:
        np.copyto(out, observation, casting="unsafe")


def check_observation(observation: NDArray[Any], spec: PolicyInterface) -> None:
    """Raises ValueError unless `observation` is [N, *observation shape], N at least 1, of the specified type."""
    space = spec.observation
    if observation.ndim == 0 or observation.shape[1:] != space.shape or observation.shape[0] < 1:
        wanted = ", ".join(map(str, ("N", *space.shape)))
        raise ValueError(f"observation has shape {list(observation.shape)}, the policy wants [{wanted}] with N >= 1")
    if observation.dtype != space.dtype:
        # Not cast silently: whether 255 means white or two hundred fifty-five depends on the type.
        raise ValueError(f"observation has type {observation.dtype}, the policy wants {space.dtype}")


def checked_state(state: NDArray[np.float32] | None, rows: int, size: int) -> NDArray[np.float32]:
    """The state, zeros where it is None; raises ValueError unless it is float32 [rows, size]."""
    if state is None:
        return np.zeros((rows, size), np.float32)
    if state.shape != (rows, size) or state.dtype != np.float32:
        raise ValueError(f"state is {state.dtype} {list(state.shape)}, the policy wants float32 [{rows}, {size}]")
    return state
