"""The distributions that actions are drawn from, in JAX: log-probabilities, entropies, divergences, all differentiable.

The same as `policies.distributions`, where the layout of the parameters [..., P] is laid down and actions are drawn;
one test holds both together.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from policies.distributions import LOG_STD_MAX, LOG_STD_MIN
from policies.spaces import ActionSpace


def log_prob(logits: Float[Array, "*N P"], action: Num[Array, ...], space: ActionSpace) -> Float[Array, "*N"]:
    """Log-probability of actions [*N, *space.shape]; of a box, the logarithm of their density."""
    if space.kind == "box":
        mean, log_std = _gaussian(logits)
        noise = (action - mean) * jnp.exp(-log_std)
        return jnp.sum(-0.5 * jnp.square(noise) - log_std - 0.5 * math.log(2 * math.pi), axis=-1)
    chosen = action if space.shape else action[..., None]
    return _total(
        jnp.take_along_axis(log_softmax, chosen[..., index, None], axis=-1)[..., 0]
        for index, log_softmax in enumerate(_log_softmaxes(logits, space))
    )


def entropy(logits: Float[Array, "*N P"], space: ActionSpace) -> Float[Array, "*N"]:
    """Entropy; of a box, the differential one, which may be negative."""
    if space.kind == "box":
        _, log_std = _gaussian(logits)
        return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)
    return _total(-jnp.sum(jnp.exp(each) * each, axis=-1) for each in _log_softmaxes(logits, space))


def kl_divergence(logits: Float[Array, "*N P"], other: Float[Array, "*N P"], space: ActionSpace) -> Float[Array, "*N"]:
    """KL(p || q) of the distributions with these parameters, in closed form."""
    if space.kind == "box":
        (mean, log_std), (other_mean, other_log_std) = _gaussian(logits), _gaussian(other)
        ratio = jnp.exp(2 * (log_std - other_log_std))
        distance = jnp.square((mean - other_mean) * jnp.exp(-other_log_std))
        return 0.5 * jnp.sum(ratio + distance - 1 - 2 * (log_std - other_log_std), axis=-1)
    pairs = zip(_log_softmaxes(logits, space), _log_softmaxes(other, space), strict=True)
    return _total(jnp.sum(jnp.exp(one) * (one - two), axis=-1) for one, two in pairs)


def _gaussian(logits: Array) -> tuple[Array, Array]:
    mean, log_std = jnp.split(logits, 2, axis=-1)
    return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)


def _log_softmaxes(logits: Array, space: ActionSpace) -> list[Array]:
    """The log-probabilities of the choices of each component."""
    ends = [sum(space.sizes[: index + 1]) for index in range(len(space.sizes) - 1)]
    return [jax.nn.log_softmax(each) for each in jnp.split(logits, ends, axis=-1)]


def _total(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)
