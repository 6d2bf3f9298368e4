"""Reads from replay how many training episodes there were, and how many of them had a cost. Judges nothing."""

from __future__ import annotations

import math

from replay.client import ReplayError
from replay.client_sharded import ReplayLog
from safety.monitor import CountsUnreadable, TrainingCounts

STATS_S_MAX = 2.0
"""Time that replay has to answer."""


def replay_counts(client: ReplayLog) -> TrainingCounts:
    """The totals that a replay service holds.

    Raises:
      CountsUnreadable: it does not answer, or does not total what is needed.
    """
    try:
        stats = client.stats(STATS_S_MAX)
    except ReplayError as error:
        raise CountsUnreadable(f"replay does not tell: {error}") from error
    if not stats.appended_records:
        return TrainingCounts(0, 0)
    totals = [stats.signal_totals.get(name, math.nan) for name in ("episodes", "violating_episodes")]
    if not all(math.isfinite(total) for total in totals):
        raise CountsUnreadable("replay does not total the signals 'episodes' and 'violating_episodes'")
    return TrainingCounts(*(round(total) for total in totals))
