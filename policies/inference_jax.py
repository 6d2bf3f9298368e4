"""The forward pass of a policy by the learner's own network under `jax.jit`; for accelerators and large networks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.distributions import sample
from policies.networks import functional
from policies.policy import ActionBatch, RandomSource, check_observation, checked_state
from policies.spec import PolicySpec

Forward = Callable[[dict[str, jax.Array], dict[str, NDArray[Any]], NDArray[np.float32]], tuple[jax.Array, jax.Array]]


class JaxPolicy:
    """A policy computed by JAX on its default device; satisfies `policies.policy.Policy`.

    Args:
      artifact: specification and parameters. Policies of one specification share their compiled code.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._spec = artifact.spec
        self._forward = _compiled(artifact.spec)
        self._parameters = {name: jnp.asarray(array) for name, array in artifact.parameters.items()}

    @property
    def spec(self) -> PolicySpec:
        """What the policy is."""
        return self._spec

    @property
    def state_size(self) -> int:
        """S."""
        return self._spec.state_size

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        """See `policies.policy.Policy.act`."""
        check_observation(observation, self._spec)
        rows = len(observation)
        state = checked_state(state, rows, self.state_size)
        # Every new batch size is compiled anew: round it up to a power of two, so that there are few.
        padding = (1 << (rows - 1).bit_length()) - rows
        if padding:
            observation = np.concatenate([observation, np.repeat(observation[-1:], padding, axis=0)])
            state = np.concatenate([state, np.repeat(state[-1:], padding, axis=0)])
        columns = {
            name: np.ascontiguousarray(part) for name, part in self._spec.observation.columns(observation).items()
        }
        outputs = self._forward(self._parameters, columns, state)
        logits, following = (np.array(output)[:rows] for output in outputs)
        action, log_prob = sample(logits, self._spec.action, generator)
        return ActionBatch(action, log_prob, logits, state=following)


@functools.lru_cache(maxsize=8)
def _compiled(spec: PolicySpec) -> Forward:
    """Logits [N, P] and next state [N, S] as a jitted function of parameters, parts [N, ...] and state [N, S]."""
    apply = functional(spec)

    def forward(
        parameters: dict[str, jax.Array], columns: dict[str, jax.Array], state: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        sequences = {name: part[None] for name, part in columns.items()}
        output = apply(parameters, sequences, state, jnp.zeros((1, len(state)), jnp.bool_))
        return output.logits[0], output.state

    return jax.jit(forward)
