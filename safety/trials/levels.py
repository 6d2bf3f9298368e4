"""At which error rate the next candidate of a run is tested, and how many episodes that takes.

Every candidate that was tested uses up a share of the run's error rate (`safety.statistics.lifetime`), whatever became
of it: also those that were deferred, whose evaluation was void, or that crashed half way. A smaller share needs more
evidence, and evidence grows by a constant factor with each episode: so budgets, sizes of fixed-size tests and plants
grow with the logarithm of the share. They are known before the first episode of the candidate, so tests of fixed size
stay valid.

Exceptions: ParameterError (safety.statistics.parameters) where so many candidates were tested that no test can be made
at what is left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from safety.statistics.lifetime import recycled_level, spent_level
from safety.statistics.parameters import ParameterError, check_alpha

RECYCLE, SPEND = "recycle", "spend"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a run's candidates share its error rate.

    Attributes:
      error_rate: chance, over all of them together, to release one that is above a limit.
      kind: RECYCLE or SPEND.
    """

    error_rate: float
    kind: str

    def alpha(self, approvals: Sequence[bool]) -> float:
        """The error rate for the next candidate, given of each that was tested before it whether it was approved.

        Raises:
          ParameterError: no such schedule, or an error rate outside (0, 1).
        """
        if self.kind == RECYCLE:
            return recycled_level(self.error_rate, approvals)
        if self.kind == SPEND:
            return spent_level(self.error_rate, len(approvals) + 1)
        raise ParameterError(f"error_schedule = {self.kind!r} must be {RECYCLE} or {SPEND}")


@dataclasses.dataclass(frozen=True)
class Level:
    """What one candidate is tested at.

    Attributes:
      index: candidates tested, this one included.
      alpha: its error rate.
      growth: how many times as many episodes as the first candidate it may use; at least 1.
    """

    index: int
    alpha: float
    growth: float

    def grown(self, count: int) -> int:
        """A number of episodes that was set for the first candidate, for this one."""
        return math.ceil(count * self.growth)


def next_level(schedule: Schedule, approvals: Sequence[bool]) -> Level:
    """The level of the next candidate, given of each that was tested before it whether it was approved.

    Raises:
      ParameterError: see there.
    """
    alpha = schedule.alpha(approvals)
    check_alpha(alpha)
    growth = max(1.0, math.log(alpha) / math.log(schedule.alpha(())))
    return Level(len(approvals) + 1, alpha, growth)
