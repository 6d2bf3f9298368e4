"""The IMPALA loss on a batch of records: V-trace policy gradient, value regression, entropy bonus.

Averages over the real steps of the batch (the paper sums). Knows the columns of a record, not where they came from,
and not how gradients are applied.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learner.columns import Batch
from learner.config import LearnerConfig
from learner.distributions import entropy, log_prob
from learner.vtrace import vtrace
from policies.networks import NetworkOutput
from policies.spaces import ActionSpace


class LossFigures(NamedTuple):
    """Scalars worth watching, each a mean over the real steps of the batch."""

    total_loss: Float[Array, ""]
    policy_loss: Float[Array, ""]
    value_loss: Float[Array, ""]
    entropy: Float[Array, ""]
    value_mean: Float[Array, ""]
    advantage_std: Float[Array, ""]
    effective_sample_size: Float[Array, ""]
    """(sum rho)^2 / (n sum rho^2), in (0, 1]: 1 where behaviour and target policy agree."""
    divergence: Float[Array, ""]
    """Mean of log mu - log pi over the actions taken: an estimate of KL(mu || pi)."""


def impala_loss(
    output: NetworkOutput, batch: Batch, space: ActionSpace, entropy_cost: Float[Array, ""], config: LearnerConfig
) -> tuple[Float[Array, ""], LossFigures]:
    """The loss and its figures.

    Args:
      output: what the network says of the T + 1 observations of the batch.
      batch: the trained columns.
      space: of the actions.
      entropy_cost: weight of the entropy bonus.
      config: all other weights and bounds.

    Masked rows (no environment step was made, see the record columns in docs/wire.md) carry weight 0 everywhere: rho
    of 0 makes their target their own value, which is the bootstrap that the truncated step before them needs.
    """
    v_tm1, v_t = output.value[:-1], output.value[1:]
    log_pi = log_prob(output.logits[:-1], batch["action"], space)
    mask = batch["mask"].astype(jnp.float32)
    steps = jnp.maximum(mask.sum(), 1.0)

    log_rho = jnp.where(batch["mask"], log_pi - batch["log_prob"], 0.0)
    rho_tm1 = jnp.exp(log_rho) * mask
    trace = vtrace(
        v_tm1,
        jax.lax.stop_gradient(v_t),
        shape_reward(batch["reward"], batch["cost"], config),
        config.discount * batch["discount"],
        jax.lax.stop_gradient(rho_tm1),
        trace_decay=config.trace_decay,
        rho_clip=config.rho_clip,
        c_clip=config.c_clip,
        policy_gradient_rho_clip=config.policy_gradient_rho_clip,
    )
    policy_loss = -(log_pi * trace.advantages_tm1 * mask).sum() / steps
    value_loss = 0.5 * (jnp.square(trace.targets_tm1 - v_tm1) * mask).sum() / steps
    entropy_mean = (entropy(output.logits[:-1], space) * mask).sum() / steps
    total = policy_loss + config.value_cost * value_loss - entropy_cost * entropy_mean

    advantage_mean = (trace.advantages_tm1 * mask).sum() / steps
    figures = LossFigures(
        total_loss=total,
        policy_loss=policy_loss,
        value_loss=value_loss,
        entropy=entropy_mean,
        value_mean=(v_tm1 * mask).sum() / steps,
        advantage_std=jnp.sqrt((jnp.square(trace.advantages_tm1 - advantage_mean) * mask).sum() / steps),
        effective_sample_size=jnp.square(rho_tm1.sum()) / jnp.maximum(steps * jnp.square(rho_tm1).sum(), 1e-8),
        divergence=-log_rho.sum() / steps,
    )
    return total, figures


def shape_reward(reward: Float[Array, "T B"], cost: Float[Array, "T B"], config: LearnerConfig) -> Float[Array, "T B"]:
    """The reward the learner maximises: scaled, optionally clipped, less the priced cost."""
    scaled = config.reward_scale * reward
    if config.reward_clip > 0.0:
        scaled = jnp.clip(scaled, -config.reward_clip, config.reward_clip)
    return scaled - config.cost_coefficient * cost
