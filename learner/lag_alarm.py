"""An alarm for a policy lag that only climbs: the learner and those who act then move ever further apart.

Looks at one number per line of metrics, the mean lag of the records since the line before. Knows no records.
"""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Sequence

import numpy as np

RISE_MIN = 1.0
"""Least climb over the whole window (updates) that is worth an alarm."""

T_MIN = 5.0
T_MIN_NEWER_HALF = 3.0
"""Least t of the slope of a line fitted through the window, and through its newer half: a lag that has climbed at the
start, and stands, raises no alarm. With 15 lines 5 comes once in some 8,000 times by chance."""

FIT_LINES_MIN = 15
"""In shorter windows only a lag that rises from each line to the next raises the alarm."""

_log = logging.getLogger(__name__)


class LagAlarm:
    """Says when the lag has done nothing but climb over the last `lines` lines, and warns once each time it begins to.

    Args:
      lines: in the window; 0: there is never an alarm.
    """

    def __init__(self, lines: int) -> None:
        self._window: collections.deque[float] = collections.deque(maxlen=lines)
        self._is_on = False

    @property
    def is_on(self) -> bool:
        """Whether it climbs now."""
        return self._is_on

    def observe(self, lag_mean: float) -> None:
        """Takes the mean lag (updates) since the last line."""
        self._window.append(lag_mean)
        values, was_on = list(self._window), self._is_on
        self._is_on = len(values) == self._window.maxlen and climbs(values)
        if self._is_on and not was_on:
            _log.warning(
                "the policy lag only climbs: from a mean of %.1f to %.1f updates over the last %d lines of metrics; "
                "actors get their weights too late, or replay hands out records too late: lower "
                "replay.fresh_unconsumed_max or learner.snapshot_updates, or bound it by learner.staleness_max",
                *(values[0], values[-1], len(values)),
            )


def climbs(values: Sequence[float]) -> bool:
    """Whether these rise from each to the next, or along a line and still in their newer half; by 1 update at least."""
    if len(values) < 2:
        return False
    if values[-1] - values[0] >= RISE_MIN and all(np.diff(values) > 0):
        return True
    if len(values) < FIT_LINES_MIN:
        return False
    slope, t = _fitted(values)
    _, t_newer = _fitted(values[len(values) // 2 :])
    return slope * (len(values) - 1) >= RISE_MIN and t >= T_MIN and t_newer >= T_MIN_NEWER_HALF


def _fitted(values: Sequence[float]) -> tuple[float, float]:
    """Slope of the line of least squares, and its ratio to its own standard error."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    y = np.asarray(values) - np.mean(values)
    slope = float(x @ y / (x @ x))
    error = math.sqrt(float(np.square(y - slope * x).sum()) / (len(values) - 2) / float(x @ x))
    return slope, slope / error if error else math.copysign(math.inf, slope)
