"""Settings of a policy's network. Knows no framework: networks.py and inference_numpy.py build from it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from replay.settings import setting

Backend = Literal["numpy", "jax"]
"""How a policy is computed in this process."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The function approximator: a torso that ends in one linear policy head and one linear value head."""

    kind: str = setting("mlp", "Torso: dense layers alone, or convolutions before them", choices=("mlp", "conv"))
    hidden_sizes: tuple[int, ...] = setting((64, 64), "Width of each dense layer of the torso", low=1, high=16_384)
    activation: str = setting("tanh", "Nonlinearity after every layer of the torso", choices=("tanh", "relu"))
    conv_channels: tuple[int, ...] = setting((16,), "Output channels of each convolution (conv)", low=1, high=4_096)
    conv_kernel_size: int = setting(3, "Height and width of each convolution's kernel (conv)", low=1, high=64)
    conv_stride: int = setting(1, "Stride of each convolution in both directions (conv)", low=1, high=64)
