"""Which layers a network has, in which order, and the name and shape of every parameter. Computes none of them.

    for each image:  conv     "conv/I"                      unpadded convolutions
                     resnet   "resnet/I/conv", "resnet/I/K/0", "resnet/I/K/1"
                              section I of IMPALA (arXiv 1802.01561, figure 3): a padded convolution, a pooling of
                              3 with stride 2, and two residual blocks K
    all together:    torso    "torso/I"                     dense layers
                     core     "core/input", "core/recurrent", "core/bias"
                     heads    "policy", "value", "cost_value"

Where an observation has parts, the name of a part stands behind "conv", "resnet" and "normalizer". Kernels of dense
layers are [inputs, outputs], those of convolutions [height, width, input channels, output channels].

Exceptions: SpecError (policies.spaces) where network and observation do not go together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from policies.config import NetworkConfig
from policies.spaces import ActionSpace, ObservationSpace, Part, SpecError

LAYERS_MAX = 32

RESNET_KERNEL_SIZE = 3
RESNET_BLOCKS = 2
"""Residual blocks in a section; each has two convolutions."""

OBSERVATION_BOUND = 10.0
"""Normalized observations are clipped to this magnitude."""

_CORE_GATES = {"none": 0, "gru": 3, "lstm": 4}
_CORE_STATES = {"none": 0, "gru": 1, "lstm": 2}

Size = tuple[int, int, int]
"""[height, width, channels]"""


class Described(Protocol):
    """What the shapes of parameters follow from; `policies.spec.PolicySpec` is it."""

    @property
    def network(self) -> NetworkConfig:
        """The function approximator."""

    @property
    def observation(self) -> ObservationSpace:
        """What goes in."""

    @property
    def action(self) -> ActionSpace:
        """What comes out."""


def scoped(scope: str, part: Part) -> str:
    """Where the parameters of one part lie: "conv", or "conv/NAME" for a named part."""
    return f"{scope}/{part.name}" if part.name else scope


def image_parts(network: NetworkConfig, observation: ObservationSpace) -> tuple[Part, ...]:
    """The parts that go through convolutions, in order; none for an mlp."""
    return () if network.kind == "mlp" else tuple(part for part in observation.parts if len(part.shape) == 3)


def flat_parts(network: NetworkConfig, observation: ObservationSpace) -> tuple[Part, ...]:
    """The other parts: joined behind the images' features, in order."""
    images = image_parts(network, observation)
    return tuple(part for part in observation.parts if part not in images)


def normalized_parts(network: NetworkConfig, observation: ObservationSpace) -> tuple[Part, ...]:
    """The parts that are brought to mean 0 and deviation 1: those of floats, if the network asks for it."""
    if not network.normalize_observations:
        return ()
    return tuple(part for part in observation.parts if part.dtype[1] == "f")


def convolution_output(network: NetworkConfig, image: Part) -> list[Size]:
    """Size after each convolution (no padding) or residual section. Raises SpecError when nothing is left."""
    height, width, _ = image.shape
    if network.kind == "resnet":
        sizes: list[Size] = []
        for channels in network.resnet_channels:
            height, width = -(-height // 2), -(-width // 2)
            sizes.append((height, width, channels))
        return sizes
    sizes = []
    for channels in network.conv_channels:
        height = (height - network.conv_kernel_size) // network.conv_stride + 1
        width = (width - network.conv_kernel_size) // network.conv_stride + 1
        if height < 1 or width < 1:
            raise SpecError(
                f"{image.column} of shape {image.shape} is too small for {len(network.conv_channels)} convolutions of "
                f"size {network.conv_kernel_size} and stride {network.conv_stride}"
            )
        sizes.append((height, width, channels))
    return sizes


def torso_inputs(network: NetworkConfig, observation: ObservationSpace) -> int:
    """Numbers that the first dense layer takes in."""
    images = image_parts(network, observation)
    features = sum(math.prod([image.shape, *convolution_output(network, image)][-1]) for image in images)
    return features + sum(part.size for part in flat_parts(network, observation))


def core_state_size(network: NetworkConfig) -> int:
    """S: numbers that the recurrent core keeps from step to step; an lstm's are its output and then its cell."""
    return _CORE_STATES[network.core] * network.core_size


def head_sizes(network: NetworkConfig, action: ActionSpace) -> dict[str, int]:
    """Outputs of each head by its name."""
    return {"policy": action.parameters, "value": 1} | ({"cost_value": 1} if network.cost_value else {})


def check_architecture(network: NetworkConfig, observation: ObservationSpace) -> None:
    """Raises SpecError when the network has too many layers or does not fit the observation."""
    layers = len(network.hidden_sizes) + len(network.conv_channels) + len(network.resnet_channels)
    if layers > LAYERS_MAX:
        raise SpecError(f"the network has {layers} layers, the limit is {LAYERS_MAX}")
    if network.kind != "mlp" and not image_parts(network, observation):
        raise SpecError(
            f"the observation is {observation.describe()}; a {network.kind} network needs an image [height, width, "
            "channels] in it"
        )


def parameter_shapes(spec: Described) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, from input to output. Raises SpecError as `check_architecture`."""
    network, observation = spec.network, spec.observation
    shapes: dict[str, tuple[int, ...]] = {}
    for part in normalized_parts(network, observation):
        scope = scoped("normalizer", part)
        shapes[f"{scope}/mean"] = shapes[f"{scope}/scale"] = part.shape
    for image in image_parts(network, observation):
        sizes: Sequence[Size] = convolution_output(network, image)
        channels = [image.shape[2], *(size[2] for size in sizes)]
        add = _add_sections if network.kind == "resnet" else _add_convolutions
        add(shapes, scoped(network.kind, image), channels, network)
    inputs = torso_inputs(network, observation)
    for layer, width in enumerate(network.hidden_sizes):
        shapes[f"torso/{layer}/kernel"], shapes[f"torso/{layer}/bias"] = (inputs, width), (width,)
        inputs = width
    if network.core != "none":
        gates = _CORE_GATES[network.core] * network.core_size
        shapes["core/input/kernel"], shapes["core/recurrent/kernel"] = (inputs, gates), (network.core_size, gates)
        shapes["core/bias"] = (gates,)
        inputs = network.core_size
    for head, outputs in head_sizes(network, spec.action).items():
        shapes[f"{head}/kernel"], shapes[f"{head}/bias"] = (inputs, outputs), (outputs,)
    return shapes


def _add_convolutions(
    shapes: dict[str, tuple[int, ...]], scope: str, channels: Sequence[int], network: NetworkConfig
) -> None:
    size = network.conv_kernel_size
    for layer in range(len(channels) - 1):
        shapes[f"{scope}/{layer}/kernel"] = (size, size, channels[layer], channels[layer + 1])
        shapes[f"{scope}/{layer}/bias"] = (channels[layer + 1],)


def _add_sections(
    shapes: dict[str, tuple[int, ...]], scope: str, channels: Sequence[int], network: NetworkConfig
) -> None:
    del network
    size = RESNET_KERNEL_SIZE
    for section in range(len(channels) - 1):
        inputs, outputs = channels[section], channels[section + 1]
        shapes[f"{scope}/{section}/conv/kernel"] = (size, size, inputs, outputs)
        shapes[f"{scope}/{section}/conv/bias"] = (outputs,)
        for block in range(RESNET_BLOCKS):
            for convolution in range(2):
                name = f"{scope}/{section}/{block}/{convolution}"
                shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (size, size, outputs, outputs), (outputs,)
