"""The e-process in exact arithmetic: it is a martingale at the null hypothesis, and falls above it."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from safety.statistics.betting import LOG_WEIGHTS_AGAINST, LOG_WEIGHTS_FOR, SHARES, log_evidence, log_factors


def evidence(losses: list[Fraction], mean: Fraction) -> Fraction:
    """E_n by the formula, without rounding."""
    weights = [Fraction(math.exp(weight)) for weight in LOG_WEIGHTS_FOR]
    total = Fraction(0)
    for weight, share in zip(weights, map(Fraction, SHARES), strict=True):
        product = weight
        for loss in losses:
            product *= 1 + share / (1 - mean) * (mean - loss)
        total += product
    return total / sum(weights)


def test_equals_the_formula() -> None:
    losses, mean = [Fraction(x, 10) for x in (0, 0, 10, 3, 0, 7, 0, 0, 0)], Fraction(1, 4)
    got = float(log_evidence(np.sum(log_factors(np.array(losses, np.float64), 0.25), axis=0), LOG_WEIGHTS_FOR))
    assert got == pytest.approx(math.log(evidence(losses, mean)), rel=1e-12)


@pytest.mark.parametrize("mean", [Fraction(1, 10), Fraction(1, 2), Fraction(9, 10)])
def test_is_a_martingale_at_the_null_and_falls_above_it(mean: Fraction) -> None:
    def expected(rate: Fraction) -> Fraction:
        return sum(
            (
                math.prod(rate if loss else 1 - rate for loss in losses) * evidence([Fraction(x) for x in losses], mean)
                for losses in itertools.product((0, 1), repeat=5)
            ),
            Fraction(0),
        )

    assert expected(mean) == 1
    assert expected((1 + mean) / 2) < 1
    assert expected(mean / 2) > 1


def test_bets_never_lose_everything() -> None:
    assert np.all((SHARES > 0) & (SHARES < 1))
    for mean in (1e-6, 0.5, 1 - 1e-6):
        assert np.all(np.isfinite(log_factors(np.array([0.0, 1.0]), mean)))


def test_either_mixture_starts_at_one() -> None:
    """What Ville's inequality rests on, besides the martingale."""
    for log_weights in (LOG_WEIGHTS_FOR, LOG_WEIGHTS_AGAINST):
        assert log_evidence(np.zeros(len(SHARES)), log_weights) == pytest.approx(0.0, abs=1e-12)
