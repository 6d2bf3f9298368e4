"""The loss on a batch of records, fresh and replayed: policy gradient, value regression, entropy, and what else is set.

The policy gradient is IMPALA's on V-trace advantages, or PPO's on V-trace targets, with IMPACT's target network or
without; UPGO, CLEAR, LASER, PopArt and a bound on cost come in by their settings. The formulas are in docs/learning.md,
the terms in modules of their own; here they are put together. Averages over the real steps of the batch (the papers
sum). Knows the columns of a record, not where they came from, and not how gradients are applied.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learner.cloning import value_cloning_loss
from learner.columns import Batch
from learner.config import LearnerConfig
from learner.constraint import balanced
from learner.distributions import entropy
from learner.moments import Moments, moments_of
from learner.popart import next_moments, scaling
from learner.steps import Steps, steps_of
from learner.surrogate import clipped_loss, log_likelihood_loss
from learner.train_state import NO_AUXILIARY, Auxiliary
from learner.upgo import upgo_returns
from learner.vtrace import vtrace
from policies.networks import NetworkOutput
from policies.spaces import ActionSpace


class LossFigures(NamedTuple):
    """Scalars worth watching, each a mean over the real steps of the batch; None for what is not asked for."""

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
    target_mean: Float[Array, ""]
    target_variance: Float[Array, ""]
    """Of the value targets, in scaled reward."""
    clipped_fraction: Float[Array, ""] | None = None
    """Of the steps, those at which PPO's ratio is beyond its bounds."""
    upgo_loss: Float[Array, ""] | None = None
    cost_value_loss: Float[Array, ""] | None = None
    policy_cloning_loss: Float[Array, ""] | None = None
    value_cloning_loss: Float[Array, ""] | None = None
    trusted_fraction: Float[Array, ""] | None = None
    """Of the steps, those within LASER's trust region; fresh ones are."""


class _Critique(NamedTuple):
    """What the values say of the batch, and their own losses. Advantages are constants, in the scale of the values."""

    advantages: Float[Array, "T B"]
    upgo_advantages: Float[Array, "T B"] | None
    value_loss: Float[Array, ""]
    cost_value_loss: Float[Array, ""] | None
    value_cloning_loss: Float[Array, ""] | None
    value_mean: Float[Array, ""]
    targets: Moments


def impala_loss(
    output: NetworkOutput,
    batch: Batch,
    space: ActionSpace,
    entropy_cost: Float[Array, ""],
    config: LearnerConfig,
    *,
    target: NetworkOutput | None = None,
    auxiliary: Auxiliary = NO_AUXILIARY,
) -> tuple[Float[Array, ""], LossFigures]:
    """The loss and its figures.

    Args:
      output: what the network says of the T + 1 observations of the batch.
      batch: the trained columns.
      space: of the actions.
      entropy_cost: weight of the entropy bonus.
      config: all other weights and bounds.
      target: what the target network says, where there is one.
      auxiliary: PopArt's figures and the price of cost, as they were before this batch.

    Masked rows (no environment step was made, see the record columns in docs/wire.md) carry weight 0 everywhere: rho
    of 0 makes their target their own value, which is the bootstrap that the truncated step before them needs.
    """
    steps = steps_of(output, target, batch, space, config)
    critique = _critique(output, target, batch, steps, config=config, auxiliary=auxiliary)
    policy_loss = _policy_loss(steps, critique.advantages, config)
    upgo_loss = policy_cloning = None
    if critique.upgo_advantages is not None:
        upgo_loss = _policy_loss(steps, critique.upgo_advantages, config)
    if config.clear_policy_cost and steps.divergence is not None:
        policy_cloning = steps.mean(steps.divergence, steps.real & batch["replayed"])
    entropy_mean = steps.mean(entropy(output.logits[:-1], space))
    terms = (
        (config.value_cost, critique.value_loss),
        (config.value_cost, critique.cost_value_loss),
        (config.upgo_cost, upgo_loss),
        (config.clear_policy_cost, policy_cloning),
        (config.clear_value_cost, critique.value_cloning_loss),
        (-entropy_cost, entropy_mean),
    )
    total = policy_loss + sum(weight * term for weight, term in terms if term is not None)
    return total, LossFigures(
        total_loss=total,
        policy_loss=policy_loss,
        value_loss=critique.value_loss,
        entropy=entropy_mean,
        value_mean=critique.value_mean,
        advantage_std=jnp.sqrt(moments_of(critique.advantages, steps.real).variance),
        effective_sample_size=_effective_sample_size(steps),
        divergence=-steps.mean(steps.log_rho),
        target_mean=critique.targets.mean,
        target_variance=critique.targets.variance,
        clipped_fraction=_clipped_fraction(steps, config) if config.policy_loss == "ppo" else None,
        upgo_loss=upgo_loss,
        cost_value_loss=critique.cost_value_loss,
        policy_cloning_loss=policy_cloning,
        value_cloning_loss=critique.value_cloning_loss,
        trusted_fraction=steps.mean(steps.learnt.astype(jnp.float32)) if config.trust_region_kl else None,
    )


