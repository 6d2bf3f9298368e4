"""The settings of a run that distils a released policy into a smaller one: those of the teacher's run, but for a few.

Exceptions: launch.errors.BadInput for a size that is none.
"""

from __future__ import annotations

import dataclasses
import math
import re

from launch.config import RunConfig, StopConfig
from launch.errors import BadInput
from launch.recipes import make_recipe
from learner.distillation.config import DistillationConfig
from policies.architecture import parameter_shapes
from policies.config import NetworkConfig
from policies.spec import PolicySpec

RECIPE = "distill"

STUDENT_SHARE = 0.1
"""Parameters of a student whose size nobody names, as a share of the teacher's."""

RETURN_SHARE = 0.98
"""Share of the teacher's return at which a student has reached its goal: more than the 95% that it should keep, because
the first candidate that reaches a goal in a hundred episodes has had some luck in them."""

OFFLINE_DIVERGENCE_MAX = 0.1
"""Where nobody acts with a student, how near to its teacher (nats) it must be before the gate is troubled with it."""

_SIZE = re.compile(r"\d{1,5}(x\d{1,5}){0,15}")
_SHRINKING = 1.05


def student_config(
    teachers: tuple[str, ...], theirs: RunConfig, spec: PolicySpec, return_mean: float, size: str, *, offline: bool
) -> RunConfig:
    """The settings of the student's run.

    Args:
      teachers: RUN_DIR or RUN_DIR@NUMBER each.
      theirs: settings of the first teacher's run: environment and suite, replay and actors are its.
      spec: of the first teacher.
      return_mean: that its verdict states.
      size: widths of the student's dense layers, e.g. "16x16"; "": as many parameters as STUDENT_SHARE says.
      offline: whether it learns from the records of the teachers' runs.
    """
    goal = return_mean - (1 - RETURN_SHARE) * abs(return_mean)
    return dataclasses.replace(
        theirs,
        recipe=RECIPE,
        network=sized(spec.network, size) if size else smaller_network(spec),
        learner=dataclasses.replace(
            theirs.learner,
            # The teachers say how random to be.
            entropy_cost=0.0,
            entropy_cost_end=0.0,
            candidate_return_min=min(theirs.learner.candidate_return_min, goal),
        ),
        distillation=DistillationConfig(
            teachers=teachers,
            mode="offline" if offline else "on_policy",
            candidate_divergence_max=OFFLINE_DIVERGENCE_MAX if offline else math.inf,
        ),
        stop=dataclasses.replace(_limits(theirs), target_return=goal),
    )


def sized(network: NetworkConfig, size: str) -> NetworkConfig:
    """The network with dense layers of the widths that "16x16" names. Raises BadInput."""
    if not _SIZE.fullmatch(size):
        raise BadInput(f"--student-size {size!r} must be the widths of the dense layers with x between, e.g. 16x16")
    return dataclasses.replace(network, hidden_sizes=tuple(int(width) for width in size.split("x")))


def smaller_network(spec: PolicySpec, share: float = STUDENT_SHARE) -> NetworkConfig:
    """The same layers, all narrower by one factor, with at most this share of the parameters where that is possible."""
    most = share * count_parameters(spec)
    factor, network = 1.0, spec.network
    while count_parameters(dataclasses.replace(spec, network=network)) > most and _is_wide(network):
        factor *= _SHRINKING
        network = _narrowed(spec.network, factor)
    return network


def count_parameters(spec: PolicySpec) -> int:
    """Numbers in all parameters."""
    return sum(math.prod(shape) for shape in parameter_shapes(spec).values())


def _limits(theirs: RunConfig) -> StopConfig:
    """Those of the teacher's run; the recipe's own where that would go on until its goal, which a student may miss."""
    limited = theirs.stop.env_steps_max or theirs.stop.seconds_max
    return theirs.stop if limited else make_recipe(RECIPE).stop


def _narrowed(network: NetworkConfig, factor: float) -> NetworkConfig:
    def narrow(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, int(width / factor)) for width in widths)

    return dataclasses.replace(
        network,
        hidden_sizes=narrow(network.hidden_sizes),
        conv_channels=narrow(network.conv_channels),
        resnet_channels=narrow(network.resnet_channels),
        core_size=narrow((network.core_size,))[0],
    )


def _is_wide(network: NetworkConfig) -> bool:
    widths = (*network.hidden_sizes, *network.conv_channels, *network.resnet_channels, network.core_size)
    return any(width > 1 for width in widths)
