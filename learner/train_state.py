"""Everything that an update changes, as one tree of arrays: it can be checkpointed, compared and moved as one value.

How it changes is in `learner.update`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from learner.config import LearnerConfig
from learner.moments import Moments, no_moments
from learner.normalizer import Normalizer, first_normalizer, normalizer_of
from learner.optimizer import make_optimizer
from policies.initialisation import initial_parameters
from policies.spec import PolicySpec


class Auxiliary(NamedTuple):
    """What else an update changes; None where the settings do not ask for it."""

    target: dict[str, Array] | None = None
    """All parameters as they were when they were last copied, `target_updates` ago at most."""
    popart: Moments | None = None
    """Of the value targets; see `learner.popart`."""
    normalizer: Normalizer | None = None
    """Of the observations; the parameters have what follows from it."""
    multiplier: Float[Array, ""] | None = None
    """Price of one unit of cost, in scaled reward; see `learner.constraint`."""


NO_AUXILIARY = Auxiliary()


class TrainState(NamedTuple):
    """All randomness was in the first parameters: updates are deterministic."""

    parameters: dict[str, Array]
    """By name, as in an artifact."""
    optimizer_state: optax.OptState
    """Of the parameters that gradients change: see `trained`."""
    updates: Int[Array, ""]
    """Updates made so far; also the version of the policy."""
    auxiliary: Auxiliary = NO_AUXILIARY


def initial_state(spec: PolicySpec, config: LearnerConfig, seed: int) -> TrainState:
    """A freshly initialised network and optimizer; equal seeds give equal states."""
    parameters = {name: jnp.asarray(value) for name, value in initial_parameters(spec, seed).items()}
    optimizer_state = jax.jit(make_optimizer(config).init)(trained(parameters))
    auxiliary = Auxiliary(
        target=copied(parameters) if config.target_updates else None,
        popart=no_moments() if config.popart_rate else None,
        normalizer=first_normalizer(spec),
        multiplier=jnp.asarray(config.multiplier, jnp.float32) if config.is_constrained else None,
    )
    return TrainState(parameters, optimizer_state, jnp.zeros((), jnp.int32), auxiliary)


def state_of_artifact(parameters: dict[str, Array], version: int, first: TrainState) -> TrainState:
    """The state to go on from where nothing but an artifact's parameters is left.

    Args:
      parameters: the artifact's.
      version: of its policy.
      first: the first state of the run, whose optimizer, popart figures and price are taken.
    """
    auxiliary = first.auxiliary._replace(
        target=None if first.auxiliary.target is None else copied(parameters),
        normalizer=normalizer_of(parameters, first.auxiliary.normalizer),
    )
    return TrainState(parameters, first.optimizer_state, jnp.asarray(version, jnp.int32), auxiliary)


def trained(parameters: dict[str, Array]) -> dict[str, Array]:
    """The parameters that gradients change: all but the figures by which observations are normalized."""
    return {name: array for name, array in parameters.items() if not name.startswith("normalizer/")}


def copied(parameters: dict[str, Array]) -> dict[str, Array]:
    """Arrays of their own: the update consumes those that it is given, one by one."""
    return {name: jnp.copy(array) for name, array in parameters.items()}
