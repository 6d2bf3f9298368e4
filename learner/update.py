"""One update of the learner: gradients of the loss, clipped, through optax, jitted with its state donated.

The state is a flat tree of arrays, so that it can be checkpointed, compared and moved as one value. Data comes in as
NumPy columns; nothing here waits for data or talks to anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int
from numpy.typing import NDArray

from learner.config import LearnerConfig
from learner.loss import LossFigures, impala_loss
from policies.initialisation import initial_parameters
from policies.networks import ActorCritic, blank_model
from policies.spec import PolicySpec

TRAINED_COLUMNS = ("observation", "action", "reward", "cost", "discount", "mask", "log_prob")
"""Columns of a record that the loss reads."""


class TrainState(NamedTuple):
    """Everything an update changes. All randomness was in the first parameters: updates are deterministic."""

    parameters: dict[str, Array]
    """By name, as in an artifact."""
    optimizer_state: optax.OptState
    updates: Int[Array, ""]
    """Updates made so far; also the version of the policy."""


class Figures(NamedTuple):
    """What one update says of itself."""

    loss: LossFigures
    gradient_norm: Array
    learning_rate: Array


Update = Callable[[TrainState, Mapping[str, NDArray[Any]]], tuple[TrainState, Figures]]
"""The state passed in is donated: its arrays must not be used again."""


def initial_state(spec: PolicySpec, config: LearnerConfig, seed: int) -> TrainState:
    """A freshly initialised network and optimizer; equal seeds give equal states."""
    parameters = {name: jnp.asarray(value) for name, value in initial_parameters(spec, seed).items()}
    return TrainState(parameters, jax.jit(_optimizer(config).init)(parameters), jnp.zeros((), jnp.int32))


def make_update(spec: PolicySpec, config: LearnerConfig) -> Update:
    """The jitted update for networks of this specification."""
    apply = _functional(spec)
    optimizer = _optimizer(config)
    learning_rate = _linear(config.learning_rate, config.learning_rate_end, config.anneal_updates)
    entropy_cost = _linear(config.entropy_cost, config.entropy_cost_end, config.anneal_updates)

    def update(state: TrainState, batch: Mapping[str, Any]) -> tuple[TrainState, Figures]:
        def loss(parameters: dict[str, Array]) -> tuple[Array, LossFigures]:
            price = jnp.asarray(entropy_cost(state.updates))
            return impala_loss(partial(apply, parameters), batch, price, config)

        gradients, figures = jax.grad(loss, has_aux=True)(state.parameters)
        changes, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, changes)
        norm, rate = optax.tree.norm(gradients), jnp.asarray(learning_rate(state.updates))
        return TrainState(parameters, optimizer_state, state.updates + 1), Figures(figures, norm, rate)

    return jax.jit(update, donate_argnums=0)


def compile_update(update: Update, state: TrainState, spec: PolicySpec, unroll_length: int, batch_size: int) -> Update:
    """Compiles the update for records of this shape before any has come, and returns the compiled function."""
    T, B = unroll_length, batch_size
    dtypes: dict[str, type[np.generic]] = {"action": np.int32, "mask": np.bool_}
    batch = {name: np.zeros((T, B), dtypes.get(name, np.float32)) for name in TRAINED_COLUMNS}
    batch["observation"] = np.zeros((T + 1, B, *spec.observation_shape), spec.observation_dtype)
    compiled: Update = update.lower(state, batch).compile()  # type: ignore[attr-defined]  # jax.jit's own attribute
    return compiled


def trained_columns(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns that the loss reads, so that nothing else travels to the device."""
    return {name: columns[name] for name in TRAINED_COLUMNS}


def _functional(spec: PolicySpec) -> Callable[[dict[str, Array], Array], tuple[Array, Array]]:
    """The network as a function of its parameters by name."""
    graph, variables = nnx.split(blank_model(spec), nnx.Param)
    paths = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(variables)}

    def apply(parameters: dict[str, Array], observation: Array) -> tuple[Array, Array]:
        leaves = [(path, nnx.Param(parameters[name])) for name, path in paths.items()]
        model: ActorCritic = nnx.merge(graph, nnx.from_flat_state(leaves))
        return model(observation)

    return apply


def _optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then Adam or RMSProp with a linearly moving step size."""
    rate = _linear(config.learning_rate, config.learning_rate_end, config.anneal_updates)
    method = (
        optax.adam(rate, eps=config.optimizer_epsilon)
        if config.optimizer == "adam"
        else optax.rmsprop(rate, decay=0.99, eps=config.optimizer_epsilon)
    )
    return optax.chain(optax.clip_by_global_norm(config.gradient_norm_max), method)


def _linear(start: float, end: float, updates: int) -> optax.Schedule:
    if updates == 0:
        return optax.constant_schedule(start)
    return optax.linear_schedule(start, end, updates)
