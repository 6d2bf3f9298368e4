"""A policy without an opinion: every action is equally likely, whatever it observes. For plants and rehearsals."""

from __future__ import annotations

import numpy as np

from policies.architecture import parameter_shapes
from policies.artifact import Artifact
from policies.config import NetworkConfig
from policies.spec import PolicyInterface, PolicySpec


def blank_artifact(interface: PolicyInterface) -> Artifact:
    """The artifact of such a policy for what an environment shows and takes.

    Raises:
      SpecError (policies.spaces): no policy can have that interface.
    """
    network = NetworkConfig(hidden_sizes=(1,), conv_channels=())
    spec = PolicySpec(network, interface.observation, interface.action)
    return Artifact(spec, {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(spec).items()})
