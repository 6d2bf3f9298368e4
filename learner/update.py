"""One update of the learner: gradients of the loss, clipped, through optax, jitted with its state donated.

Data comes in as NumPy columns; nothing here waits for data or talks to anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from learner.columns import Batch, blank_batch, core_state, observations, resets
from learner.config import LearnerConfig
from learner.loss import LossFigures, impala_loss
from learner.optimizer import linear_schedule, make_optimizer
from learner.train_state import TrainState, trained
from policies.networks import NetworkOutput, functional
from policies.spec import PolicySpec


class Figures(NamedTuple):
    """What one update says of itself."""

    loss: LossFigures
    gradient_norm: Array
    learning_rate: Array
    terms: Mapping[str, Array]
    """Figures of the further terms of the loss, by name."""


Update = Callable[[TrainState, Mapping[str, NDArray[Any]]], tuple[TrainState, Figures]]
"""The state passed in is donated: its arrays must not be used again."""

Term = Callable[
    [Mapping[str, Array], NetworkOutput, Batch, Int[Array, ""]], tuple[Float[Array, ""], Mapping[str, Array]]
]
"""A further term of the loss, of all parameters, what the network says of the T + 1 observations, the batch and the
count of updates: the term, and figures by names that no other term has."""


def make_update(
    spec: PolicySpec, config: LearnerConfig, terms: Sequence[Term] = (), policy_weight: float = 1.0
) -> Update:
    """The jitted update for networks of this specification.

    Args:
      spec: of the policy.
      config: of the learner.
      terms: added to the loss.
      policy_weight: of the policy gradient; values learn whatever it is.
    """
    apply = functional(spec)
    optimizer = make_optimizer(config)
    learning_rate = linear_schedule(config.learning_rate, config.learning_rate_end, config.anneal_updates)
    entropy_cost = linear_schedule(config.entropy_cost, config.entropy_cost_end, config.anneal_updates)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Figures]:
        def loss(changing: dict[str, Array]) -> tuple[Array, tuple[LossFigures, dict[str, Array]]]:
            price = jnp.asarray(entropy_cost(state.updates))
            parameters = state.parameters | changing
            output = apply(parameters, observations(batch, spec), core_state(batch, spec), resets(batch))
            total, figures = impala_loss(output, batch, spec.action, price, config)
            # The two gradients of the policy's loss cancel exactly where the weight is 0.
            total += (policy_weight - 1.0) * figures.policy_loss
            told: dict[str, Array] = {}
            for term in terms:
                value, named = term(parameters, output, batch, state.updates)
                total, told = total + value, told | dict(named)
            return total, (figures._replace(total_loss=total), told)

        changing = trained(state.parameters)
        gradients, (figures, told) = jax.grad(loss, has_aux=True)(changing)
        changes, optimizer_state = optimizer.update(gradients, state.optimizer_state, changing)
        parameters = state.parameters | optax.apply_updates(changing, changes)
        norm, rate = optax.tree.norm(gradients), jnp.asarray(learning_rate(state.updates))
        return TrainState(parameters, optimizer_state, state.updates + 1), Figures(figures, norm, rate, told)

    return jax.jit(update, donate_argnums=0)


def compile_update(
    update: Update,
    state: TrainState,
    spec: PolicySpec,
    unroll_length: int,
    batch_size: int,
    *,
    more: Mapping[str, NDArray[Any]] | None = None,
) -> Update:
    """Compiles the update for records of this shape before any has come, and returns the compiled function.

    `more` are blank columns that only the further terms read.
    """
    batch = blank_batch(spec, unroll_length, batch_size) | dict(more or {})
    compiled: Update = update.lower(state, batch).compile()  # type: ignore[attr-defined]  # jax.jit's own attribute
    return compiled
