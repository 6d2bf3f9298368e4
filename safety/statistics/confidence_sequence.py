"""An upper confidence bound of a rate that may be looked at after every episode: the e-process of the gate, inverted.

The evidence against "the rate is at least m" (`safety.statistics.betting`) rises with m. The rates against which it is
below 1 / alpha so form an interval up to 1, and its lower end is the bound: the true rate ever lies above it with
probability at most alpha, however the number of episodes was chosen. A sequential test at the same alpha promotes where
the bound is below its limit, and nowhere else. Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 2021.

Exceptions: CountsError (safety.statistics.counts), ParameterError (safety.statistics.parameters).
"""

from __future__ import annotations

import math

import numpy as np

from safety.statistics.betting import LOG_WEIGHTS_FOR, log_evidence, log_factors
from safety.statistics.counts import CountsError
from safety.statistics.parameters import check_share

_HALVINGS = 60
"""Enough to reach the spacing of floats between 0 and 1 from above."""


def rate_upper(events: int, episodes: int, alpha: float) -> float:
    """The upper confidence bound of a rate, valid at whatever episode one stops; 1 where nothing is known.

    Args:
      events: episodes with an event.
      episodes: all episodes.
      alpha: greatest probability that the true rate ever lies above the bound.

    Raises:
      CountsError: events outside [0, episodes].
      ParameterError: alpha outside (0, 1).
    """
    check_share("alpha", alpha)
    if not 0 <= events <= episodes:
        raise CountsError(f"{events} events in {episodes} episodes")
    # Excluded, and so above the true rate, is every rate from `high` on.
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if 0.0 < middle < 1.0 and rate_evidence(events, episodes, middle) >= -math.log(alpha):
            high = middle
        else:
            low = middle
    return high


def rate_evidence(events: int, episodes: int, rate: float) -> float:
    """log E against a rate of at least `rate`, in (0, 1), after that many episodes with and without an event."""
    clean, event = log_factors(np.array([0.0, 1.0]), rate)
    return float(log_evidence((episodes - events) * clean + events * event, LOG_WEIGHTS_FOR))
