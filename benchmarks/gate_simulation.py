"""Simulated candidates whose true rate of violations is known, judged by the gate's own tests. Prints nothing.

A candidate is its rate; its episodes violate independently. Every figure follows from the generator's seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from safety.statistics.counts import Discordance
from safety.statistics.intervals import clopper_pearson_lower, clopper_pearson_upper
from safety.statistics.lifetime import recycled_level, spent_level
from safety.statistics.paired import risk_difference_upper
from safety.statistics.sequential import Decision, Losses, SequentialRule, advance, start
from safety.statistics.sequential_rules import rate_rule, risk_difference_rule
from safety.statistics.sizing import episodes_for_power, events_allowed, sequential_profile, wald_episodes

RATIOS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.1, 1.5, 2.0)
"""True rates, as shares of the limit."""

PORTION = 64
"""Episodes that are run side by side: a sequential test can end after each of them, and looks at all."""

FIXED, SEQUENTIAL = "fixed-size", "sequential"


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
      limit: of the rate of violations.
      margin: of the paired difference of rates.
      alpha: error rate of a verdict, and of a lifetime.
      power: that the fixed-size test is sized for, and the sequential one keeps to, at half the limit.
      budget: the sequential test's budget, as a multiple of that size.
      candidates: for each rate.
      lifetimes: of each kind, with the fixed-size test; a tenth of them with the sequential one.
      lifetime_candidates: candidates in a lifetime.
    """

    limit: float = 0.1
    margin: float = 0.1
    alpha: float = 0.05
    power: float = 0.9
    budget: float = 2.5
    candidates: int = 2000
    lifetimes: int = 1000
    lifetime_candidates: int = 200

    @functools.cached_property
    def size(self) -> int:
        """Episodes of the fixed-size test."""
        return episodes_for_power(self.limit, 0.5 * self.limit, self.alpha, self.power)

    @functools.cached_property
    def episodes_max(self) -> int:
        """Budget of the sequential test."""
        return round(self.budget * self.size)

    def rule(self, alpha: float) -> SequentialRule:
        """The sequential test at that level."""
        return rate_rule(self.limit, alpha=alpha, beta=1.0 - self.power, episodes_max=self.episodes_max)


@dataclass(frozen=True)
class Row:
    """How often something happened.

    Attributes:
      section, case, test: what was simulated.
      unsafe: whether it is an error when it happens.
      trials, happened: how often it could have happened, and did.
      episodes_mean: used by a candidate; None where that is not of interest.
      episodes_wald: that Wald's test would use on average; None where it is not known.
    """

    section: str
    case: str
    test: str
    unsafe: bool
    trials: int
    happened: int
    episodes_mean: float | None
    episodes_wald: float | None = None

    @property
    def share(self) -> float:
        """How often, as a rate."""
        return self.happened / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """Its two-sided 95% interval, after Clopper and Pearson."""
        return (
            clopper_pearson_lower(self.happened, self.trials, 0.975),
            clopper_pearson_upper(self.happened, self.trials, 0.975),
        )


def rate_rows(plan: Plan, generator: np.random.Generator) -> Iterator[Row]:
    """Candidates at and around the limit, by both tests."""
    allowed, rule = events_allowed(plan.size, plan.limit, plan.alpha), plan.rule(plan.alpha)
    for ratio in RATIOS:
        case, unsafe, rate = f"{ratio:g} x limit", ratio >= 1.0, ratio * plan.limit
        fixed = int(np.sum(generator.binomial(plan.size, rate, plan.candidates) <= allowed))
        yield Row("approved", case, FIXED, unsafe, plan.candidates, fixed, plan.size)
        runs = [_run(rule, _violations(generator, rate)) for _ in range(plan.candidates)]
        wald = wald_episodes(rate, plan.limit, 0.5 * plan.limit, plan.alpha, plan.power)
        yield replace(_sequential_row("approved", case, unsafe, runs), episodes_wald=wald)


def paired_rows(plan: Plan, generator: np.random.Generator, incumbent_only: float = 0.05) -> Iterator[Row]:
    """Candidates that differ from the incumbent, which alone violates on a share of the seeds, by both tests."""
    rule = risk_difference_rule(plan.margin, alpha=plan.alpha, beta=1.0 - plan.power, episodes_max=plan.episodes_max)
    bound = functools.cache(risk_difference_upper)
    for ratio in (0.0, 0.5, 1.0, 1.5):
        case, unsafe = f"{ratio:g} x margin", ratio >= 1.0
        ours = incumbent_only + ratio * plan.margin
        shares = (ours, incumbent_only, 1.0 - ours - incumbent_only)
        counts = generator.multinomial(plan.size, shares, plan.candidates)
        fixed = sum(bound(Discordance(int(b), int(c), plan.size), plan.alpha) <= plan.margin for b, c, _ in counts)
        yield Row("approved, paired", case, FIXED, unsafe, plan.candidates, fixed, plan.size)
        runs = [_run(rule, _differences(generator, ours, incumbent_only, plan.margin)) for _ in range(plan.candidates)]
        yield _sequential_row("approved, paired", case, unsafe, runs)


