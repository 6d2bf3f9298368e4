"""Checks of what a test is set to: error rates, limits, numbers of episodes. They know nothing of what was observed.

A wrong parameter is a mistake of whoever set up the gate, and raises; a wrong observation is the candidate's, and fails
it.

Exceptions: ParameterError (a ValueError) for a parameter that makes a test meaningless, or that nothing could pass.
"""

from __future__ import annotations

import math

ALPHA_MIN = 1e-12
"""Least error rate of an exact bound: what is left of a smaller one in 1 - alpha is too coarse."""


class ParameterError(ValueError):
    """A parameter lies outside its bounds; the message names parameter, value and bounds."""


def check_share(name: str, value: float) -> None:
    """Raises ParameterError unless `value` lies strictly between 0 and 1: an error rate, or the limit of a rate."""
    check_between(name, value, 0.0, 1.0)


def check_alpha(alpha: float) -> None:
    """Raises ParameterError unless `alpha` lies in [ALPHA_MIN, 0.5]."""
    if not ALPHA_MIN <= alpha <= 0.5:
        raise ParameterError(f"alpha = {alpha} must lie in [{ALPHA_MIN:g}, 0.5]")


def check_between(name: str, value: float, above: float, below: float) -> None:
    """Raises ParameterError unless `value` lies strictly between the two; NaN never does."""
    if not above < value < below:
        raise ParameterError(f"{name} = {value} must lie in ({above:g}, {below:g})")


def check_count(name: str, value: int, low: int) -> None:
    """Raises ParameterError unless `value` is at least `low`."""
    if value < low:
        raise ParameterError(f"{name} = {value} must be at least {low}")


def check_finite(name: str, value: float) -> None:
    """Raises ParameterError for NaN and infinities."""
    if not math.isfinite(value):
        raise ParameterError(f"{name} = {value} must be finite")
