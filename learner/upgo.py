"""UPGO: the policy follows what went better than expected, and bootstraps where it went worse.

Vinyals et al. 2019 (AlphaStar), described with its equations by https://arxiv.org/abs/1910.10897 and in the paper's
methods. Pure functions on time-major arrays, with the conventions of `learner.vtrace`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def upgo_returns(
    v_tm1: Float[Array, "T B"],
    v_t: Float[Array, "T B"],
    r_t: Float[Array, "T B"],
    discount_t: Float[Array, "T B"],
    followed_tm1: Bool[Array, "T B"],
) -> Float[Array, "T B"]:
    """G_s = r_s + gamma_s (G_{s+1} if r_{s+1} + gamma_{s+1} V(x_{s+2}) >= V(x_{s+1}) else V(x_{s+1})).

    Args:
      v_tm1: V(x_s).
      v_t: V(x_{s+1}); its last row is the bootstrap value.
      r_t: rewards.
      discount_t: gamma, 0 where the step terminated its episode.
      followed_tm1: False in rows in which no step was made that may be followed: who leads there bootstraps.

    Returns:
      Returns, detached from the gradient.
    """
    better = (r_t + discount_t * v_t >= v_tm1) & followed_tm1
    followed_t = jnp.concatenate([better[1:], jnp.zeros_like(better[:1])])

    def backward(
        after: Float[Array, " B"], step: tuple[Array, Array, Array, Array]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        reward, discount, value, follows = step
        here = reward + discount * jnp.where(follows, after, value)
        return here, here

    _, returns = jax.lax.scan(backward, v_t[-1], (r_t, discount_t, v_t, followed_t), reverse=True)
    return jax.lax.stop_gradient(returns)
