"""How much error each candidate may use, so that over a run's whole life the sum is not exceeded.

Two schemes over candidates k = 1, 2, ...: every candidate that was ever judged counts, also the rejected ones.

  * `spent_level`: alpha_k = 6 alpha / (pi^2 k^2). These add up to alpha.
  * `recycled_level`: online fallback (Tian and Ramdas, "Online control of the familywise error rate", Statistical
    Methods in Medical Research 2021): the same, and an approved candidate hands its whole level to the next one.

Guarantee of both: the probability that any unsafe candidate is ever approved is at most alpha, if each is tested on
fresh seeds, so that, whatever happened before, an unsafe candidate passes at level a with probability at most a. What
the learner offers may depend on all earlier verdicts.

Why the second holds: until the first wrong approval, only safe candidates have handed levels on. So the level of an
unsafe candidate is at most the sum of alpha_j from behind the unsafe one before it up to itself. Those stretches do not
overlap; their sum is at most alpha on every path, and the expected number of first errors is at most that sum.

Exceptions: ParameterError (safety.statistics.parameters).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from safety.statistics.parameters import check_count, check_share


def spent_level(alpha: float, number: int) -> float:
    """alpha_k of candidate `number` k, from 1.

    Raises:
      ParameterError: alpha outside (0, 1), or a number below 1.
    """
    check_share("alpha", alpha)
    check_count("number", number, 1)
    return 6.0 * alpha / (math.pi * number) ** 2


def recycled_level(alpha: float, approvals: Sequence[bool]) -> float:
    """The level of the next candidate, given for every candidate before it whether it was approved.

    alpha_k, and those of the candidates before it back to the last that was not approved; below alpha.

    Raises:
      ParameterError: alpha outside (0, 1).
    """
    number = len(approvals) + 1
    level = spent_level(alpha, number)
    for earlier in range(number - 1, 0, -1):
        if not approvals[earlier - 1]:
            break
        level += spent_level(alpha, earlier)
    return level
