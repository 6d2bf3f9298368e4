"""What a policy is, apart from its numbers: its network and what goes in and comes out. Imports no framework.

The specification travels inside every artifact as canonical JSON, so that whoever holds the bytes can rebuild the
policy and knows the name and shape of every parameter. Preprocessing of observations is part of it: see
`policies.policy.as_float32`.

Exceptions: SpecError (a ValueError) for a specification that cannot describe a policy.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Protocol

from policies.config import NetworkConfig
from replay.settings import SettingError, validate

OBSERVATION_DTYPES = ("<f2", "<f4", "<f8", "|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")
"""NumPy type strings an observation may have."""

OBSERVATION_ELEMENTS_MAX = 1 << 24
NUM_ACTIONS_MAX = 1 << 20
PARAMETERS_MAX = 1 << 26
"""Most parameters of one policy: 256 MiB of float32."""

LAYERS_MAX = 32


class SpecError(ValueError):
    """A specification cannot describe a policy; the message names the value, the bound and the consequence."""


class PolicyInterface(Protocol):
    """What a policy and an environment must agree on. An environment's specification satisfies it as it is."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""

    @property
    def observation_dtype(self) -> str:
        """NumPy type string of an observation, e.g. "<f4"."""

    @property
    def num_actions(self) -> int:
        """A: number of discrete actions."""


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """A policy apart from its parameters: hashable, and checked when it is made.

    Attributes:
      network: the function approximator.
      observation_shape: shape of one observation; [height, width, channels] for a conv network.
      observation_dtype: NumPy type string of an observation, one of OBSERVATION_DTYPES.
      num_actions: A, the number of discrete actions.

    Raises:
      SpecError: a value is out of bounds, or the network does not fit the observation.
    """

    network: NetworkConfig
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int

    def __post_init__(self) -> None:
        try:
            validate(self.network, "network.")
        except SettingError as error:
            raise SpecError(str(error)) from error
        if self.observation_dtype not in OBSERVATION_DTYPES:
            known = ", ".join(OBSERVATION_DTYPES)
            raise SpecError(f"observation_dtype = {self.observation_dtype!r} is not supported; known are {known}")
        _check_integers("observation_shape", self.observation_shape)
        _check_integers("num_actions", (self.num_actions,))
        if math.prod(self.observation_shape) > OBSERVATION_ELEMENTS_MAX:
            raise SpecError(f"observation_shape = {self.observation_shape} exceeds {OBSERVATION_ELEMENTS_MAX} elements")
        if self.num_actions > NUM_ACTIONS_MAX:
            raise SpecError(f"num_actions = {self.num_actions} is above the limit of {NUM_ACTIONS_MAX}")
        layers = len(self.network.hidden_sizes) + len(self.network.conv_channels)
        if layers > LAYERS_MAX:
            raise SpecError(f"the network has {layers} layers, the limit is {LAYERS_MAX}")
        parameters = sum(math.prod(shape) for shape in parameter_shapes(self).values())
        if parameters > PARAMETERS_MAX:
            raise SpecError(f"the network has {parameters} parameters, the limit is {PARAMETERS_MAX}")

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal specifications give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> PolicySpec:
        """The specification that `to_json` wrote. Raises SpecError on anything else, unknown keys included."""
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"the specification is not JSON: {error}") from error
        fields = _fields(cls, tree, "specification")
        fields["network"] = NetworkConfig(**_fields(NetworkConfig, fields["network"], "network"))
        spec = cls(**fields)
        if spec.to_json() != text:
            raise SpecError("the specification is not in canonical JSON (sorted keys, no spaces)")
        return spec


def convolution_output(spec: PolicySpec) -> list[tuple[int, int, int]]:
    """[height, width, channels] after each convolution (no padding). Raises SpecError when nothing is left."""
    if len(spec.observation_shape) != 3:
        raise SpecError(
            f"observation_shape = {spec.observation_shape} has rank {len(spec.observation_shape)}; a conv network "
            "needs [height, width, channels]"
        )
    network = spec.network
    height, width, _ = spec.observation_shape
    sizes = []
    for channels in network.conv_channels:
        height = (height - network.conv_kernel_size) // network.conv_stride + 1
        width = (width - network.conv_kernel_size) // network.conv_stride + 1
        if height < 1 or width < 1:
            raise SpecError(
                f"observation_shape = {spec.observation_shape} is too small for {len(network.conv_channels)} "
                f"convolutions of size {network.conv_kernel_size} and stride {network.conv_stride}"
            )
        sizes.append((height, width, channels))
    return sizes


def parameter_shapes(spec: PolicySpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, from input to output.

    Dense kernels are [inputs, outputs], convolution kernels [height, width, input channels, output channels].
    Raises SpecError when the network does not fit the observation.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = math.prod(spec.observation_shape)
    if spec.network.kind == "conv":
        size = spec.network.conv_kernel_size
        sizes = convolution_output(spec)
        channels_in = spec.observation_shape[2]
        for layer, (_, _, channels) in enumerate(sizes):
            shapes[f"conv/{layer}/kernel"] = (size, size, channels_in, channels)
            shapes[f"conv/{layer}/bias"] = (channels,)
            channels_in = channels
        inputs = math.prod(sizes[-1]) if sizes else inputs
    for layer, width in enumerate(spec.network.hidden_sizes):
        shapes[f"torso/{layer}/kernel"], shapes[f"torso/{layer}/bias"] = (inputs, width), (width,)
        inputs = width
    for head, outputs in (("policy", spec.num_actions), ("value", 1)):
        shapes[f"{head}/kernel"], shapes[f"{head}/bias"] = (inputs, outputs), (outputs,)
    return shapes


def mismatch(spec: PolicyInterface, expected: PolicyInterface) -> str:
    """Why a policy of `spec` cannot act in an environment that is `expected`, or "" where it can."""
    for name in ("observation_shape", "observation_dtype", "num_actions"):
        has, wanted = getattr(spec, name), getattr(expected, name)
        if has != wanted:
            return f"{name} = {has!r}, the environment has {wanted!r}"
    return ""


def _check_integers(name: str, values: object) -> None:
    if not isinstance(values, tuple):
        raise SpecError(f"{name} = {values!r} is not a tuple of integers")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError(f"{name} = {values!r}: each must be an integer of at least 1")


def _fields(kind: type, tree: Any, name: str) -> dict[str, Any]:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(tree, dict) or set(tree) != wanted:
        has = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
        raise SpecError(f"the {name} has {has}, it must have exactly {sorted(wanted)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
