"""Figures by which observations of floats are normalized: gathered from the batches, written into the parameters.

In the parameters they travel in the artifact, so that whoever acts normalizes as the learner did when it made them. The
network applies them (policies.networks); here they are counted. Every step counts once: records that come again from
the tables of replay do not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from learner.columns import Batch
from learner.config import LearnerConfig
from learner.moments import Moments, joined, moments_of, no_moments
from policies.architecture import normalized_parts, scoped
from policies.spec import PolicySpec

Normalizer = dict[str, Moments]
"""By the scope of a part's parameters."""

VARIANCE_MIN = 1e-6
"""Added to the variance: an observation that never changes is not blown up."""

ARTIFACT_WEIGHT = 100_000.0
"""Steps that the figures of an artifact are taken to come from, where only the artifact is left."""


def first_normalizer(spec: PolicySpec) -> Normalizer | None:
    """Before any batch; None for a network that does not normalize."""
    parts = normalized_parts(spec.network, spec.observation)
    return {scoped("normalizer", part): no_moments(part.shape) for part in parts} or None


def normalizer_of(parameters: dict[str, Array], normalizer: Normalizer | None) -> Normalizer | None:
    """What the parameters say of it, with a weight of `ARTIFACT_WEIGHT`; None where there is none."""
    if normalizer is None:
        return None
    return {
        scope: Moments(
            jnp.asarray(ARTIFACT_WEIGHT, jnp.float32),
            jnp.copy(parameters[f"{scope}/mean"]),
            jnp.maximum(parameters[f"{scope}/scale"] ** -2 - VARIANCE_MIN, 0.0),
        )
        for scope in normalizer
    }


def next_normalizer(
    normalizer: Normalizer, batch: Batch, spec: PolicySpec, config: LearnerConfig, updates: Array
) -> Normalizer:
    """With the real steps of the batch that came fresh; as it was from update `normalizer_updates` on."""
    counted: Bool[Array, "T B"] = batch["mask"] & ~batch["replayed"]
    following = {}
    for part in normalized_parts(spec.network, spec.observation):
        scope = scoped("normalizer", part)
        values = jnp.asarray(batch[part.column][:-1])
        # Sums of half precision numbers would not fit into one.
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
        following[scope] = joined(normalizer[scope], moments_of(values, counted))
    if not config.normalizer_updates:
        return following
    gathering = updates < config.normalizer_updates
    chosen: Normalizer = jax.tree.map(lambda new, old: jnp.where(gathering, new, old), following, normalizer)
    return chosen


def normalizing_figures(normalizer: Normalizer) -> dict[str, Array]:
    """The parameters that the network normalizes by; those of the empty set change nothing."""
    parameters = {}
    for scope, moments in normalizer.items():
        known = moments.weight > 0
        parameters[f"{scope}/mean"] = moments.mean
        parameters[f"{scope}/scale"] = jnp.where(known, jax.lax.rsqrt(moments.variance + VARIANCE_MIN), 1.0)
    return parameters
