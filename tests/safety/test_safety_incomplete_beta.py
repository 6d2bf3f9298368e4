"""The regularized incomplete beta function against SciPy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from safety.statistics.incomplete_beta import BetaError, incomplete_beta, inverse_incomplete_beta

shape = st.floats(0.5, 2000.0)


@pytest.mark.parametrize("a", [0.5, 1.0, 3.0, 50.0, 5000.0])
@pytest.mark.parametrize("b", [0.5, 1.0, 7.0, 100.0, 20000.0])
def test_equals_scipy(a: float, b: float) -> None:
    mean = a / (a + b)
    for x in (0.0, mean / 10, mean / 2, mean, mean + (1 - mean) / 2, 1.0):
        assert incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-14)


@given(shape, shape, st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_is_a_probability_and_symmetric(a: float, b: float, x: float) -> None:
    value = incomplete_beta(x, a, b)
    assert 0.0 <= value <= 1.0 + 1e-12
    # 1 - x rounds; where the density is high that alone moves the value.
    assert value == pytest.approx(1.0 - incomplete_beta(1.0 - x, b, a), abs=1e-9)


@given(shape, shape, st.floats(0.001, 0.999))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_inverse_brackets_the_probability(a: float, b: float, probability: float) -> None:
    low, high = inverse_incomplete_beta(probability, a, b)
    assert high == math.nextafter(low, 1.0)
    assert high == pytest.approx(special.betaincinv(a, b, probability), rel=1e-7)


@pytest.mark.parametrize("arguments", [(-0.1, 1.0, 1.0), (0.5, 0.0, 1.0), (0.5, 1.0, math.inf), (math.nan, 1.0, 1.0)])
def test_refuses_what_is_outside_its_domain(arguments: tuple[float, float, float]) -> None:
    with pytest.raises(BetaError, match="not defined"):
        incomplete_beta(*arguments)


@pytest.mark.parametrize("probability", [-0.1, 0.0, 1.0, math.nan])
def test_inverse_refuses_what_is_no_inner_probability(probability: float) -> None:
    with pytest.raises(BetaError, match="probability in"):
        inverse_incomplete_beta(probability, 1.0, 1.0)
