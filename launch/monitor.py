"""Gathers what there is to see of a running run: the learner's figures, the replay's counters, the gate's decisions.

Verdicts and revocations are asked of the gate; how many candidates there were, and what became of leases and canaries,
is read in its ledger, which lies in the run directory.

A thread asks the services about once a second, with short deadlines, so that neither the supervisor nor the screen
ever waits for a service that is down; what cannot be asked keeps its last value. Shows nothing itself: see launch.view.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from launch.ledger_tail import LedgerTail
from launch.metrics_tail import Metrics, MetricsTail
from launch.verdicts import BreachedEpoch, Counts, Promoted, Revoked, Verdict
from protos.replay.v1 import replay_pb2

POLL_S = 1.0
CALL_S_MAX = 1.0
"""Deadline of one question to a service (s)."""

VERDICTS_SHOWN_MAX = 50
"""Newest verdicts asked for at a time, and kept."""


class ReplaySource(Protocol):
    """Whom to ask about the replay."""

    def stats(self) -> replay_pb2.StatsResponse | None:
        """The counters now, or None when the service cannot be asked."""

    @property
    def down(self) -> Sequence[str]:
        """Names of the shards that did not answer the last question; () where replay is one service."""


class VerdictSource(Protocol):
    """Whom to ask about the gate."""

    def verdicts(self) -> Iterable[Verdict] | None:
        """The newest verdicts, newest first, or None when the service cannot be asked."""

    def revoked(self) -> Sequence[Revoked] | None:
        """The revoked releases of the whole run, oldest first, or None when the service cannot be asked."""


@dataclass(frozen=True)
class RunSnapshot:
    """All that is known of a run at one moment.

    Attributes:
      elapsed_s: since the supervisor started (s).
      metrics: the learner's newest line, {} before the first.
      replay: the replay's newest counters, None before the first.
      replay_down: names of its shards that did not answer; the counters have what they last said.
      verdicts: the newest of this start of the run, oldest first.
      counts: candidates judged in the whole run, None before it is known.
      revoked: its revoked releases, oldest first; () before it is known.
      breaches: the epochs of leases that were breached in this start of the run, oldest first.
      promoted: the canaries that were promoted in it, oldest first.
    """

    elapsed_s: float = 0.0
    metrics: Metrics = field(default_factory=dict)
    replay: replay_pb2.StatsResponse | None = None
    replay_down: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    counts: Counts | None = None
    revoked: Sequence[Revoked] = ()
    breaches: Sequence[BreachedEpoch] = ()
    promoted: Sequence[Promoted] = ()


class RunMonitor:
    """Keeps a RunSnapshot fresh from a daemon thread. Use as: start, any number of `snapshot`, stop."""

    def __init__(
        self, metrics: MetricsTail, replay: ReplaySource, gate: VerdictSource, ledger: LedgerTail, *, since_ns: int
    ) -> None:
        """Takes its sources.

        Args:
          metrics: the learner's figures.
          replay: the replay service.
          gate: the safety service.
          ledger: what it has written down.
          since_ns: verdicts issued before this (ns since the epoch) are of an earlier start of the run.
        """
        self._metrics, self._replay, self._gate, self._ledger = metrics, replay, gate, ledger
        self._since_ns = since_ns
        self._seen_ns = since_ns - 1
        self._started_at = time.monotonic()
        self._snapshot = RunSnapshot()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="run-monitor", daemon=True)

    @property
    def snapshot(self) -> RunSnapshot:
        """The newest state, never blocking."""
        return replace(self._snapshot, elapsed_s=time.monotonic() - self._started_at)

    def start(self) -> None:
        """Starts watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stops watching; the last snapshot stays, until `look` is called."""
        self._stopping.set()
        self._thread.join(timeout=4 * CALL_S_MAX)

    def look(self) -> RunSnapshot:
        """Asks every source once, in the calling thread, and returns the result. Not while it is watching."""
        lines = self._metrics.read()
        replay = self._replay.stats()
        # One gate issues them one after the other, so those after the newest one seen are the new ones.
        new = [verdict for verdict in self._gate.verdicts() or () if verdict.issue_time_ns > self._seen_ns]
        new.sort(key=lambda verdict: verdict.issue_time_ns)
        self._seen_ns = new[-1].issue_time_ns if new else self._seen_ns
        revoked = self._gate.revoked()
        # After the learner's figures: a breach that they speak of is in the ledger by then.
        record = self._ledger.read()
        before = self._snapshot
        self._snapshot = RunSnapshot(
            metrics=lines[-1] if lines else before.metrics,
            replay=replay or before.replay,
            replay_down=tuple(self._replay.down),
            verdicts=(*before.verdicts, *new)[-VERDICTS_SHOWN_MAX:],
            counts=record.counts,
            revoked=before.revoked if revoked is None else revoked,
            breaches=[breach for breach in record.breaches if breach.time_ns >= self._since_ns],
            promoted=[promoted for promoted in record.promoted if promoted.time_ns >= self._since_ns],
        )
        return self.snapshot

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_S):
            self.look()
