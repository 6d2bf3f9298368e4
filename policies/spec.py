"""What a policy is, apart from its numbers: its network and what goes in and comes out. Imports no framework.

The specification travels inside every artifact as canonical JSON, so that whoever holds the bytes can rebuild the
policy and knows the name and shape of every parameter (policies.architecture). Preprocessing of observations is part of
it: see `policies.policy.as_float32`.

Exceptions: SpecError (policies.spaces) for a specification that cannot describe a policy.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Protocol

from policies.architecture import check_architecture, core_state_size, parameter_shapes
from policies.config import NetworkConfig
from policies.spaces import ActionSpace, ObservationSpace, SpecError
from replay.settings import SettingError, validate

PARAMETERS_MAX = 1 << 26
"""Most parameters of one policy: 256 MiB of float32."""


class PolicyInterface(Protocol):
    """What a policy and an environment must agree on. An environment's specification satisfies it as it is."""

    @property
    def observation(self) -> ObservationSpace:
        """What one observation is."""

    @property
    def action(self) -> ActionSpace:
        """What one action is."""


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """A policy apart from its parameters: hashable, and checked when it is made.

    Attributes:
      network: the function approximator.
      observation: what goes in; for a conv or resnet network it has an image, a part [height, width, channels].
      action: what comes out.

    Raises:
      SpecError: a value is out of bounds, or the network does not fit the observation.
    """

    network: NetworkConfig
    observation: ObservationSpace
    action: ActionSpace

    def __post_init__(self) -> None:
        try:
            validate(self.network, "network.")
        except SettingError as error:
            raise SpecError(str(error)) from error
        check_architecture(self.network, self.observation)
        parameters = sum(math.prod(shape) for shape in parameter_shapes(self).values())
        if parameters > PARAMETERS_MAX:
            raise SpecError(f"the network has {parameters} parameters, the limit is {PARAMETERS_MAX}")

    @property
    def state_size(self) -> int:
        """S: numbers that a recurrent core keeps from step to step for one environment; 0 without one."""
        return core_state_size(self.network)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal specifications give equal text."""
        tree = {
            "network": dataclasses.asdict(self.network),
            "observation": self.observation.to_tree(),
            "action": self.action.to_tree(),
        }
        return json.dumps(tree, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> PolicySpec:
        """The specification that `to_json` wrote. Raises SpecError on anything else, unknown keys included."""
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"the specification is not JSON: {error}") from error
        fields = _fields(cls, tree, "specification")
        spec = cls(
            NetworkConfig(**_fields(NetworkConfig, fields["network"], "network")),
            ObservationSpace.from_tree(fields["observation"]),
            ActionSpace.from_tree(fields["action"]),
        )
        if spec.to_json() != text:
            raise SpecError("the specification is not in canonical JSON (sorted keys, no spaces)")
        return spec


def mismatch(spec: PolicyInterface, expected: PolicyInterface) -> str:
    """Why a policy of `spec` cannot act in an environment that is `expected`, or "" where it can."""
    if spec.observation != expected.observation:
        return f"observations {spec.observation.describe()}, the environment has {expected.observation.describe()}"
    if spec.action != expected.action:
        return f"{spec.action.describe()}, the environment has {expected.action.describe()}"
    return ""


def _fields(kind: type, tree: Any, name: str) -> dict[str, Any]:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(tree, dict) or set(tree) != wanted:
        has = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
        raise SpecError(f"the {name} has {has}, it must have exactly {sorted(wanted)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
