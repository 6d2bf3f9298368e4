"""The forward pass of a policy by the learner's own network under `jax.jit`; for accelerators and large networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.networks import ActorCritic, blank_model, load_parameters
from policies.policy import ActionBatch, RandomSource, check_observation, most_probable, sample_categorical
from policies.spec import PolicySpec

Forward = Callable[[Any, NDArray[Any]], jax.Array]


class JaxPolicy:
    """A policy computed by JAX on its default device; satisfies `policies.policy.Policy`.

    Args:
      artifact: specification and parameters. Policies of one specification share their compiled code.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._spec = artifact.spec
        template, self._forward = _compiled(artifact.spec)
        model = nnx.clone(template)
        load_parameters(model, artifact.parameters)
        self._state = nnx.state(model)

    @property
    def spec(self) -> PolicySpec:
        """What the policy is."""
        return self._spec

    def act(self, observation: NDArray[Any], generator: RandomSource) -> ActionBatch:
        """See `policies.policy.Policy.act`."""
        logits = self._logits(observation)
        action, log_prob = sample_categorical(logits, generator)
        return ActionBatch(action, log_prob, logits)

    def greedy(self, observation: NDArray[Any]) -> NDArray[np.int32]:
        """See `policies.policy.Policy.greedy`."""
        return most_probable(self._logits(observation))

    def _logits(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        check_observation(observation, self._spec)
        rows = observation.shape[0]
        # Every new batch size is compiled anew: round it up to a power of two, so that there are few.
        padding = (1 << (rows - 1).bit_length()) - rows
        if padding:
            observation = np.concatenate([observation, np.repeat(observation[-1:], padding, axis=0)])
        return np.array(self._forward(self._state, observation))[:rows]


@functools.lru_cache(maxsize=8)
def _compiled(spec: PolicySpec) -> tuple[ActorCritic, Forward]:
    """A blank model of `spec` to copy, and its logits as a jitted function of (state, observation [N, ...])."""
    template = blank_model(spec)
    graph = nnx.graphdef(template)

    def logits(state: Any, observation: jax.Array) -> jax.Array:
        model: ActorCritic = nnx.merge(graph, state)
        return model(observation)[0]

    return template, jax.jit(logits)
