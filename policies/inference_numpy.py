"""The forward pass of a policy in NumPy alone, for actors that must not carry a framework. It does not learn.

Built for small batches, N of some tens: every intermediate array is allocated once per N and written in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.policy import (
    ActionBatch,
    RandomSource,
    as_float32,
    check_observation,
    most_probable,
    sample_categorical,
)
from policies.spec import PolicySpec, convolution_output

Array = NDArray[np.float32]


class NumpyPolicy:
    """A policy computed by NumPy; satisfies `policies.policy.Policy`. For one thread: buffers are reused.

    Args:
      artifact: specification and parameters; they are not copied and must not change.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._spec = artifact.spec
        network, parameters = artifact.spec.network, artifact.parameters
        convolutions = len(network.conv_channels) if network.kind == "conv" else 0
        self._convolutions = [_layer(parameters, f"conv/{index}") for index in range(convolutions)]
        self._dense = [_layer(parameters, f"torso/{index}") for index in range(len(network.hidden_sizes))]
        self._head = _layer(parameters, "policy")
        self._activation: np.ufunc | None = np.tanh if network.activation == "tanh" else None
        self._rows = 0

    @property
    def spec(self) -> PolicySpec:
        """What the policy is."""
        return self._spec

    def act(self, observation: NDArray[Any], generator: RandomSource) -> ActionBatch:
        """See `policies.policy.Policy.act`."""
        logits = self._logits(observation)
        action, log_prob = sample_categorical(logits, generator)
        return ActionBatch(action, log_prob, logits)

    def greedy(self, observation: NDArray[Any]) -> NDArray[np.int32]:
        """See `policies.policy.Policy.greedy`."""
        return most_probable(self._logits(observation))

    def _logits(self, observation: NDArray[Any]) -> Array:
        check_observation(observation, self._spec)
        if observation.shape[0] != self._rows:
            self._allocate(observation.shape[0])
        as_float32(observation, self._input)
        image = self._input
        for (kernel, bias), patches, out in zip(self._convolutions, self._patches, self._images, strict=True):
            image = self._convolve(image, kernel, bias, patches, out)
        hidden: Array = image.reshape(self._rows, -1)
        for (kernel, bias), out in zip(self._dense, self._hidden, strict=True):
            np.matmul(hidden, kernel, out=out)
            hidden = self._activate(out, bias)
        kernel, bias = self._head
        logits: Array = np.matmul(hidden, kernel)
        logits += bias
        return logits

    def _activate(self, pre_activation: Array, bias: Array) -> Array:
        np.add(pre_activation, bias, out=pre_activation)
        if self._activation is None:
            return np.maximum(pre_activation, 0, out=pre_activation)
        self._activation(pre_activation, out=pre_activation)
        return pre_activation

    def _convolve(self, image: Array, kernel: Array, bias: Array, patches: Array, out: Array) -> Array:
        """One unpadded convolution as a matrix product: image [N, H, W, C] -> [N, H', W', C']."""
        size, stride = self._spec.network.conv_kernel_size, self._spec.network.conv_stride
        # Windows come as [N, H', W', C, size, size]; the kernel's rows are ordered [size, size, C], and so are patches.
        windows = sliding_window_view(image, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        np.copyto(patches, windows.transpose(0, 1, 2, 4, 5, 3))
        np.matmul(patches.reshape(-1, kernel.shape[0]), kernel, out=out.reshape(-1, kernel.shape[1]))
        return self._activate(out, bias)

    def _allocate(self, rows: int) -> None:
        sizes = convolution_output(self._spec) if self._convolutions else []
        self._input = np.empty((rows, *self._spec.observation_shape), np.float32)
        size = self._spec.network.conv_kernel_size
        channels = [self._spec.observation_shape[-1], *(output[2] for output in sizes)] if sizes else []
        self._patches = [
            np.empty((rows, height, width, size, size, channels[layer]), np.float32)
            for layer, (height, width, _) in enumerate(sizes)
        ]
        self._images: list[Array] = [np.empty((rows, *output), np.float32) for output in sizes]
        self._hidden: list[Array] = [np.empty((rows, bias.size), np.float32) for _, bias in self._dense]
        self._rows = rows


def _layer(parameters: dict[str, Array], name: str) -> tuple[Array, Array]:
    """Kernel as a matrix [inputs, outputs], and bias [outputs]."""
    bias = parameters[f"{name}/bias"]
    return np.ascontiguousarray(parameters[f"{name}/kernel"].reshape(-1, bias.size)), bias
