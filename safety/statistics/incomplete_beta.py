"""The regularized incomplete beta function and its inverse, in double precision, without SciPy.

Binomial and Student t probabilities are values of this one function, so the confidence bounds of the gate rest on it.
It knows nothing of samples or confidence; see `safety.statistics.intervals`.
"""

from __future__ import annotations

import math

_TINY = 1e-300
_RELATIVE_ERROR = 1e-15
_TERMS_MAX = 100_000


class BetaError(ValueError):
    """An argument lies outside the function's domain, or the fraction did not converge."""


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the distribution function of a Beta(a, b) variable at x.

    By the continued fraction of DLMF 8.17.22, evaluated with the modified Lentz algorithm; it converges in
    O(sqrt(max(a, b))) terms.

    Args:
      x: in [0, 1].
      a, b: shape parameters, above 0.

    Raises:
      BetaError: outside that domain.
    """
    if not (0.0 <= x <= 1.0 and 0.0 < a < math.inf and 0.0 < b < math.inf):
        raise BetaError(f"I_x(a, b) is not defined at x = {x}, a = {a}, b = {b}")
    if x in (0.0, 1.0):
        return x
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # The fraction converges fast on this side of the mean only; the other side follows by symmetry.
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _fraction(x, a, b) / a
    return 1.0 - math.exp(log_front) * _fraction(1.0 - x, b, a) / b


def inverse_incomplete_beta(probability: float, a: float, b: float) -> tuple[float, float]:
    """The neighbouring doubles (low, high) between which I_x(a, b) reaches `probability`.

    Bisection: it cannot miss, and lets a caller round to the careful side.

    Args:
      probability: in (0, 1).
      a, b: shape parameters, above 0.

    Raises:
      BetaError: outside that domain.
    """
    if not 0.0 < probability < 1.0:
        raise BetaError(f"the inverse is defined for a probability in (0, 1), not {probability}")
    low, high = 0.0, 1.0
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            return low, high
        if incomplete_beta(middle, a, b) < probability:
            low = middle
        else:
            high = middle


def _fraction(x: float, a: float, b: float) -> float:
    numerator, denominator = 1.0, _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    denominator = 1.0 / denominator
    value = denominator
    for m in range(1, _TERMS_MAX):
        for coefficient in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            denominator = 1.0 / _away_from_zero(1.0 + coefficient * denominator)
            numerator = _away_from_zero(1.0 + coefficient / numerator)
            factor = numerator * denominator
            value *= factor
        if abs(factor - 1.0) < _RELATIVE_ERROR:
            return value
    raise BetaError(f"the continued fraction did not converge at x = {x}, a = {a}, b = {b}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
