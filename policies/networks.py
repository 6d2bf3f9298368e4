"""The actor-critic network in Flax NNX, built from a specification; the learner trains it, `JaxPolicy` acts with it.

Layers and parameters are those of `policies.architecture`, a path in the module tree being the name in an artifact; the
first weights are those of `policies.initialisation`. In float32, products are computed in full precision on every
device: with an accelerator's default (TF32, bfloat16) the learner's probabilities would differ from those of an actor
that has no such device, and V-trace would take the difference for off-policyness. A learner may choose to compute the
torso and the core in bfloat16 all the same; the heads stay in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float
from numpy.typing import NDArray

from policies.architecture import (
    OBSERVATION_BOUND,
    RESNET_BLOCKS,
    RESNET_KERNEL_SIZE,
    convolution_output,
    flat_parts,
    head_sizes,
    image_parts,
    normalized_parts,
    torso_inputs,
)
from policies.cores import Core
from policies.spaces import Part
from policies.spec import PolicySpec

Observation = Mapping[str, Any]
"""The parts of observations [..., *part shape], by the names of their columns (policies.spaces.Part.column)."""


class NetworkOutput(NamedTuple):
    """What a network says of T observations in each of B sequences."""

    logits: Float[Array, "T B P"]
    """Parameters of the distributions of the actions."""
    value: Float[Array, "T B"]
    cost_value: Float[Array, "T B"] | None
    """Of a network with a head for it."""
    state: Float[Array, "B S"]
    """Of the core, after the last observation."""


class ActorCritic(nnx.Module):
    """Parameters of the distribution of an action, and the state's value, from one shared torso and core.

    Args:
      spec: network, observation and actions.
      rngs: source of weights, which every user of this class replaces: see `blank_model`.
      dtype: in which torso and core are computed.
    """

    def __init__(self, spec: PolicySpec, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        network = spec.network
        self._images = image_parts(network, spec.observation)
        self._flat = flat_parts(network, spec.observation)
        self._normalized = normalized_parts(network, spec.observation)
        self._resnet = network.kind == "resnet"
        self._dtype = dtype
        self._activation: Callable[[jax.Array], jax.Array] = nnx.tanh if network.activation == "tanh" else nnx.relu
        if self._normalized:
            figures = {part: nnx.Dict(mean=_zeros(part), scale=_zeros(part)) for part in self._normalized}
            self.normalizer = _by_part(figures)
        if self._resnet:
            self.resnet = _by_part({image: _sections(spec, image, rngs, dtype) for image in self._images})
        elif self._images:
            self.conv = _by_part({image: _convolutions(spec, image, rngs, dtype) for image in self._images})
        widths = [torso_inputs(network, spec.observation), *network.hidden_sizes]
        self.torso = nnx.List(
            _dense(widths[layer], widths[layer + 1], rngs, dtype) for layer in range(len(network.hidden_sizes))
        )
        features = widths[-1]
        self._has_core = network.core != "none"
        if self._has_core:
            self.core = Core(network.core, features, network.core_size, dtype)
            features = network.core_size
        heads = head_sizes(network, spec.action)
        self.policy = _dense(features, heads["policy"], rngs, jnp.float32)
        self.value = _dense(features, 1, rngs, jnp.float32)
        self._has_cost_value = "cost_value" in heads
        if self._has_cost_value:
            self.cost_value = _dense(features, 1, rngs, jnp.float32)

    def __call__(
        self, observation: Observation, state: Float[Array, "B S"], reset: Bool[Array, "T B"]
    ) -> NetworkOutput:
        """Evaluates the network along B sequences of T observations.

        Args:
          observation: parts [T, B, *shape] in the specification's dtypes; |u1 is divided by 255.
          state: of the core before the first observation.
          reset: True where an episode begins with the observation: the core's state is zeros before it.
        """
        steps, rows = reset.shape
        # One batch axis inside: convolutions and their gradients are laid out for that.
        flat = {name: part.reshape(steps * rows, *part.shape[2:]) for name, part in observation.items()}
        hidden = self._torso(flat)
        if self._has_core:
            outputs, state = self.core(hidden.reshape(steps, rows, -1), state, reset)
            hidden = outputs.reshape(steps * rows, -1)
        hidden = hidden.astype(jnp.float32)
        cost_value = self.cost_value(hidden).reshape(steps, rows) if self._has_cost_value else None
        logits, value = self.policy(hidden), self.value(hidden)
        return NetworkOutput(logits.reshape(steps, rows, -1), value.reshape(steps, rows), cost_value, state)

    def _torso(self, observation: Observation) -> jax.Array:
        """Features [N, F] of N observations."""
        features = [self._image_features(image, observation) for image in self._images]
        features += [self._input(part, observation).reshape(-1, part.size) for part in self._flat]
        hidden = features[0] if len(features) == 1 else jnp.concatenate(features, axis=1)
        for dense in self.torso:
            hidden = self._activation(dense(hidden))
        return hidden

    def _image_features(self, image: Part, observation: Observation) -> jax.Array:
        hidden: jax.Array = self._input(image, observation)
        if self._resnet:
            for section in _of_part(self.resnet, image):
                hidden = _section(section, hidden)
            hidden = nnx.relu(hidden)
        else:
            for convolution in _of_part(self.conv, image):
                hidden = self._activation(convolution(hidden))
        return hidden.reshape(hidden.shape[0], -1)

    def _input(self, part: Part, observation: Observation) -> jax.Array:
        """A part as the network takes it: see `policies.policy.as_float32`."""
        raw = observation[part.column]
        values: jax.Array = raw.astype(jnp.float32)
        if raw.dtype == jnp.uint8:
            values = values * np.float32(1 / 255)
        if part in self._normalized:
            figures = _of_part(self.normalizer, part)
            values = (values - figures["mean"][...]) * figures["scale"][...]
            values = jnp.clip(values, -OBSERVATION_BOUND, OBSERVATION_BOUND)
        return values.astype(self._dtype)


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


def blank_model(spec: PolicySpec, dtype: Any = jnp.float32) -> ActorCritic:
    """A model whose parameters have shapes but no values, for `load_parameters`; nothing is computed."""
    model: ActorCritic = nnx.eval_shape(lambda: ActorCritic(spec, nnx.Rngs(0), dtype))
    return model


Apply = Callable[[Mapping[str, jax.Array], Observation, jax.Array, jax.Array], NetworkOutput]
"""A network as a function of its parameters by name, and of what `ActorCritic` is called with."""


def functional(spec: PolicySpec, dtype: Any = jnp.float32) -> Apply:
    """The network of a specification as a pure function of its parameters."""
    graph, variables = nnx.split(blank_model(spec, dtype), nnx.Param)
    paths = {_name(path): path for path, _ in nnx.to_flat_state(variables)}

    def apply(
        parameters: Mapping[str, jax.Array], observation: Observation, state: jax.Array, reset: jax.Array
    ) -> NetworkOutput:
        leaves = [(path, nnx.Param(parameters[name])) for name, path in paths.items()]
        model: ActorCritic = nnx.merge(graph, nnx.from_flat_state(leaves))
        return model(observation, state, reset)

    return apply


def _section(section: Any, image: jax.Array) -> jax.Array:
    hidden: jax.Array = nnx.max_pool(section["conv"](image), (3, 3), strides=(2, 2), padding="SAME")  # type: ignore[no-untyped-call]
    for block in range(RESNET_BLOCKS):
        first, second = section[str(block)]
        hidden = hidden + second(nnx.relu(first(nnx.relu(hidden))))
    return hidden


def _convolutions(spec: PolicySpec, image: Part, rngs: nnx.Rngs, dtype: Any) -> Any:
    network = spec.network
    channels = [image.shape[2], *(size[2] for size in convolution_output(network, image))]
    size, stride = network.conv_kernel_size, network.conv_stride
    return nnx.List(
        _convolution(channels[layer], channels[layer + 1], size, rngs, dtype, stride=stride, padding="VALID")
        for layer in range(len(channels) - 1)
    )


def _sections(spec: PolicySpec, image: Part, rngs: nnx.Rngs, dtype: Any) -> Any:
    channels = [image.shape[2], *spec.network.resnet_channels]

    def convolution(inputs: int, outputs: int) -> nnx.Conv:
        return _convolution(inputs, outputs, RESNET_KERNEL_SIZE, rngs, dtype, stride=1, padding="SAME")

    sections = []
    for inputs, outputs in itertools.pairwise(channels):
        blocks = {
            str(block): nnx.List([convolution(outputs, outputs), convolution(outputs, outputs)])
            for block in range(RESNET_BLOCKS)
        }
        sections.append(nnx.Dict(conv=convolution(inputs, outputs), **blocks))
    return nnx.List(sections)


def _convolution(
    inputs: int, outputs: int, size: int, rngs: nnx.Rngs, dtype: Any, *, stride: int, padding: str
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(size, size),
        strides=stride,
        padding=padding,
        dtype=dtype,
        precision=_precision(dtype),
        rngs=rngs,
    )


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs, dtype: Any) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, dtype=dtype, precision=_precision(dtype), rngs=rngs)


def _precision(dtype: Any) -> jax.lax.Precision:
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def _zeros(part: Part) -> nnx.Param[jax.Array]:
    return nnx.Param(jnp.zeros(part.shape, jnp.float32))


def _by_part(made: Mapping[Part, Any]) -> Any:
    """What belongs to the only part itself, or a tree of what belongs to each by its name."""
    parts = list(made)
    return made[parts[0]] if not parts[0].name else nnx.Dict({part.name: each for part, each in made.items()})


def _of_part(tree: Any, part: Part) -> Any:
    return tree[part.name] if part.name else tree


def _named(state: Any) -> dict[str, nnx.Param[jax.Array]]:
    """A model's parameters by name: a path in the module tree is the name in an artifact."""
    return {_name(path): variable for path, variable in nnx.to_flat_state(state)}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
