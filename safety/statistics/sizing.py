"""How many episodes a test needs, and how often it passes: exact, for violations that come independently at one rate.

For whoever sets up a gate, and for benchmarks; nothing here decides about a candidate.

Exceptions: ParameterError (safety.statistics.parameters), also where more than EPISODES_MAX would be needed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from safety.statistics.betting import LOG_WEIGHTS_AGAINST, LOG_WEIGHTS_FOR, log_evidence, log_factors
from safety.statistics.incomplete_beta import incomplete_beta
from safety.statistics.intervals import clopper_pearson_upper
from safety.statistics.parameters import ParameterError, check_alpha, check_between, check_count, check_share
from safety.statistics.sequential import SequentialRule

EPISODES_MAX = 1_000_000


def episodes_without_event(limit: float, alpha: float) -> int:
    """The fewest episodes with which a candidate without any event passes the fixed-size test of a rate.

    299 for a limit of 0.01 at alpha = 0.05.

    Raises:
      ParameterError: limit outside (0, 1), or alpha outside [ALPHA_MIN, 0.5].
    """
    check_share("limit", limit)
    check_alpha(alpha)
    episodes = max(1, math.ceil(math.log(alpha) / math.log1p(-limit)) - 1)
    while clopper_pearson_upper(0, episodes, 1.0 - alpha) > limit:
        episodes += 1
    return episodes


def events_allowed(episodes: int, limit: float, alpha: float) -> int:
    """The most events with which the fixed-size test passes; -1 where none does.

    Raises:
      ParameterError: limit outside (0, 1), or alpha outside [ALPHA_MIN, 0.5], or no episodes.
    """
    check_share("limit", limit)
    check_alpha(alpha)
    check_count("episodes", episodes, 1)
    # The bound rises with the events, and keeps to the limit up to a number that is below that expected at it.
    low, high = -1, math.floor(limit * episodes) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson_upper(middle, episodes, 1.0 - alpha) <= limit:
            low = middle
        else:
            high = middle
    return low


def approval_probability(rate: float, episodes: int, limit: float, alpha: float) -> float:
    """How often the fixed-size test passes a candidate with that rate of violations, in [0, 1].

    Raises:
      ParameterError: see `events_allowed`; a rate outside [0, 1].
    """
    check_between("rate", rate, math.nextafter(0.0, -1.0), math.nextafter(1.0, 2.0))
    allowed = events_allowed(episodes, limit, alpha)
    if allowed < 0:
        return 0.0
    return incomplete_beta(1.0 - rate, episodes - allowed, allowed + 1)


def episodes_for_power(limit: float, rate: float, alpha: float, power: float) -> int:
    """The size of the fixed-size test that passes candidates with that rate with at least that probability.

    Among the sizes that allow 0, 1, 2, ... events, each the smallest that does, the first with enough power.

    Args:
      limit: of the rate.
      rate: of a candidate that should pass; below the limit.
      alpha, power: probabilities in (0, 1).

    Raises:
      ParameterError: out of those bounds, or more than EPISODES_MAX would be needed.
    """
    check_share("limit", limit)
    check_alpha(alpha)
    check_share("power", power)
    check_between("rate", rate, math.nextafter(0.0, -1.0), limit)
    episodes = episodes_without_event(limit, alpha)
    while approval_probability(rate, episodes, limit, alpha) < power:
        wanted, step = events_allowed(episodes, limit, alpha) + 1, 1
        low = episodes
        while events_allowed(low + step, limit, alpha) < wanted:
            low, step = low + step, 2 * step
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            if events_allowed(middle, limit, alpha) < wanted:
                low = middle
            else:
                high = middle
        episodes = high
        if episodes > EPISODES_MAX:
            raise ParameterError(
                f"rate = {rate:g} is too near to limit = {limit:g}: more than {EPISODES_MAX} episodes are needed"
            )
    return episodes


def wald_episodes(rate: float, limit: float, acceptable: float, alpha: float, power: float) -> float:
    """How many episodes Wald's sequential probability ratio test takes on average, at a true rate.

    It promotes with probability `alpha` at `limit` and with probability `power` at `acceptable`, and no test that does
    as well needs fewer episodes on average at either of these two rates (Wald and Wolfowitz, "Optimum character of the
    sequential probability ratio test", Annals of Mathematical Statistics 1948); elsewhere others may. By Wald's
    approximation, which leaves out by how much the last episode oversteps a boundary.

    Args:
      rate: the true rate, in [0, 1].
      limit, acceptable: the two hypotheses, 0 < acceptable < limit < 1.
      alpha, power: probabilities of promotion, 0 < alpha < power < 1.

    Raises:
      ParameterError: out of those bounds.
    """
    check_between("rate", rate, math.nextafter(0.0, -1.0), math.nextafter(1.0, 2.0))
    check_share("limit", limit)
    check_between("acceptable", acceptable, 0.0, limit)
    check_share("power", power)
    check_between("alpha", alpha, 0.0, power)
    clean, event = math.log1p(-acceptable) - math.log1p(-limit), math.log(acceptable / limit)
    promotes, rejects = math.log(power / alpha), math.log((1.0 - power) / (1.0 - alpha))
    drift = rate * event + (1.0 - rate) * clean
    root = _second_root(rate, event, clean, drift)
    if abs(root) < 1e-6:
        return -promotes * rejects / (rate * event**2 + (1.0 - rate) * clean**2)
    if math.isinf(root):
        return (promotes if drift > 0.0 else rejects) / drift
    # E exp(root * evidence) stays 1 up to the end, which gives the probability of either end.
    promoted = math.expm1(root * rejects) / (math.exp(root * rejects) - math.exp(root * promotes))
    return (promoted * promotes + (1.0 - promoted) * rejects) / drift


def _second_root(rate: float, event: float, clean: float, drift: float) -> float:
    """The h other than 0 with rate exp(h event) + (1 - rate) exp(h clean) = 1; infinite at rates of 0 and 1."""
    if rate in {0.0, 1.0}:
        return -math.copysign(math.inf, drift)

    def excess(h: float) -> float:
        return rate * math.expm1(h * event) + (1.0 - rate) * math.expm1(h * clean)

    # Convex, 0 at 0 and falling there on the side of the other root.
    high = -math.copysign(1e-6, drift)
    while excess(high) < 0.0:
        high *= 2.0
    low = 0.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0.0 else (low, middle)
    return high


@dataclasses.dataclass(frozen=True)
class SequentialProfile:
    """How a sequential test of a rate comes out at one true rate, exactly.

    Attributes:
      promoted: probability of promotion.
      rejected: probability of rejection by evidence.
      given_up: probability of rejection because promotion was out of reach or the episodes were spent.
      episodes_mean: episodes used, on average.
    """

    promoted: float
    rejected: float
    given_up: float
    episodes_mean: float


def sequential_profile(rule: SequentialRule, rate: float) -> SequentialProfile:
    """How the sequential test of a rate comes out where episodes violate independently at `rate`.

    For losses of 0 and 1 the evidence depends on the number of violations only, so the distribution of that number is
    followed from episode to episode. Numbers that have become less likely than 1e-18 are left out.

    Raises:
      ParameterError: a rule for other losses than 0 and 1; a rate outside [0, 1].
    """
    if (rule.low, rule.high) != (0.0, 1.0):
        raise ParameterError(f"losses in [{rule.low:g}, {rule.high:g}] are not those of a rate, 0 and 1")
    check_between("rate", rate, math.nextafter(0.0, -1.0), math.nextafter(1.0, 2.0))
    ends = np.array([0.0, 1.0])
    clean_for, event_for = log_factors(ends, rule.limit)
    clean_against, event_against = log_factors(1.0 - ends, 1.0 - rule.acceptable)
    weights = np.ones(1)
    promoted = rejected = given_up = episodes_mean = 0.0
    for episodes in range(1, rule.episodes_max + 1):
        episodes_mean += float(np.sum(weights))
        weights = np.append(weights * (1.0 - rate), 0.0) + np.append(0.0, weights * rate)
        events = np.flatnonzero(weights > 1e-18)
        if len(events) == 0:
            break
        bad, good = events[:, np.newaxis], episodes - events[:, np.newaxis]
        wealth_for = good * clean_for + bad * event_for
        left = rule.episodes_max - episodes
        wealth_against, best = good * clean_against + bad * event_against, wealth_for + left * clean_for
        rejects = log_evidence(wealth_against, LOG_WEIGHTS_AGAINST) >= -math.log(rule.beta)
        promotes = ~rejects & (log_evidence(wealth_for, LOG_WEIGHTS_FOR) >= -math.log(rule.alpha))
        hopeless = log_evidence(best, LOG_WEIGHTS_FOR) < -math.log(rule.alpha) - 1e-9
        gives_up = ~rejects & ~promotes & hopeless
        gives_up |= ~rejects & ~promotes & (left == 0)
        for mask in (rejects, promotes, gives_up):
            found = float(np.sum(weights[events[mask]]))
            rejected += found if mask is rejects else 0.0
            promoted += found if mask is promotes else 0.0
            given_up += found if mask is gives_up else 0.0
        weights[events[rejects | promotes | gives_up]] = 0.0
    return SequentialProfile(promoted, rejected, given_up, episodes_mean)
