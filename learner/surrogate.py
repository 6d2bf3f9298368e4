"""What the policy's gradient comes from: per step, the loss of an action with a given advantage.

Pure functions on arrays of any one shape; advantages are constants. Who masks, weighs and averages is `learner.loss`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def log_likelihood_loss(log_pi: Float[Array, "*N"], advantage: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """- A log pi(a|x): the policy gradient of V-trace, whose advantages carry their importance weight."""
    return -jax.lax.stop_gradient(advantage) * log_pi


def clipped_loss(log_ratio: Float[Array, "*N"], advantage: Float[Array, "*N"], clip: float) -> Float[Array, "*N"]:
    """- min(r A, clip(r, 1 - e, 1 + e) A), Schulman et al. 2017, https://arxiv.org/abs/1707.06347, equation 7.

    Args:
      log_ratio: log pi(a|x) less that of the policy to stay near.
      advantage: A, with no importance weight of pi in it: r is that.
      clip: e.
    """
    ratio, advantage = jnp.exp(log_ratio), jax.lax.stop_gradient(advantage)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)
