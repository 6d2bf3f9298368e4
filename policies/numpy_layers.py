"""The layers of `policies.networks` and `policies.cores` in NumPy, for small batches. No policy, no learning.

Each is made once with its parameters and keeps its buffers from call to call, one set for the newest batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from policies.architecture import RESNET_BLOCKS

Array = NDArray[np.float32]

Parameters = Mapping[str, Array]


class Dense:
    """x W + b, and a nonlinearity where one is given. The result is overwritten by the next call.

    Args:
      parameters: of the whole network.
      name: of the layer in them.
      activation: in place, or None.
    """

    def __init__(self, parameters: Parameters, name: str, activation: Callable[[Array], Array] | None = None) -> None:
        self._kernel, self._bias = parameters[f"{name}/kernel"], parameters[f"{name}/bias"]
        self._activation = activation
        self._out = np.empty((0, self._bias.size), np.float32)

    def __call__(self, hidden: Array) -> Array:
        """[N, inputs] -> [N, outputs]."""
        if len(self._out) != len(hidden):
            self._out = np.empty((len(hidden), self._bias.size), np.float32)
        np.matmul(hidden, self._kernel, out=self._out)
        np.add(self._out, self._bias, out=self._out)
        return self._out if self._activation is None else self._activation(self._out)


class Convolution:
    """One convolution as a matrix product. The result is overwritten by the next call.

    Args:
      parameters, name, activation: as for `Dense`.
      stride: in both directions.
      padded: whether zeros keep the size (at stride 1), or nothing is added.
    """

    def __init__(
        self,
        parameters: Parameters,
        name: str,
        activation: Callable[[Array], Array] | None = None,
        *,
        stride: int = 1,
        padded: bool = False,
    ) -> None:
        kernel, self._bias = parameters[f"{name}/kernel"], parameters[f"{name}/bias"]
        self._size, self._channels = kernel.shape[0], kernel.shape[3]
        self._kernel = np.ascontiguousarray(kernel.reshape(-1, self._channels))
        self._stride, self._activation = stride, activation
        self._margin = (self._size - 1) // 2 if padded else 0
        self._shape: tuple[int, ...] = ()

    def __call__(self, image: Array) -> Array:
        """[N, H, W, C] -> [N, H', W', C']."""
        if image.shape != self._shape:
            self._allocate(image.shape)
        if self._margin:
            inside = slice(self._margin, -self._margin)
            self._padded[:, inside, inside] = image
            image = self._padded
        # Windows come as [N, H', W', C, size, size]; the kernel's rows are ordered [size, size, C], and so are patches.
        windows = sliding_window_view(image, (self._size, self._size), axis=(1, 2))
        np.copyto(self._patches, windows[:, :: self._stride, :: self._stride].transpose(0, 1, 2, 4, 5, 3))
        np.matmul(self._patches.reshape(-1, len(self._kernel)), self._kernel, out=self._out.reshape(-1, self._channels))
        np.add(self._out, self._bias, out=self._out)
        return self._out if self._activation is None else self._activation(self._out)

    def _allocate(self, shape: tuple[int, ...]) -> None:
        rows, height, width, channels = shape
        height, width = height + 2 * self._margin, width + 2 * self._margin
        self._padded = np.zeros((rows, height, width, channels), np.float32)
        out_height = (height - self._size) // self._stride + 1
        out_width = (width - self._size) // self._stride + 1
        self._patches = np.empty((rows, out_height, out_width, self._size, self._size, channels), np.float32)
        self._out = np.empty((rows, out_height, out_width, self._channels), np.float32)
        self._shape = shape


class Section:
    """A residual section of IMPALA: convolution, pooling, and residual blocks.

    Args:
      parameters: of the whole network.
      name: of the section in them.
    """

    def __init__(self, parameters: Parameters, name: str) -> None:
        self._first = Convolution(parameters, f"{name}/conv", padded=True)
        self._blocks = [
            (
                Convolution(parameters, f"{name}/{block}/0", relu, padded=True),
                Convolution(parameters, f"{name}/{block}/1", padded=True),
            )
            for block in range(RESNET_BLOCKS)
        ]

    def __call__(self, image: Array) -> Array:
        """[N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C']."""
        hidden = max_pool(self._first(image))
        for first, second in self._blocks:
            hidden += second(first(np.maximum(hidden, 0)))
        return hidden


class Core:
    """One step of a recurrent core; the formulas are in `policies.cores`.

    Args:
      parameters: of the whole network.
      kind: "lstm" or "gru".
    """

    def __init__(self, parameters: Parameters, kind: str) -> None:
        self._input, self._recurrent = parameters["core/input/kernel"], parameters["core/recurrent/kernel"]
        self._bias = parameters["core/bias"]
        self._step = _lstm if kind == "lstm" else _gru

    def __call__(self, features: Array, state: Array) -> tuple[Array, Array]:
        """Output [N, H] and next state [N, S] from features [N, F] and state [N, S]."""
        units = len(self._recurrent)
        state = self._step(
            np.matmul(features, self._input) + self._bias, np.matmul(state[:, :units], self._recurrent), state
        )
        return state[:, :units], state


def max_pool(image: Array) -> Array:
    """The greatest of windows of 3 x 3 at stride 2, padded as in XLA ("SAME"): [N, H, W, C] -> [N, H', W', C]."""
    rows, height, width, channels = image.shape
    pads = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in (height, width)]
    padded = np.full((rows, height + pads[0], width + pads[1], channels), -np.inf, np.float32)
    top, left = pads[0] // 2, pads[1] // 2
    padded[:, top : top + height, left : left + width] = image
    greatest: Array = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(4, 5))
    return greatest


def relu(values: Array) -> Array:
    """In place."""
    return np.maximum(values, 0, out=values)


def tanh(values: Array) -> Array:
    """In place."""
    return np.tanh(values, out=values)


def _sigmoid(values: Array) -> Array:
    # By tanh, which overflows nowhere.
    half = np.float32(0.5)
    result: Array = half * np.tanh(half * values) + half
    return result


def _lstm(driven: Array, recurrent: Array, state: Array) -> Array:
    cell = state[:, recurrent.shape[1] // 4 :]
    i, f, g, o = np.split(driven + recurrent, 4, axis=1)
    cell = _sigmoid(f + np.float32(1)) * cell + _sigmoid(i) * np.tanh(g)
    return np.concatenate([_sigmoid(o) * np.tanh(cell), cell], axis=1)


def _gru(driven: Array, recurrent: Array, hidden: Array) -> Array:
    driven_z, driven_r, driven_n = np.split(driven, 3, axis=1)
    recurrent_z, recurrent_r, recurrent_n = np.split(recurrent, 3, axis=1)
    update = _sigmoid(driven_z + recurrent_z)
    candidate = np.tanh(driven_n + _sigmoid(driven_r + recurrent_r) * recurrent_n)
    result: Array = (1 - update) * candidate + update * hidden
    return result
