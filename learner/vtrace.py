"""V-trace targets and advantages (Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, equation 1 and section 4.2).

Pure functions on time-major arrays. No networks, no losses, no knowledge of records: what a discount of zero or a
masked row means is said by the caller through `discount_t` and `rho_tm1`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class VTrace(NamedTuple):
    """What V-trace gives for an unroll; no gradient flows through any of it."""

    targets_tm1: Float[Array, "T B"]
    """v_s: what the value function is regressed to."""
    advantages_tm1: Float[Array, "T B"]
    """rho_s (r_s + gamma v_{s+1} - V(x_s)): the weight of the policy gradient."""


def vtrace(
    v_tm1: Float[Array, "T B"],
    v_t: Float[Array, "T B"],
    r_t: Float[Array, "T B"],
    discount_t: Float[Array, "T B"],
    rho_tm1: Float[Array, "T B"],
    *,
    trace_decay: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    policy_gradient_rho_clip: float = 1.0,
) -> VTrace:
    """V-trace over T steps of B unrolls.

    With d_s = rho_s (r_s + gamma_s V(x_{s+1}) - V(x_s)), the targets obey v_s - V(x_s) = d_s + gamma_s c_s
    (v_{s+1} - V(x_{s+1})), computed backwards by one scan: on a CPU this beats a scan per unroll and an associative
    scan at the sizes used here.

    Args:
      v_tm1: V(x_s), the values of the states acted in.
      v_t: V(x_{s+1}), the values of the states that followed; its last row is the bootstrap value.
      r_t: rewards.
      discount_t: gamma where the episode went on, 0 where the step terminated it.
      rho_tm1: unclipped importance weights pi(a_s|x_s) / mu(a_s|x_s). A weight of 0 makes the target of a row its own
        value and stops the trace there.
      trace_decay: lambda, multiplies c.
      rho_clip: rho-bar, fixes which value function is learnt.
      c_clip: c-bar, limits how far a surprise travels back.
      policy_gradient_rho_clip: bound on the weight in the advantage.

    Returns:
      Targets and advantages, detached from the gradient.
    """
    rho_clipped = jnp.minimum(rho_clip, rho_tm1)
    c_tm1 = trace_decay * jnp.minimum(c_clip, rho_tm1)
    delta_t = rho_clipped * (r_t + discount_t * v_t - v_tm1)

    def backward(
        correction: Float[Array, " B"], step: tuple[Float[Array, " B"], Float[Array, " B"]]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        delta, decay = step
        correction = delta + decay * correction
        return correction, correction

    _, corrections = jax.lax.scan(backward, jnp.zeros_like(v_t[-1]), (delta_t, discount_t * c_tm1), reverse=True)
    targets_tm1 = v_tm1 + corrections
    targets_t = jnp.concatenate([targets_tm1[1:], v_t[-1:]], axis=0)
    # Where the next row is a different state than the one this step led to (episode boundary), discount_t is 0 and
    # neither target counts; everywhere else targets_t is the target of the very next state.
    advantages_tm1 = jnp.minimum(policy_gradient_rho_clip, rho_tm1) * (r_t + discount_t * targets_t - v_tm1)
    return VTrace(jax.lax.stop_gradient(targets_tm1), jax.lax.stop_gradient(advantages_tm1))
