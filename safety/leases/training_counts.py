"""Reads from replay how many training episodes there were, and how many of them had a cost. Judges nothing.

Actors put signals on their records: `episodes` and `violating_episodes`, and the same two by the tag of the policy that
acted, such as `release.N.episodes`, the latter where there are any. Each counts in whole episodes that have ended.

Exceptions: CountsUnreadable (safety.leases.training_totals).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from replay.client import ReplayError
from replay.client_sharded import ReplayLog
from replay.commit_plan import FAMILY_NAMES_MAX
from safety.leases.training_totals import LEASE_TAG, RELEASE_TAG, CountsUnreadable, TrainingCounts, TrainingTotals

STATS_S_MAX = 2.0
"""Time that replay has to answer."""

_EPISODES, _VIOLATING = "episodes", "violating_episodes"
_TAGGED = re.compile(rf"({LEASE_TAG}|{RELEASE_TAG})\.([1-9][0-9]{{0,18}})\.{_EPISODES}")


def replay_totals(client: ReplayLog) -> TrainingTotals:
    """The totals that a replay service holds.

    Raises:
      CountsUnreadable: it does not answer, or does not total what is needed.
    """
    try:
        stats = client.stats(STATS_S_MAX)
    except ReplayError as error:
        raise CountsUnreadable(f"replay does not tell: {error}") from error
    if not stats.appended_records:
        return TrainingTotals(TrainingCounts(0, 0), {})
    totals = stats.signal_totals
    if _EPISODES not in totals or _VIOLATING not in totals:
        raise CountsUnreadable(f"replay does not total the signals {_EPISODES!r} and {_VIOLATING!r}")
    tagged = {}
    for name in totals:
        if match := _TAGGED.fullmatch(name):
            tag = name.removesuffix(f".{_EPISODES}")
            # No violating episode, no signal of that name.
            tagged[match[1], int(match[2])] = _counts(totals, name, f"{tag}.{_VIOLATING}")
    # Replay totals no further names from there on, so that one that is missing need not be 0.
    complete = len(totals) < FAMILY_NAMES_MAX
    return TrainingTotals(_counts(totals, _EPISODES, _VIOLATING), tagged, complete)


def _counts(totals: Mapping[str, float], episodes: str, violating: str) -> TrainingCounts:
    values = totals[episodes], totals.get(violating, 0.0)
    if not all(math.isfinite(value) for value in values):
        raise CountsUnreadable(f"replay does not total the signals {episodes!r} and {violating!r}")
    counts = TrainingCounts(*(round(value) for value in values))
    if not 0 <= counts.violating <= counts.episodes:
        raise CountsUnreadable(f"replay counts {counts.violating} {violating} among {counts.episodes} {episodes}")
    return counts
