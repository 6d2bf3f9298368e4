"""What keeps a policy near the records that it learns from again: CLEAR's two terms, and LASER's trust region.

CLEAR (Rolnick et al. 2019, https://arxiv.org/abs/1811.11682, section 3): on replayed steps the policy is drawn to the
one that acted, by KL(mu || pi), and the value to what it was then. Records do not say what the value was: that of the
target network stands for it. LASER (Schmitt et al. 2019, https://arxiv.org/abs/1909.11583, section 4): replayed steps
at which pi has gone too far from mu teach nothing, and no trace runs through them.

Pure functions of arrays, per step; who averages is `learner.loss`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def value_cloning_loss(value: Float[Array, "T B"], past: Float[Array, "T B"], scale: Float[Array, ""]) -> Array:
    """Half the squared distance to the past value, in units of `scale`."""
    return 0.5 * jnp.square((value - jax.lax.stop_gradient(past)) / scale)


def trusted_steps(divergence: Float[Array, "T B"], replayed: Bool[Array, " B"], bound: float) -> Bool[Array, "T B"]:
    """Steps that may be learnt from: all fresh ones, and replayed ones whose KL(mu || pi) is within the bound."""
    return ~replayed | (jax.lax.stop_gradient(divergence) <= bound)
