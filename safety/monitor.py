"""Watches the violations of training episodes, as replay counts them, and says when snapshots must stop.

The rate is taken over a recent window of episodes, and snapshots must stop while its Clopper-Pearson lower bound lies
above the limit: then the true rate is above it, at the given confidence of one look. It looks again and again, so that
false alarms are more frequent than at one look; missed ones are not. No news is bad news: what has not been read since
the start, or cannot be read for too long, counts as a risk.

The window moves with episodes, not with time. Once the only policy that was acting has been stopped, a person has to
look; nothing is allowed again by waiting.

Exceptions: CountsUnreadable for totals that cannot be what replay counted.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from safety.config import SafetyConfig
from safety.intervals import clopper_pearson_lower

WINDOW_EPISODES = 500
"""Recent training episodes that the violation rate is taken over."""

FIRST_LOOK_S = 0.1
"""Time between two looks while nothing has been read: until then there are no leases."""


class CountsUnreadable(Exception):
    """The totals of training episodes and violations could not be had, or make no sense."""


class TrainingCounts(NamedTuple):
    """Episodes that have ended in training, and those of them that had any cost, since replay began."""

    episodes: int
    violating: int


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why there is no lease: `code` is "unknown", "stale" or "risk", `reason` one sentence for a person."""

    code: str
    reason: str


class RiskMonitor:
    """Holds the recent counts and judges them; for any number of threads.

    Args:
      read_counts: the newest totals; raises CountsUnreadable.
      config: window, limit, confidence and how old the counts may be.
      clock: monotonic time (s).
    """

    def __init__(
        self,
        read_counts: Callable[[], TrainingCounts],
        config: SafetyConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_counts = read_counts
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        # A service that starts anew first judges all that replay has ever counted: a restart forgives nothing.
        self._counts = collections.deque([TrainingCounts(0, 0)])
        self._read_at: float | None = None
        self._trouble = "nothing has been read since the start"

    def look(self) -> None:
        """Reads the totals once; what cannot be read leaves the old ones to age."""
        try:
            counts = self._read_counts()
            if not 0 <= counts.violating <= counts.episodes:
                raise CountsUnreadable(f"{counts.violating} of {counts.episodes} episodes are counted as violating")
        except CountsUnreadable as error:
            with self._lock:
                self._trouble = str(error)
            return
        with self._lock:
            self._read_at = self._clock()
            newest = self._counts[-1]
            if counts.episodes < newest.episodes or counts.violating < newest.violating:
                # Replay lost its totals, or is another one: what it now has is all that is known.
                self._counts = collections.deque([TrainingCounts(0, 0)])
            if counts.episodes > self._counts[-1].episodes:
                self._counts.append(counts)
            # The first one kept is the newest that still gives a full window: the deque never outgrows the window.
            while (
                len(self._counts) > 2
                and counts.episodes - self._counts[1].episodes >= WINDOW_EPISODES
            ):
                self._counts.popleft()

    def refusal(self) -> Refusal | None:
        """Why snapshots must stop now; None where they may be used."""
        with self._lock:
            read_at, first, last, trouble = self._read_at, self._counts[0], self._counts[-1], self._trouble
        if read_at is None:
            # Whatever stopped the leases before a restart may still be so.
            return Refusal("unknown", f"the training violations are not known yet: {trouble}")
        age_s = self._clock() - read_at
        if age_s > self._config.monitor_stale_s_max:
            return Refusal(
                "stale",
                f"the training violations have not been known for {age_s:.1f} s, the limit is "
                f"{self._config.monitor_stale_s_max:g} s: {trouble}",
            )
        episodes, violating = last.episodes - first.episodes, last.violating - first.violating
        if episodes == 0:
            return None
        bound, limit = (
            clopper_pearson_lower(violating, episodes, 1.0 - self._config.lease_error_rate),
            self._config.lease_violation_rate_max,
        )
        if bound <= limit:
            return None
        return Refusal(
            "risk",
            f"{violating} of the last {episodes} training episodes had a cost: with "
            f"{1.0 - self._config.lease_error_rate:.0%} confidence the rate is at least {bound:.4f}, above the limit {limit:g}",
        )

    def run(self, stop: threading.Event) -> None:
        """Looks at once, often until something has been read, and then every `monitor_poll_s`, until `stop` is set."""
        pause_s = 0.0
        while not stop.wait(pause_s):
            self.look()
            pause_s = self._config.monitor_poll_s
            if self._read_at is None:
                pause_s = min(pause_s, FIRST_LOOK_S)
