"""Follows RUN_DIR/safety/ledger.jsonl while the gate writes it, for what is shown: outcomes, breaches, promotions.

Each entry is read once. For showing only: neither chain nor signatures are looked at, and nothing may be decided on the
strength of it; `temper safety audit` does both.

Exceptions: none; a ledger that cannot be read tells nothing, and an entry that is not what it should be is passed over.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from launch.metrics_tail import MetricsTail
from launch.verdicts import BreachedEpoch, Counts, Promoted
from safety.history import PROMOTION, VERDICT
from safety.leases.authority import BREACH


class GateRecord(NamedTuple):
    """What the gate has decided in the whole run.

    Attributes:
      counts: candidates by outcome; None before the ledger could be read.
      breaches: the epochs of leases that are over, oldest first.
      promoted: the canaries that may act everywhere since, oldest first.
    """

    counts: Counts | None = None
    breaches: tuple[BreachedEpoch, ...] = ()
    promoted: tuple[Promoted, ...] = ()


class LedgerTail:
    """Reads what was appended since the last read. For one thread.

    Args:
      path: the ledger; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._tail = MetricsTail(path)
        self._begun = False
        self._outcomes: Counter[str] = Counter()
        self._breaches: tuple[BreachedEpoch, ...] = ()
        self._promoted: tuple[Promoted, ...] = ()

    def read(self) -> GateRecord:
        """All that is known by now."""
        # It is for its owner alone, who may be another user.
        with contextlib.suppress(OSError):
            while entries := self._tail.read():
                for entry in entries:
                    with contextlib.suppress(KeyError, TypeError, ValueError):
                        self._take(entry)
        counts = Counts.of(self._outcomes) if self._begun else None
        return GateRecord(counts, self._breaches, self._promoted)

    def _take(self, entry: Mapping[str, Any]) -> None:
        self._begun = True
        if entry["kind"] == VERDICT:
            self._outcomes[str(entry["outcome"])] += 1
        elif entry["kind"] == BREACH:
            self._breaches += (_breach_in(entry),)
        elif entry["kind"] == PROMOTION:
            promoted = Promoted(int(entry["release_number"]), str(entry["why"]), int(entry["time_ns"]))
            self._promoted += (promoted,)


def _breach_in(entry: Mapping[str, Any]) -> BreachedEpoch:
    return BreachedEpoch(
        epoch=int(entry["epoch"]),
        episodes=int(entry["episodes"]),
        violating=int(entry["violating"]),
        log_evidence=float(entry["evidence"]),
        limit=float(entry["limit"]),
        level=float(entry["level"]),
        release_number=int(entry["release_number"]),
        reason=str(entry["reason"]),
        time_ns=int(entry["time_ns"]),
    )
