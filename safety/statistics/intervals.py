"""Confidence bounds: Clopper-Pearson for a rate, Student's t (with a correction for skew) for a mean.

Pure functions of counts and arrays. They know nothing of limits, candidates or verdicts; see `safety.criteria`.

Exceptions: IntervalError (a ValueError) for arguments no bound can be given for.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safety.statistics.incomplete_beta import inverse_incomplete_beta


class IntervalError(ValueError):
    """No bound can be given: impossible counts, too few values, values that are not finite."""


class MeanInterval(NamedTuple):
    """A mean with its two-sided confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def clopper_pearson_upper(events: int, trials: int, confidence: float) -> float:
    """The exact one-sided upper confidence bound of a rate (Clopper and Pearson 1934).

    The true rate is at most the bound with probability at least `confidence`, whatever it is. Zero events in n trials
    give 1 - (1 - confidence) ** (1 / n).

    Raises:
      IntervalError: no trials, or events outside [0, trials].
    """
    _check_counts(events, trials, confidence)
    if events == trials:
        return 1.0
    return inverse_incomplete_beta(confidence, events + 1, trials - events)[1]


def clopper_pearson_lower(events: int, trials: int, confidence: float) -> float:
    """The exact one-sided lower confidence bound of a rate; 0 where there are no events.

    Raises:
      IntervalError: no trials, or events outside [0, trials].
    """
    _check_counts(events, trials, confidence)
    if events == 0:
        return 0.0
    return inverse_incomplete_beta(1.0 - confidence, events, trials - events + 1)[0]


@functools.lru_cache(maxsize=64)
def student_t_quantile(probability: float, degrees: int) -> float:
    """The value that Student's t with `degrees` degrees of freedom stays below with `probability` in (0.5, 1).

    From P(|T| > t) = I_x(degrees / 2, 1 / 2) with x = degrees / (degrees + t^2).

    Raises:
      IntervalError: outside that domain.
    """
    if not 0.5 < probability < 1.0 or degrees < 1:
        raise IntervalError(f"no quantile for probability {probability} and {degrees} degrees of freedom")
    x = inverse_incomplete_beta(2.0 * (1.0 - probability), degrees / 2.0, 0.5)[0]
    return math.sqrt(degrees * (1.0 - x) / x)


def mean_interval(values: NDArray[np.float64], confidence: float) -> MeanInterval:
    """The mean of `values` [N] and its two-sided t interval; N at least 2.

    Raises:
      IntervalError: fewer than 2 values, or one that is not finite.
    """
    mean, deviation = _moments(values)
    half = student_t_quantile(0.5 + confidence / 2.0, len(values) - 1) * deviation / math.sqrt(len(values))
    return MeanInterval(mean, mean - half, mean + half)


def mean_lower(values: NDArray[np.float64], confidence: float) -> float:
    """A one-sided lower confidence bound of the mean of `values` [N], N at least 2, careful about rare large losses.

    Student's t bound, lowered by the first-order Edgeworth term of a studentised mean (Hall, "Inverting an Edgeworth
    expansion", Annals of Statistics 1983): with skewness g and t quantile q, mean - q s / sqrt(N) + g (1 + 2 q^2)
    s / (6 N). The term is used only where the skew is to the left: there the plain t bound is too high. Without
    variance in the sample the bound is the mean.

    Raises:
      IntervalError: fewer than 2 values, or one that is not finite.
    """
    mean, deviation = _moments(values)
    if deviation == 0.0:
        return mean
    count = len(values)
    quantile = student_t_quantile(confidence, count - 1)
    skewness = float(np.mean(((values - mean) / deviation) ** 3))
    correction = min(0.0, skewness * (1.0 + 2.0 * quantile**2) * deviation / (6.0 * count))
    return mean - quantile * deviation / math.sqrt(count) + correction


def _check_counts(events: int, trials: int, confidence: float) -> None:
    if trials < 1 or not 0 <= events <= trials or not 0.0 < confidence < 1.0:
        raise IntervalError(f"no bound for {events} events in {trials} trials at confidence {confidence}")


def _moments(values: NDArray[np.float64]) -> tuple[float, float]:
    if values.ndim != 1 or len(values) < 2:
        raise IntervalError(f"values have shape {values.shape}; a mean needs a vector of at least 2")
    if not np.all(np.isfinite(values)):
        raise IntervalError(f"{int(np.sum(~np.isfinite(values)))} of {len(values)} values are not finite")
    # Equal values must give exactly no variance, which rounding in the mean would otherwise hide.
    if np.all(values == values[0]):
        return float(values[0]), 0.0
    return float(np.mean(values)), float(np.std(values, ddof=1))
