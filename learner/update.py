"""One update of the learner: gradients of the loss, clipped, through optax, jitted with its state donated.

What else the loss needs to remember moves with it: PopArt's figures and the normalizer's by this batch, the price of
cost by what this batch cost, the target network by the clock.

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
from learner.constraint import cost_excess, next_multiplier
from learner.loss import LossFigures, impala_loss
from learner.moments import Moments
from learner.normalizer import next_normalizer, normalizing_figures
from learner.optimizer import linear_schedule, make_optimizer
from learner.popart import moved_gradients, next_moments, preserved, scaling
from learner.train_state import Auxiliary, TrainState, trained
from learner.unrolling import after_burn_in
from policies.networks import NetworkOutput, functional
from policies.spec import PolicySpec


class Figures(NamedTuple):
    """What one update says of itself."""

    loss: LossFigures
    gradient_norm: Array
    learning_rate: Array
    terms: Mapping[str, Array]
    """Figures of the further terms of the loss, by name."""
    cost_excess: Array | None = None
    """Of a learner with a bound on cost: see `learner.constraint.cost_excess`."""
    multiplier: Array | None = None
    """Its price of cost after the update."""


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
    apply, gradients = functional(spec), make_gradients(spec, config, terms, policy_weight)
    optimizer = make_optimizer(config)
    learning_rate = linear_schedule(config.learning_rate, config.learning_rate_end, config.anneal_updates)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Figures]:
        batch = after_burn_in(apply, state.parameters, batch, spec, config.burn_in)
        slopes, figures, told = gradients(state, batch)
        before = scaling(state.auxiliary.popart)
        auxiliary, excess = _next_auxiliary(state, batch, figures, spec, config)
        after = scaling(auxiliary.popart)
        parameters = state.parameters
        if auxiliary.popart is not None:
            slopes, parameters = moved_gradients(slopes, before, after), preserved(parameters, before, after)
        changing = trained(parameters)
        changes, optimizer_state = optimizer.update(slopes, state.optimizer_state, changing)
        parameters = parameters | optax.apply_updates(changing, changes)
        if auxiliary.normalizer is not None:
            parameters |= normalizing_figures(auxiliary.normalizer)
        if auxiliary.target is not None:
            auxiliary = auxiliary._replace(target=_next_target(auxiliary.target, parameters, state, config))
        following = TrainState(parameters, optimizer_state, state.updates + 1, auxiliary)
        norm, rate = optax.tree.norm(slopes), jnp.asarray(learning_rate(state.updates))
        return following, Figures(figures, norm, rate, told, excess, auxiliary.multiplier)

    return jax.jit(update, donate_argnums=0)


Gradients = Callable[[TrainState, Batch], tuple[dict[str, Array], LossFigures, Mapping[str, Array]]]
"""The slopes of the trained parameters, the loss's figures, and those of its further terms."""


def make_gradients(
    spec: PolicySpec, config: LearnerConfig, terms: Sequence[Term] = (), policy_weight: float = 1.0
) -> Gradients:
    """The loss's gradient with respect to the trained parameters of a state, on a batch; as for `make_update`."""
    apply = functional(spec)
    entropy_cost = linear_schedule(config.entropy_cost, config.entropy_cost_end, config.anneal_updates)

    def gradients(state: TrainState, batch: Batch) -> tuple[dict[str, Array], LossFigures, Mapping[str, Array]]:
        price = jnp.asarray(entropy_cost(state.updates))
        inputs = observations(batch, spec), core_state(batch, spec), resets(batch)
        target = None if state.auxiliary.target is None else apply(state.auxiliary.target, *inputs)

        def loss(changing: dict[str, Array]) -> tuple[Array, tuple[LossFigures, dict[str, Array]]]:
            parameters = state.parameters | changing
            output = apply(parameters, *inputs)
            total, figures = impala_loss(
                output, batch, spec.action, price, config, target=target, auxiliary=state.auxiliary
            )
            # The two gradients of the policy's loss cancel exactly where the weight is 0.
            if policy_weight != 1.0:
                upgo = 0.0 if figures.upgo_loss is None else config.upgo_cost * figures.upgo_loss
                total += (policy_weight - 1.0) * (figures.policy_loss + upgo)
            told: dict[str, Array] = {}
            for term in terms:
                value, named = term(parameters, output, batch, state.updates)
                total, told = total + value, told | dict(named)
            return total, (figures._replace(total_loss=total), told)

        slopes, (figures, told) = jax.grad(loss, has_aux=True)(trained(state.parameters))
        return slopes, figures, told

    return gradients


def compile_update(
    update: Update,
    state: TrainState,
    spec: PolicySpec,
    unroll_length: int,
    batch_size: int,
    *,
    behaviour: bool = False,
    more: Mapping[str, NDArray[Any]] | None = None,
) -> Update:
    """Compiles the update for records of this shape before any has come, and returns the compiled function.

    `behaviour` as for `learner.columns.trained_columns`; `more` are blank columns that only the further terms read.
    """
    batch = blank_batch(spec, unroll_length, batch_size, behaviour=behaviour) | dict(more or {})
    compiled: Update = update.lower(state, batch).compile()  # type: ignore[attr-defined]  # jax.jit's own attribute
    return compiled


def _next_auxiliary(
    state: TrainState, batch: Batch, figures: LossFigures, spec: PolicySpec, config: LearnerConfig
) -> tuple[Auxiliary, Array | None]:
    """All but the target network after this batch, and the cost beyond its bound."""
    auxiliary, excess = state.auxiliary, None
    if auxiliary.popart is not None:
        steps = batch["mask"].sum().astype(jnp.float32)
        targets = Moments(steps, figures.target_mean, figures.target_variance)
        auxiliary = auxiliary._replace(popart=next_moments(auxiliary.popart, targets, config.popart_rate))
        if auxiliary.target is not None:
            moved = preserved(auxiliary.target, scaling(state.auxiliary.popart), scaling(auxiliary.popart))
            auxiliary = auxiliary._replace(target=moved)
    if auxiliary.normalizer is not None:
        normalizer = next_normalizer(auxiliary.normalizer, batch, spec, config, state.updates)
        auxiliary = auxiliary._replace(normalizer=normalizer)
    if auxiliary.multiplier is not None:
        excess = cost_excess(batch, config.cost_limit)
        multiplier = next_multiplier(auxiliary.multiplier, excess, config.multiplier_learning_rate)
        auxiliary = auxiliary._replace(multiplier=multiplier)
    return auxiliary, excess


def _next_target(
    target: dict[str, Array], parameters: dict[str, Array], state: TrainState, config: LearnerConfig
) -> dict[str, Array]:
    """The parameters after every `target_updates` updates, and between them what was."""
    is_due = (state.updates + 1) % config.target_updates == 0
    return {name: jnp.where(is_due, parameters[name], array) for name, array in target.items()}
