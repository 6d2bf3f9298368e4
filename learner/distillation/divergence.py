"""How far a student is from a teacher, step by step, as losses whose gradients reach the student alone.

On its own steps a student minimises KL(student || teacher), which makes it leave alone what the teacher would not do;
on the teacher's steps KL(teacher || student), which makes it cover what the teacher does (Agarwal et al. 2023, arXiv
2306.13649, section 3). Where the distributions are at hand both are taken in closed form.

Knows no networks, batches or weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learner.distributions import kl_divergence
from policies.spaces import ActionSpace


def reverse_divergence(
    student: Float[Array, "*N P"], teacher: Float[Array, "*N P"], space: ActionSpace, temperature: float = 1.0
) -> Float[Array, "*N"]:
    """KL(student || teacher) of the distributions with these parameters.

    Args:
      student: parameters of the student's distributions.
      teacher: of the teacher's; no gradient flows into them.
      space: of the actions.
      temperature: t, divides the logits of both; of choices only. The divergence is then multiplied by t^2, so that
        its gradients keep their size (Hinton et al. 2015, arXiv 1503.02531, section 2).
    """
    fixed = jax.lax.stop_gradient(teacher)
    return temperature**2 * kl_divergence(student / temperature, fixed / temperature, space)


def forward_divergence(
    student: Float[Array, "*N P"], teacher: Float[Array, "*N P"], space: ActionSpace, temperature: float = 1.0
) -> Float[Array, "*N"]:
    """KL(teacher || student); otherwise as `reverse_divergence`."""
    fixed = jax.lax.stop_gradient(teacher)
    return temperature**2 * kl_divergence(fixed / temperature, student / temperature, space)


def sampled_reverse_divergence(
    log_student: Float[Array, "*N"], log_teacher: Float[Array, "*N"], importance: Float[Array, "*N"]
) -> Float[Array, "*N"]:
    """A loss whose gradient is an estimate of that of KL(student || teacher), from one action each.

    d = log pi_S(a) - log pi_T(a) is the negative advantage of the action: the loss is d log pi_S(a) with d held fixed.
    Were d differentiated itself, its gradient would be that of log pi_S(a), in which the teacher does not occur.

    Args:
      log_student: log pi_S(a) of the actions taken.
      log_teacher: log pi_T(a) of the same.
      importance: weight of each for that an earlier student took it: pi_S(a) / mu(a), bounded; no gradient flows.
    """
    difference = jax.lax.stop_gradient(importance * (log_student - log_teacher))
    return difference * log_student


def mean_over(values: Float[Array, "T B"], mask: Float[Array, "T B"]) -> Float[Array, ""]:
    """Mean over the real steps of a batch."""
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1.0)
