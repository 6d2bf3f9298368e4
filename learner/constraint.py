"""A bound on the mean cost of an episode, kept by a price that rises while it is exceeded (a Lagrange multiplier).

The policy maximises reward less price times cost; the price is moved by gradient ascent on what is beyond the bound
(Ray, Achiam and Amodei 2019, "Benchmarking Safe Exploration in Deep Reinforcement Learning", section 5). The bound is
per episode, as suites, verdicts and the benchmarks' cost limits count; a bound per step would let a policy that lives
longer cost more. A batch holds pieces of episodes, so their mean cost is not to be had from it without a division by
the few episodes that happen to end in it. Summed over batches, what they cost less what the ended ones may cost is
above 0 exactly where the mean cost of an episode is beyond the bound, with nothing divided: that moves the price.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from learner.columns import Batch


def cost_excess(batch: Batch, limit: float) -> Float[Array, ""]:
    """Cost beyond the bound per real step of the fresh records: (costs - limit * episodes ended) / steps.

    An episode has ended in a row whose discount is 0: in the step that terminated it, or in the boundary row after the
    step that was its last. Records without any real step are none, whatever stands in them.
    """
    steps = batch["mask"] & ~batch["replayed"]
    ended = (batch["discount"] == 0) & steps.any(axis=0)
    cost = jnp.where(steps, batch["cost"], 0.0).sum()
    excess: Float[Array, ""] = (cost - limit * ended.sum()) / jnp.maximum(steps.sum(), 1)
    return excess


def next_multiplier(multiplier: Float[Array, ""], excess: Float[Array, ""], rate: float) -> Float[Array, ""]:
    """The price after a step of this size; never below 0."""
    return jnp.maximum(multiplier + rate * excess, 0.0)


def balanced(reward: Array, cost: Array, multiplier: Float[Array, ""]) -> Array:
    """(A_reward - lambda A_cost) / (1 + lambda): a price that grows does not make the steps of the policy grow."""
    return (reward - multiplier * cost) / (1.0 + multiplier)
