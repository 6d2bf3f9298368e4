"""The actor-critic network in Flax NNX, built from a specification; the learner trains it, `JaxPolicy` acts with it.

The first weights are those of `policies.initialisation`. Products are computed in full float32 precision on every
device: with an accelerator's default (TF32, bfloat16) the learner's probabilities would differ from those of an actor
that has no such device, and V-trace would take the difference for off-policyness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from policies.spec import PolicySpec, convolution_output

_PRECISION = jax.lax.Precision.HIGHEST


class ActorCritic(nnx.Module):
    """Logits over actions, and the state's value, from one shared torso.

    Args:
      spec: network, observation and actions.
      rngs: source of weights, which every user of this class replaces: see `blank_model`.
    """

    def __init__(self, spec: PolicySpec, rngs: nnx.Rngs) -> None:
        network = spec.network
        self.observation_shape = spec.observation_shape
        self.activation: Callable[[jax.Array], jax.Array] = nnx.tanh if network.activation == "tanh" else nnx.relu
        sizes = convolution_output(spec) if network.kind == "conv" else []
        channels = [spec.observation_shape[-1] if sizes else 0, *(size[2] for size in sizes)]
        self.conv = nnx.List(
            nnx.Conv(
                channels[layer],
                channels[layer + 1],
                kernel_size=(network.conv_kernel_size, network.conv_kernel_size),
                strides=network.conv_stride,
                padding="VALID",
                precision=_PRECISION,
                rngs=rngs,
            )
            for layer in range(len(sizes))
        )
        widths = [math.prod(sizes[-1] if sizes else spec.observation_shape), *network.hidden_sizes]
        self.torso = nnx.List(
            _dense(widths[layer], widths[layer + 1], rngs) for layer in range(len(network.hidden_sizes))
        )
        self.policy = _dense(widths[-1], spec.num_actions, rngs)
        self.value = _dense(widths[-1], 1, rngs)

    def __call__(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Evaluates the network.

        Args:
          observation: [..., *observation_shape] in the specification's dtype; |u1 is divided by 255.

        Returns:
          logits float32 [..., A] and value float32 [...].
        """
        batch = observation.shape[: observation.ndim - len(self.observation_shape)]
        hidden = observation.astype(jnp.float32)
        if observation.dtype == jnp.uint8:
            hidden = hidden * np.float32(1 / 255)
        # One batch axis inside: convolutions and their gradients are laid out for that.
        hidden = hidden.reshape(-1, *self.observation_shape)
        for convolution in self.conv:
            hidden = self.activation(convolution(hidden))
        hidden = hidden.reshape(hidden.shape[0], -1)
        for dense in self.torso:
            hidden = self.activation(dense(hidden))
        logits, value = self.policy(hidden), self.value(hidden)
        return logits.reshape(*batch, -1), value.reshape(batch)


def load_parameters(model: ActorCritic, parameters: Mapping[str, NDArray[np.float32]]) -> None:
    """Sets all of the model's parameters in place. Raises KeyError or ValueError when they are not the model's."""
    state = nnx.state(model, nnx.Param)
    variables = _named(state)
    if set(variables) != set(parameters):
        raise KeyError(f"parameters {sorted(set(variables) ^ set(parameters))} are on one side only")
    for name, variable in variables.items():
        if variable.get_value().shape != parameters[name].shape:
            raise ValueError(f"parameter {name} has shape {parameters[name].shape}, not {variable.get_value().shape}")
        variable.set_value(jnp.asarray(parameters[name], jnp.float32))
    nnx.update(model, state)


def blank_model(spec: PolicySpec) -> ActorCritic:
    """A model whose parameters have shapes but no values, for `load_parameters`; nothing is computed."""
    model: ActorCritic = nnx.eval_shape(lambda: ActorCritic(spec, nnx.Rngs(0)))
    return model


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, precision=_PRECISION, rngs=rngs)


def _named(state: Any) -> dict[str, nnx.Param[jax.Array]]:
    """A model's parameters by name: a path in the module tree is the name in an artifact."""
    return {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
