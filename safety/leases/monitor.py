"""Watches the violations of the episodes that snapshots act in, as replay counts them, and says when a lease must end.

An epoch of leases answers for every episode that has ended, but for those that are tagged as a release's or an earlier
epoch's (actors.episodes). Whoever does not tag his episodes, such as an actor of a served policy, so excuses none. The
counts go to a sequential test that never has to be reset (safety.statistics.breach); an epoch that breaches the limit
is over. `lease_error_rate` is the chance that this ever happens without cause: epoch E has its share 6 / (pi E)^2.

A restart forgives nothing. The test's state is kept on disk now and then, with the counts that it has seen; what came
since is judged as one portion. Where the file is missing, damaged or of another limit, all that the epoch answers for
is one portion: its evidence is then that of a test begun once, with the greatest weight there is. So it is, too, on top
of the evidence there was, where replay lost its totals or is another one: what it now has, it may never have told.

No news is bad news: what has not been read since the start, or cannot be read for too long, counts as a risk.

Exceptions: CountsUnreadable for totals that cannot be what replay counted.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from safety.config import SafetyConfig
from safety.leases.monitor_file import MonitorState, read_state, write_state
from safety.leases.training_totals import CountsUnreadable, TrainingCounts, TrainingTotals
from safety.statistics.breach import BreachRule, advance, is_breached, log_evidence, start
from safety.statistics.e_values import e_value_text
from safety.statistics.lifetime import spent_level

FIRST_LOOK_S = 0.1
"""Time between two looks while nothing has been read: until then there are no leases."""

SAVE_S = 10.0
"""Least time between two writings of the state, but for those that must not be lost."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why there is no lease for now: `code` is "unknown" or "stale", `reason` one sentence for a person."""

    code: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Breach:
    """Why an epoch of leases is over.

    Attributes:
      epoch: which.
      episodes, violating: those it answered for, as of the alarm.
      evidence: log e of the test.
      limit: of the rate of violating episodes.
      level: chance of such an alarm in this epoch at or below the limit.
    """

    epoch: int
    episodes: int
    violating: int
    evidence: float
    limit: float
    level: float

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        return (
            f"{self.violating:,} of {self.episodes:,} training episodes of snapshots had a cost, at most "
            f"{self.limit:g} of them may: e-value {e_value_text(self.evidence)}, {1.0 / self.level:.4g} is enough"
        )


class RiskMonitor:
    """Holds the counts and judges them; for any number of threads.

    Args:
      read_totals: the newest totals; raises CountsUnreadable.
      config: limit, error rate and how old the counts may be.
      epoch: of the leases, from 1.
      path: file that keeps the state across restarts.
      clock: monotonic time (s).
    """

    def __init__(
        self,
        read_totals: Callable[[], TrainingTotals],
        config: SafetyConfig,
        epoch: int,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_totals, self._config, self._path, self._clock = read_totals, config, path, clock
        self._lock = threading.Lock()
        self._disk = threading.Lock()
        self._epoch = epoch
        self._state = MonitorState(TrainingCounts(0, 0), start())
        if (rule := self._rule) is not None:
            self._state = read_state(path, epoch, rule) or self._state
        self._saved: tuple[int, MonitorState] = (epoch, self._state)
        self._saved_at = clock()
        self._totals: TrainingTotals | None = None
        self._read_at: float | None = None
        self._trouble = "nothing has been read since the start"

    def look(self) -> None:
        """Reads the totals once; what cannot be read leaves the old ones to age."""
        try:
            totals = self._read_totals()
            with self._lock:
                self._state = self._with(totals)
                self._totals, self._read_at = totals, self._clock()
        except CountsUnreadable as error:
            with self._lock:
                self._trouble = str(error)
            return
        if self.breach() is not None or self._clock() - self._saved_at >= SAVE_S:
            self.save()

    def refusal(self) -> Refusal | None:
        """Why nothing can be said about snapshots now; None where something can."""
        with self._lock:
            read_at, trouble = self._read_at, self._trouble
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
        return None

    def breach(self) -> Breach | None:
        """Why the epoch is over; None while it is not."""
        with self._lock:
            epoch, watch, rule = self._epoch, self._state.watch, self._rule
        if rule is None or not is_breached(rule, watch):
            return None
        return Breach(epoch, watch.episodes, watch.violating, log_evidence(watch), rule.limit, rule.level)

    def end(self, epoch: int) -> None:
        """The breach of this epoch is on record. The next one answers for nothing until it begins."""
        with self._lock:
            self._epoch, self._state = epoch + 1, MonitorState(None, start())
        self.save()

    def begin(self, epoch: int) -> None:
        """Leases of this epoch are granted from now on. Does nothing where they were already, or nothing is known.

        Raises:
          CountsUnreadable: the newest totals cannot be what such an epoch begins with.
        """
        with self._lock:
            if self._state.seen is not None or self._epoch != epoch or self._totals is None:
                return
            self._state = MonitorState(self._totals.held_against(epoch), start())
        self.save()

    def save(self) -> None:
        """Writes the state where it has changed. A disk that fails costs no lease: the next start judges all anew."""
        with self._disk:
            with self._lock:
                current, rule = (self._epoch, self._state), self._rule
            self._saved_at = self._clock()
            if rule is None or current == self._saved:
                return
            try:
                write_state(self._path, *current, rule)
                self._saved = current
            except OSError as error:
                _log.warning("%s cannot be written: %s", self._path, error.strerror)

    def run(self, stop: threading.Event) -> None:
        """Looks at once, often until something has been read, and then every `monitor_poll_s`, until `stop` is set."""
        pause_s = 0.0
        while not stop.wait(pause_s):
            self.look()
            pause_s = self._config.monitor_poll_s
            if self._read_at is None:
                pause_s = min(pause_s, FIRST_LOOK_S)
        self.save()

    @property
    def _rule(self) -> BreachRule | None:
        limit = self._config.lease_violation_rate_max
        return BreachRule(limit, spent_level(self._config.lease_error_rate, self._epoch)) if limit < 1.0 else None

    def _with(self, totals: TrainingTotals) -> MonitorState:
        """The state after these totals. Raises CountsUnreadable."""
        counts, seen, rule = totals.held_against(self._epoch), self._state.seen, self._rule
        if seen is None or rule is None:
            return self._state
        episodes, violating = counts.episodes - seen.episodes, counts.violating - seen.violating
        if episodes < 0 or violating < 0:
            episodes, violating = counts
        if violating > episodes:
            raise CountsUnreadable(f"{violating} of {episodes} new episodes are counted as violating")
        return MonitorState(counts, advance(rule, self._state.watch, episodes, violating))
