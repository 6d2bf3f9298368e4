"""PopArt: the value head learns targets of mean 0 and deviation 1, whatever the scale of the rewards.

van Hasselt et al. 2016, https://arxiv.org/abs/1602.07714, algorithm 1, and for actor-critics Hessel et al. 2018,
https://arxiv.org/abs/1809.04474. The head says n(x); the value is V(x) = scale n(x) + mean. When the figures move, the
head is moved the other way, so that every V stays what it was. The figures move before the step is made: no target,
however large, reaches the gradient as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from learner.moments import Moments, joined

HEAD = ("value/kernel", "value/bias")
"""The parameters that are moved."""

SCALE_MIN = 1e-4
SCALE_MAX = 1e6
"""Bounds on the scale, those of the paper."""


class Scaling(NamedTuple):
    """How values come from the head's outputs."""

    mean: Float[Array, ""]
    scale: Float[Array, ""]

    def value(self, output: Array) -> Array:
        """V = scale n + mean."""
        return self.scale * output + self.mean


def scaling(moments: Moments | None) -> Scaling:
    """By the figures so far; V = n where there are none."""
    if moments is None:
        return Scaling(jnp.zeros(()), jnp.ones(()))
    deviation = jnp.clip(jnp.sqrt(moments.variance), SCALE_MIN, SCALE_MAX)
    return Scaling(moments.mean, jnp.where(moments.weight > 0, deviation, 1.0))


def next_moments(moments: Moments, targets: Moments, rate: float) -> Moments:
    """Moving averages with those of a batch's targets; the first batch alone makes the first ones.

    Args:
      moments: so far, with a weight of 1 - (1 - rate)^k after k batches.
      targets: of the batch; it counts for nothing where its weight is 0.
      rate: beta, share of the newest batch in the long run.
    """
    share = jnp.where(targets.weight > 0, rate, 0.0)
    return joined(moments._replace(weight=(1.0 - share) * moments.weight), targets._replace(weight=share))


def preserved(parameters: dict[str, Array], old: Scaling, new: Scaling) -> dict[str, Array]:
    """The parameters with which the new scaling gives the values that these give with the old one."""
    kernel, bias = (parameters[name] for name in HEAD)
    moved = {
        HEAD[0]: kernel * (old.scale / new.scale),
        HEAD[1]: (old.scale * bias + old.mean - new.mean) / new.scale,
    }
    return parameters | moved


def moved_gradients(gradients: dict[str, Array], old: Scaling, new: Scaling) -> dict[str, Array]:
    """Gradients with respect to the moved head, from those with respect to the head as it was."""
    return gradients | {name: gradients[name] * (new.scale / old.scale) for name in HEAD}
