"""The forward pass of a policy in NumPy alone, for actors that must not carry a framework. It does not learn.

Built for small batches, N of some tens: layers (policies.numpy_layers) keep their arrays from call to call. A residual
network on images is slow this way; an actor of such a policy had better use the backend "jax" or be served.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.architecture import OBSERVATION_BOUND, flat_parts, image_parts, normalized_parts, scoped
from policies.artifact import Artifact
from policies.distributions import sample
from policies.numpy_layers import Array, Convolution, Core, Dense, Section, relu, tanh
from policies.policy import ActionBatch, RandomSource, as_float32, check_observation, checked_state
from policies.spaces import Part
from policies.spec import PolicySpec


class NumpyPolicy:
    """A policy computed by NumPy; satisfies `policies.policy.Policy`. For one thread: buffers are reused.

    Args:
      artifact: specification and parameters; they are not copied and must not change.
    """

    def __init__(self, artifact: Artifact) -> None:
        spec, parameters = artifact.spec, artifact.parameters
        network, activation = spec.network, tanh if artifact.spec.network.activation == "tanh" else relu
        self._spec = spec
        self._inputs = {part: _Input(part, artifact) for part in spec.observation.parts}
        self._images = {
            image: _layers(artifact, scoped(network.kind, image), activation)
            for image in image_parts(network, spec.observation)
        }
        self._flat = flat_parts(network, spec.observation)
        self._torso = [Dense(parameters, f"torso/{layer}", activation) for layer in range(len(network.hidden_sizes))]
        self._core = Core(parameters, network.core) if network.core != "none" else None
        self._head_kernel, self._head_bias = parameters["policy/kernel"], parameters["policy/bias"]

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
        state = checked_state(state, len(observation), self.state_size)
        hidden = self._features(observation)
        for dense in self._torso:
            hidden = dense(hidden)
        if self._core is not None:
            hidden, state = self._core(hidden, state)
        # The caller's own: the head alone has no buffer.
        logits: Array = np.matmul(hidden, self._head_kernel)
        logits += self._head_bias
        action, log_prob = sample(logits, self._spec.action, generator)
        return ActionBatch(action, log_prob, logits, state=state)

    def _features(self, observation: NDArray[Any]) -> Array:
        columns = self._spec.observation.columns(observation)
        features = []
        for image, layers in self._images.items():
            hidden = self._inputs[image](columns[image.column])
            for layer in layers:
                hidden = layer(hidden)
            if self._spec.network.kind == "resnet":
                hidden = np.maximum(hidden, 0)
            features.append(hidden.reshape(len(observation), -1))
        features += [self._inputs[part](columns[part.column]).reshape(len(observation), -1) for part in self._flat]
        return features[0] if len(features) == 1 else np.concatenate(features, axis=1)


class _Input:
    """One part of observations as the network takes it. The result is overwritten by the next call."""

    def __init__(self, part: Part, artifact: Artifact) -> None:
        self._figures: tuple[Array, Array] | None = None
        if part in normalized_parts(artifact.spec.network, artifact.spec.observation):
            scope = scoped("normalizer", part)
            self._figures = artifact.parameters[f"{scope}/mean"], artifact.parameters[f"{scope}/scale"]
        self._out = np.empty((0, *part.shape), np.float32)

    def __call__(self, values: NDArray[Any]) -> Array:
        """[N, *shape] in the part's dtype -> float32."""
        if len(self._out) != len(values):
            self._out = np.empty(values.shape, np.float32)
        as_float32(values, self._out)
        if self._figures is not None:
            mean, scale = self._figures
            np.subtract(self._out, mean, out=self._out)
            np.multiply(self._out, scale, out=self._out)
            np.clip(self._out, -OBSERVATION_BOUND, OBSERVATION_BOUND, out=self._out)
        return self._out


def _layers(artifact: Artifact, scope: str, activation: Any) -> list[Convolution] | list[Section]:
    network = artifact.spec.network
    if network.kind == "resnet":
        return [Section(artifact.parameters, f"{scope}/{layer}") for layer in range(len(network.resnet_channels))]
    return [
        Convolution(artifact.parameters, f"{scope}/{layer}", activation, stride=network.conv_stride)
        for layer in range(len(network.conv_channels))
    ]
