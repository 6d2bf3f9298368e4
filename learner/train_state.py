"""Everything that an update changes, as one tree of arrays: it can be checkpointed, compared and moved as one value.

How it changes is in `learner.update`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from learner.config import LearnerConfig
from learner.optimizer import make_optimizer
from policies.initialisation import initial_parameters
from policies.spec import PolicySpec


class TrainState(NamedTuple):
    """All randomness was in the first parameters: updates are deterministic."""

    parameters: dict[str, Array]
    """By name, as in an artifact."""
    optimizer_state: optax.OptState
    """Of the parameters that gradients change: see `trained`."""
    updates: Int[Array, ""]
    """Updates made so far; also the version of the policy."""


def initial_state(spec: PolicySpec, config: LearnerConfig, seed: int) -> TrainState:
    """A freshly initialised network and optimizer; equal seeds give equal states."""
    parameters = {name: jnp.asarray(value) for name, value in initial_parameters(spec, seed).items()}
    optimizer_state = jax.jit(make_optimizer(config).init)(trained(parameters))
    return TrainState(parameters, optimizer_state, jnp.zeros((), jnp.int32))


def trained(parameters: dict[str, Array]) -> dict[str, Array]:
    """The parameters that gradients change: all but the figures by which observations are normalized."""
    return {name: array for name, array in parameters.items() if not name.startswith("normalizer/")}
