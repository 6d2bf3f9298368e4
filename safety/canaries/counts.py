"""Reads from replay how many episodes a release has acted in, and how many of them had a cost. Judges nothing.

Actors put two signals on their records, by the tag of the policy that acted: `release.N.episodes`, and
`release.N.violating_episodes` where there are any. Each counts in whole episodes that have ended.
"""

from __future__ import annotations

import math

from replay.client import ReplayError
from replay.client_sharded import ReplayLog
from replay.commit_plan import FAMILY_NAMES_MAX
from safety.leases.training_counts import STATS_S_MAX
from safety.leases.training_totals import RELEASE_TAG, CountsUnreadable, TrainingCounts


def canary_counts(client: ReplayLog, release_number: int) -> TrainingCounts:
    """The totals of a release; a name that replay does not total yet has never been on a record.

    Raises:
      CountsUnreadable: replay does not answer, or its totals make no sense, or may lack violations.
    """
    try:
        totals = client.stats(STATS_S_MAX).signal_totals
    except ReplayError as error:
        raise CountsUnreadable(f"replay does not tell: {error}") from error
    # Replay totals no further names then, so that one that is missing need not be 0.
    if len(totals) >= FAMILY_NAMES_MAX:
        raise CountsUnreadable(
            f"replay totals {len(totals)} signals, from {FAMILY_NAMES_MAX} on it may leave out further ones: "
            "violations could be among them"
        )
    tag = f"{RELEASE_TAG}.{release_number}"
    episodes, violating = (totals.get(f"{tag}.{name}", 0.0) for name in ("episodes", "violating_episodes"))
    if not (math.isfinite(episodes) and math.isfinite(violating) and 0 <= violating <= episodes):
        raise CountsUnreadable(f"replay counts {violating} of {episodes} episodes of {tag} as violating")
    return TrainingCounts(round(episodes), round(violating))
