"""Settings of a policy's network. Knows no framework: networks.py and inference_numpy.py build from it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from replay.settings import setting

Backend = Literal["numpy", "jax"]
"""How a policy is computed in this process."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The function approximator: a torso, perhaps a recurrent core, and one linear head for the policy and each value.

    In the torso, images (parts of an observation of rank 3) go through convolutions or residual sections where the kind
    says so; all else is flattened and joined to what comes out of them, and dense layers follow.
    """

    kind: str = setting(
        "mlp",
        "Torso: dense layers alone, or before them convolutions or the residual sections of IMPALA",
        choices=("mlp", "conv", "resnet"),
    )
    hidden_sizes: tuple[int, ...] = setting((64, 64), "Width of each dense layer of the torso", low=1, high=16_384)
    activation: str = setting("tanh", "Nonlinearity after every layer of the torso", choices=("tanh", "relu"))
    conv_channels: tuple[int, ...] = setting((16,), "Output channels of each convolution (conv)", low=1, high=4_096)
    conv_kernel_size: int = setting(3, "Height and width of each convolution's kernel (conv)", low=1, high=64)
    conv_stride: int = setting(1, "Stride of each convolution in both directions (conv)", low=1, high=64)
    resnet_channels: tuple[int, ...] = setting(
        (16, 32, 32), "Output channels of each residual section (resnet)", low=1, high=4_096
    )
    core: str = setting("none", "Recurrent core between torso and heads", choices=("none", "lstm", "gru"))
    core_size: int = setting(128, "Units of the recurrent core", low=1, high=16_384)
    normalize_observations: bool = setting(
        False, "Observations of floats are brought to mean 0 and deviation 1, by figures that travel in the artifact"
    )
    cost_value: bool = setting(False, "A second value head, for the cost to come")