def _critique(
    output: NetworkOutput,
    target: NetworkOutput | None,
    batch: Batch,
    steps: Steps,
    *,
    config: LearnerConfig,
    auxiliary: Auxiliary,
) -> _Critique:
    before = after = scaling(auxiliary.popart)
    value, reward = before.value(output.value), shape_reward(batch["reward"], batch["cost"], config)
    targets, advantages = _corrected(value, reward, batch, steps, config)
    target_moments = moments_of(targets, steps.real)
    if auxiliary.popart is not None:
        # The gradient is that of values in the scale that these very targets lead to.
        after = scaling(next_moments(auxiliary.popart, target_moments, config.popart_rate))
    value_cloning = cost_value_loss = None
    if config.clear_value_cost and target is not None:
        distance = value_cloning_loss(value, before.value(target.value), after.scale)
        value_cloning = steps.mean(distance[:-1], steps.real & batch["replayed"])
    sought, gain = value, reward
    if output.cost_value is not None:
        cost_targets, cost_advantages = _corrected(output.cost_value, batch["cost"], batch, steps, config)
        cost_value_loss = _value_loss(steps, output.cost_value, cost_targets, jnp.ones(()))
        if auxiliary.multiplier is not None:
            advantages = balanced(advantages, cost_advantages, auxiliary.multiplier)
            sought = balanced(value, output.cost_value, auxiliary.multiplier)
            gain = balanced(reward, batch["cost"], auxiliary.multiplier)
    upgo = _upgo_advantages(sought, gain, batch, steps, config) / after.scale if config.upgo_cost else None
    return _Critique(
        advantages=advantages / after.scale,
        upgo_advantages=upgo,
        value_loss=_value_loss(steps, value, targets, after.scale),
        cost_value_loss=cost_value_loss,
        value_cloning_loss=value_cloning,
        value_mean=steps.mean(value[:-1]),
        targets=target_moments,
    )


def shape_reward(reward: Float[Array, "T B"], cost: Float[Array, "T B"], config: LearnerConfig) -> Float[Array, "T B"]:
    """The reward the learner maximises: scaled, optionally clipped, less the cost at its fixed price."""
    scaled = config.reward_scale * reward
    if config.reward_clip > 0.0:
        scaled = jnp.clip(scaled, -config.reward_clip, config.reward_clip)
    return scaled - config.cost_coefficient * cost


def _corrected(
    value: Float[Array, "T_plus_1 B"], reward: Float[Array, "T B"], batch: Batch, steps: Steps, config: LearnerConfig
) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
    """Targets and advantages by V-trace, of what is earned or of what it costs; no gradient flows through them."""
    v_tm1, v_t = jax.lax.stop_gradient((value[:-1], value[1:]))
    discount = config.discount * batch["discount"]
    trace = vtrace(
        v_tm1,
        v_t,
        reward,
        discount,
        steps.rho,
        trace_decay=config.trace_decay,
        rho_clip=config.rho_clip,
        c_clip=config.c_clip,
    )
    targets_t = jnp.concatenate([trace.targets_tm1[1:], v_t[-1:]])
    return trace.targets_tm1, steps.weight * (reward + discount * targets_t - v_tm1)


def _upgo_advantages(
    value: Float[Array, "T_plus_1 B"], reward: Float[Array, "T B"], batch: Batch, steps: Steps, config: LearnerConfig
) -> Float[Array, "T B"]:
    v_tm1, v_t = jax.lax.stop_gradient((value[:-1], value[1:]))
    returns = upgo_returns(v_tm1, v_t, reward, config.discount * batch["discount"], steps.learnt)
    return steps.weight * (returns - v_tm1)


def _value_loss(
    steps: Steps, value: Float[Array, "T_plus_1 B"], targets: Float[Array, "T B"], scale: Float[Array, ""]
) -> Float[Array, ""]:
    """Half the mean squared distance to the targets, in units of `scale`."""
    return steps.mean(0.5 * jnp.square((targets - value[:-1]) / scale), steps.learnt)


def _policy_loss(steps: Steps, advantages: Float[Array, "T B"], config: LearnerConfig) -> Float[Array, ""]:
    if config.policy_loss == "ppo":
        return steps.mean(clipped_loss(steps.log_pi - steps.log_anchor, advantages, config.ppo_clip), steps.learnt)
    return steps.mean(log_likelihood_loss(steps.log_pi, advantages), steps.learnt)


def _clipped_fraction(steps: Steps, config: LearnerConfig) -> Float[Array, ""]:
    beyond = jnp.abs(jnp.exp(steps.log_pi - steps.log_anchor) - 1.0) > config.ppo_clip
    return steps.mean(jax.lax.stop_gradient(beyond.astype(jnp.float32)))


def _effective_sample_size(steps: Steps) -> Float[Array, ""]:
    rho = jnp.exp(steps.log_rho) * steps.real
    return jnp.square(rho.sum()) / jnp.maximum(steps.real.sum() * jnp.square(rho).sum(), 1e-8)
