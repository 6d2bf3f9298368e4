"""One update of the learner: gradients of the loss, clipped, through optax, jitted with its state donated.

Data comes in as NumPy columns; nothing here waits for data or talks to anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from numpy.typing import NDArray

from learner.columns import Batch, blank_batch, core_state, observations, resets
from learner.config import LearnerConfig
from learner.loss import LossFigures, impala_loss
from learner.optimizer import linear_schedule, make_optimizer
from learner.train_state import TrainState, trained
from learner.unrolling import after_burn_in
from policies.networks import functional
from policies.spec import PolicySpec


class Figures(NamedTuple):
    """What one update says of itself."""

    loss: LossFigures
    gradient_norm: Array
    learning_rate: Array


Update = Callable[[TrainState, Mapping[str, NDArray[Any]]], tuple[TrainState, Figures]]
"""The state passed in is donated: its arrays must not be used again."""


def make_update(spec: PolicySpec, config: LearnerConfig) -> Update:
    """The jitted update for networks of this specification."""
    apply = functional(spec)
    optimizer = make_optimizer(config)
    learning_rate = linear_schedule(config.learning_rate, config.learning_rate_end, config.anneal_updates)
    entropy_cost = linear_schedule(config.entropy_cost, config.entropy_cost_end, config.anneal_updates)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Figures]:
        batch = after_burn_in(apply, state.parameters, batch, spec, config.burn_in)

        def loss(changing: dict[str, Array]) -> tuple[Array, LossFigures]:
            price = jnp.asarray(entropy_cost(state.updates))
            parameters = state.parameters | changing
            output = apply(parameters, observations(batch, spec), core_state(batch, spec), resets(batch))
            return impala_loss(output, batch, spec.action, price, config)

        changing = trained(state.parameters)
        gradients, figures = jax.grad(loss, has_aux=True)(changing)
        changes, optimizer_state = optimizer.update(gradients, state.optimizer_state, changing)
        parameters = state.parameters | optax.apply_updates(changing, changes)
        norm, rate = optax.tree.norm(gradients), jnp.asarray(learning_rate(state.updates))
        return TrainState(parameters, optimizer_state, state.updates + 1), Figures(figures, norm, rate)

    return jax.jit(update, donate_argnums=0)


def compile_update(update: Update, state: TrainState, spec: PolicySpec, unroll_length: int, batch_size: int) -> Update:
    """Compiles the update for records of this shape before any has come, and returns the compiled function."""
    batch = blank_batch(spec, unroll_length, batch_size)
    compiled: Update = update.lower(state, batch).compile()  # type: ignore[attr-defined]  # jax.jit's own attribute
    return compiled
