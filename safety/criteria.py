"""What a candidate must show: pure functions from counts and returns to results, and their combination.

Intersection-union: a candidate is approved only if every criterion passes, so the chance to approve one that violates
any single limit is at most 1 - confidence per verdict. That is an error rate per verdict, not over a lifetime of them,
and the margin is granted anew against each incumbent.

They fail closed: no episodes, too few episodes and values that are not finite fail. Nothing here evaluates, signs or
remembers.

Exceptions: SettingError (from replay.settings) for settings that no candidate could ever satisfy.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from protos.safety.v1.safety_pb2 import CriterionResult
from replay.settings import SettingError
from safety.config import SafetyConfig
from safety.intervals import clopper_pearson_upper, mean_lower

VIOLATION_RATE = "violation_rate"
RETURN_NON_INFERIORITY = "return_non_inferiority"


def check_attainable(config: SafetyConfig) -> None:
    """Raises SettingError if even a candidate without a single violation would fail the violation criterion."""
    best = clopper_pearson_upper(0, config.episodes, (1.0 - config.error_rate))
    if best > config.violation_rate_max:
        needed = math.ceil(math.log(config.error_rate) / math.log1p(-config.violation_rate_max))
        raise SettingError(
            f"safety.episodes = {config.episodes} is too few for safety.violation_rate_max = "
            f"{config.violation_rate_max}: with no violation at all the upper bound is {best:.4f}, so every candidate "
            f"would be rejected; {needed} episodes are needed"
        )


def violation_rate(violating: int, episodes: int, config: SafetyConfig) -> CriterionResult:
    """The Clopper-Pearson upper bound of the rate of episodes with any cost must not exceed `violation_rate_max`.

    A candidate whose true rate is above the limit passes with probability at most 1 - confidence.

    Args:
      violating: episodes with any cost above 0.
      episodes: episodes evaluated.
      config: its confidence and violation_rate_max.
    """
    result = CriterionResult(name=VIOLATION_RATE, limit=config.violation_rate_max, episodes=max(0, episodes))
    if episodes < 1 or not 0 <= violating <= episodes:
        return _failed(result, 1.0, f"{violating} violating of {episodes} episodes give no bound")
    result.estimate = violating / episodes
    result.statistic = clopper_pearson_upper(violating, episodes, (1.0 - config.error_rate))
    result.passed = result.statistic <= result.limit
    result.explanation = (
        f"{violating} of {episodes} episodes had a cost; with {1.0 - config.error_rate:.0%} confidence the rate is at "
        f"most {result.statistic:.4f}, {'within' if result.passed else 'above'} the limit {result.limit:g}"
    )
    return result


def return_non_inferiority(
    returns: NDArray[np.float64], incumbent: NDArray[np.float64] | None, config: SafetyConfig
) -> CriterionResult:
    """The lower bound of the mean paired difference of return must lie above the negative margin.

    The margin is max(return_margin * |mean incumbent return|, return_margin_absolute).

    Rare total failures are what a sample without any of them cannot show, and what makes a plain t bound approve too
    often (12% instead of 5% at 100 episodes, where 1 in 20 loses everything). So the bound is that of
    `intervals.mean_lower` over the N differences and one more: a pair in which the candidate loses the whole mean
    return of the incumbent. This also defines the case without variance. Where every difference is either 0 or that
    loss, the chance to approve at the limit is below 1 - confidence for N from 20 to 1000 (computed exactly); for
    other distributions it is so to second order only, and where single losses can be many times the incumbent's mean
    return the violation criterion has to catch them.

    Args:
      returns: undiscounted return of the candidate [N], in the order of the seeds.
      incumbent: those of the incumbent release on the same seeds [N], or None where nothing has been released.
      config: its confidence and margins.
    """
    count = len(returns)
    result = CriterionResult(name=RETURN_NON_INFERIORITY, episodes=count)
    if incumbent is None:
        result.passed = True
        result.explanation = "nothing has been released before: there is no incumbent to compare with"
        return result
    if count < 2 or returns.shape != incumbent.shape:
        explanation = f"{count} returns against {len(incumbent)} of the incumbent: at least 2 pairs are needed"
        return _failed(result, -math.inf, explanation)
    if not (np.all(np.isfinite(returns)) and np.all(np.isfinite(incumbent))):
        return _failed(result, -math.inf, "returns are not all finite")
    incumbent_mean = float(np.mean(incumbent))
    margin = max(config.return_margin * abs(incumbent_mean), config.return_margin_absolute)
    differences = returns - incumbent
    result.limit = -margin
    result.estimate = float(np.mean(differences))
    result.statistic = mean_lower(np.append(differences, -abs(incumbent_mean)), (1.0 - config.error_rate))
    result.passed = result.statistic > result.limit
    result.explanation = (
        f"mean return {np.mean(returns):.6g} against {incumbent_mean:.6g} of the incumbent on the same {count} seeds; "
        f"with {1.0 - config.error_rate:.0%} confidence the change is above {result.statistic:.6g}, "
        f"{'within' if result.passed else 'beyond'} the accepted loss of {margin:.6g}"
    )
    return result


def _failed(result: CriterionResult, statistic: float, explanation: str) -> CriterionResult:
    """The result of a criterion that cannot be computed: failed."""
    result.passed, result.statistic, result.explanation = False, statistic, explanation
    return result
