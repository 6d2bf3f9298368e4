"""The steps of a batch as the loss sees them: which ones teach, and by which importance weights.

mu          the policy that acted; its log-probabilities are in the records
pi          the policy that learns
anchor      the policy that PPO's ratio is taken to: the target network's, else mu
corrected   the policy whose values V-trace estimates: with PPO and a target network the target's, else pi
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from learner.cloning import trusted_steps
from learner.columns import Batch
from learner.config import LearnerConfig
from learner.distributions import kl_divergence, log_prob
from policies.networks import NetworkOutput
from policies.spaces import ActionSpace


class Steps(NamedTuple):
    """Of T rows of B records. Gradients flow through `log_pi` and `divergence` alone."""

    real: Bool[Array, "T B"]
    learnt: Bool[Array, "T B"]
    """Those of the real ones that may teach policy and value: all, but for LASER's trust region."""
    log_pi: Float[Array, "T B"]
    log_anchor: Float[Array, "T B"]
    log_rho: Float[Array, "T B"]
    """log pi - log mu; 0 in rows without a step."""
    rho: Float[Array, "T B"]
    """Weights of V-trace; 0 in rows that do not teach."""
    weight: Float[Array, "T B"]
    """What an advantage is multiplied by: the clipped rho, or 1 where PPO's ratio is already that to mu."""
    divergence: Float[Array, "T B"] | None
    """KL(mu || pi), where it is asked for."""

    def mean(self, values: Float[Array, "T B"], rows: Bool[Array, "T B"] | None = None) -> Float[Array, ""]:
        """Sum over some of the rows (else over the real ones), divided by the number of the real ones."""
        return jnp.where(self.real if rows is None else rows, values, 0.0).sum() / jnp.maximum(self.real.sum(), 1)


def steps_of(
    output: NetworkOutput, target: NetworkOutput | None, batch: Batch, space: ActionSpace, config: LearnerConfig
) -> Steps:
    """The steps of a batch.

    Args:
      output: what the network says of the batch.
      target: what the target network says of it, where there is one.
      batch: the trained columns.
      space: of the actions.
      config: of the learner.
    """
    real = jnp.asarray(batch["mask"])
    logits, action, log_mu = output.logits[:-1], batch["action"], batch["log_prob"]
    log_pi = log_prob(logits, action, space)
    log_anchor = log_mu if target is None else log_prob(target.logits[:-1], action, space)
    divergence = kl_divergence(batch["logits"], logits, space) if config.reads_behaviour else None
    learnt = real
    if divergence is not None and config.trust_region_kl:
        learnt = real & trusted_steps(divergence, batch["replayed"], config.trust_region_kl)
    is_ppo = config.policy_loss == "ppo"
    corrected = log_anchor if is_ppo and target is not None else log_pi
    rho = jnp.exp(jnp.where(learnt, corrected - log_mu, 0.0)) * learnt
    weight = jnp.minimum(config.policy_gradient_rho_clip, rho)
    if is_ppo and target is None:
        weight = learnt.astype(rho.dtype)
    return Steps(
        real=real,
        learnt=learnt,
        log_pi=log_pi,
        log_anchor=jax.lax.stop_gradient(log_anchor),
        log_rho=jax.lax.stop_gradient(jnp.where(real, log_pi - log_mu, 0.0)),
        rho=jax.lax.stop_gradient(rho),
        weight=jax.lax.stop_gradient(weight),
        divergence=divergence,
    )
