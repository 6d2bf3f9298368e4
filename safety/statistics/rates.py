"""The fixed-size test of a rate: its Clopper-Pearson upper bound against a maximum.

Guarantee: where the true rate lies above the limit, the test passes with probability at most alpha, whatever the rate
and however many episodes there are, because the bound is below the true rate with probability at most alpha. The
number of episodes must have been fixed before the first one; see `safety.statistics.sequential` for looking earlier.

Exceptions: ParameterError (safety.statistics.parameters).
"""

from __future__ import annotations

from safety.statistics.counts import Severity, SliceOutcomes
from safety.statistics.findings import Finding, Kind, cannot_tell, confidence_text, status_of
from safety.statistics.intervals import clopper_pearson_upper
from safety.statistics.parameters import check_alpha, check_count, check_share

VIOLATION_RATE = "violation_rate"


def violation_rate(
    outcomes: SliceOutcomes, severity: Severity, *, limit: float, alpha: float, episodes_min: int = 1
) -> Finding:
    """The rate of episodes with an event at least that severe must be shown to be at most `limit`.

    Args:
      outcomes: of the candidate on one slice.
      severity: the least that counts.
      limit: greatest rate, in (0, 1).
      alpha: greatest probability to pass above it.
      episodes_min: a shorter slice fails.

    Raises:
      ParameterError: limit outside (0, 1), or alpha outside [ALPHA_MIN, 0.5].
    """
    check_share("limit", limit)
    check_alpha(alpha)
    check_count("episodes_min", episodes_min, 1)
    episodes, name = outcomes.episodes, f"{VIOLATION_RATE}.{severity.name.lower()}"
    if episodes < episodes_min:
        why = f"{episodes} episodes in slice {outcomes.name}, at least {episodes_min} are needed"
        return cannot_tell(name, outcomes.name, Kind.SAFETY, limit=limit, statistic=1.0, episodes=episodes, why=why)
    events = outcomes.violating(severity)
    bound = clopper_pearson_upper(events, episodes, 1.0 - alpha)
    passed = bound <= limit
    return Finding(
        name,
        outcomes.name,
        Kind.SAFETY,
        status_of(passed),
        estimate=events / episodes,
        statistic=bound,
        limit=limit,
        episodes=episodes,
        explanation=(
            f"{events} of {episodes} episodes had an event at least {severity.name.lower()}; with "
            f"{confidence_text(alpha)} confidence the rate is at most {bound:.4g}, "
            f"{'within' if passed else 'above'} the limit {limit:g}"
        ),
        figures={"events": events, "alpha": alpha},
    )
