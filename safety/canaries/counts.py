"""How many episodes a canary has acted in, and how many of them had a cost: of what all leases rest on, its share.

Exceptions: CountsUnreadable (safety.leases.training_totals).
"""

from __future__ import annotations

from replay.client_sharded import ReplayLog
from safety.leases.training_counts import replay_totals
from safety.leases.training_totals import TrainingCounts


def canary_counts(client: ReplayLog, release_number: int) -> TrainingCounts:
    """The totals of a release, as replay holds them.

    Raises:
      CountsUnreadable: replay does not answer, or its totals make no sense, or may lack violations.
    """
    return replay_totals(client).release(release_number)
