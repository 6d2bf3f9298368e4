"""Mean and variance of a stream of numbers, batch by batch, without the stream.

Two sets are joined as in Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), equation 2.1:
no sums of squares, whose difference would be all rounding where the mean is large. A weight is a count of numbers, or
a share of them where the past is forgotten.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_WEIGHT_MIN = 1e-30
"""In place of a weight of 0, so that joining nothing to nothing gives nothing."""


class Moments(NamedTuple):
    """Of a set of arrays [*shape], element by element."""

    weight: Float[Array, ""]
    """How much the set counts for."""
    mean: Float[Array, "*shape"]
    variance: Float[Array, "*shape"]
    """Of the set itself: divided by its weight, not by one less."""


def no_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Of the empty set."""
    return Moments(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))


def moments_of(values: Float[Array, "T B *shape"], counted: Bool[Array, "T B"]) -> Moments:
    """Of the rows that count; their number is the weight."""
    weights = counted.astype(values.dtype)
    weight = weights.sum()
    share = weights / jnp.maximum(weight, 1.0)
    mean = jnp.einsum("tb,tb...->...", share, values)
    variance = jnp.einsum("tb,tb...->...", share, jnp.square(values - mean))
    return Moments(weight, mean, variance)


def joined(one: Moments, other: Moments) -> Moments:
    """Of both sets together."""
    weight = one.weight + other.weight
    share = other.weight / jnp.maximum(weight, _WEIGHT_MIN)
    distance = other.mean - one.mean
    return Moments(
        weight,
        one.mean + share * distance,
        (1.0 - share) * (one.variance + share * jnp.square(distance)) + share * other.variance,
    )