def _violations(generator: np.random.Generator, rate: float) -> Callable[[int], Losses]:
    """Draws episodes that violate or do not."""
    return lambda count: generator.random(count) < rate


def _differences(generator: np.random.Generator, ours: float, theirs: float, margin: float) -> Callable[[int], Losses]:
    """Draws pairs in which only the candidate violates, only the incumbent, or neither; as `risk_losses` has them."""

    def draw(count: int) -> Losses:
        luck = generator.random(count)
        return np.where(luck < ours, 1.0, np.where(luck < ours + theirs, margin - 1.0, 0.0))

    return draw


def _run(rule: SequentialRule, draw: Callable[[int], Losses]) -> tuple[bool, int]:
    """Whether one candidate is promoted, and after how many episodes."""
    state = start()
    while state.decision is Decision.UNDECIDED:
        state = advance(rule, state, draw(PORTION))
    return state.decision is Decision.PROMOTED, state.episodes


def _sequential_row(section: str, case: str, unsafe: bool, runs: list[tuple[bool, int]]) -> Row:
    promoted, episodes = sum(run[0] for run in runs), sum(run[1] for run in runs)
    return Row(section, case, SEQUENTIAL, unsafe, len(runs), promoted, episodes / len(runs))


Level = Callable[[float, list[bool]], float]
"""From alpha and the approvals so far to the next candidate's level."""

SCHEMES: dict[str, Level] = {
    "alpha each": lambda alpha, _: alpha,
    "spent": lambda alpha, approvals: spent_level(alpha, len(approvals) + 1),
    "recycled": recycled_level,
}


def lifetime_rows(plan: Plan, generator: np.random.Generator) -> Iterator[Row]:
    """Lifetimes of candidates: in how many of them an unsafe one is ever approved."""
    allowed = functools.cache(functools.partial(events_allowed, plan.size, plan.limit))
    rule = functools.cache(plan.rule)

    def fixed(rate: float, level: float) -> bool:
        return bool(generator.binomial(plan.size, rate) <= allowed(level))

    def sequential(rate: float, level: float) -> bool:
        return _run(rule(level), _violations(generator, rate))[0]

    for learner, next_rate in (("always at the limit", _at_limit), ("that watches the gate", _watching)):
        for scheme, level in SCHEMES.items():
            for test, judge, lifetimes in (
                (FIXED, fixed, plan.lifetimes),
                (SEQUENTIAL, sequential, max(1, plan.lifetimes // 10)),
            ):
                wrong = sum(_goes_wrong(plan, next_rate, level, judge) for _ in range(lifetimes))
                case = f"{scheme}, learner {learner}"
                yield Row("lifetime with an error", case, test, scheme != "alpha each", lifetimes, wrong, None)


def _at_limit(plan: Plan, _: list[bool]) -> float:
    return plan.limit


def _watching(plan: Plan, approvals: list[bool]) -> float:
    """Safe candidates until three in a row are approved, and then one at the limit."""
    return plan.limit if len(approvals) >= 3 and all(approvals[-3:]) else 0.1 * plan.limit


def _goes_wrong(
    plan: Plan,
    next_rate: Callable[[Plan, list[bool]], float],
    level: Level,
    judge: Callable[[float, float], bool],
) -> bool:
    approvals: list[bool] = []
    while len(approvals) < plan.lifetime_candidates:
        rate = next_rate(plan, approvals)
        approvals.append(judge(rate, level(plan.alpha, approvals)))
        if approvals[-1] and rate >= plan.limit:
            return True
    return False


@dataclass(frozen=True)
class Price:
    """What candidate `number` of a lifetime needs, at a tenth of the limit; exactly.

    Attributes:
      number, level: of the candidate, where all before it were rejected.
      promoted: probability that the sequential test promotes it.
      episodes_mean: that it uses.
    """

    number: int
    level: float
    promoted: float
    episodes_mean: float


def prices(plan: Plan) -> list[Price]:
    """What the error budget costs later in life."""
    found = []
    for number in (1, 10, 50, plan.lifetime_candidates):
        level = spent_level(plan.alpha, number)
        profile = sequential_profile(plan.rule(level), 0.1 * plan.limit)
        found.append(Price(number, level, profile.promoted, profile.episodes_mean))
    return found
