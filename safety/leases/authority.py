"""Leases: short-lived signed permissions to act with snapshots, granted while the risk monitor does not object.

A lease that is not renewed runs out by itself, so a service that dies withdraws every permission within `lease_s`.
When renewals stop, and when they go on again, the ledger says why.

Leases come in epochs, from 1. A breach of the limit on violations ends an epoch for good: it stands in the ledger, with
the release that the learner must go back to, and there is no lease until the learner says that it has. Then the next
epoch begins. A restart changes nothing about that. Knows no gRPC.

Exceptions: LeaseWithheld with the reason; EpochOver with the breach that must be answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from policies.signing import LEASE_TYPE
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.leases.monitor import Breach, Refusal
from safety.leases.training_totals import CountsUnreadable
from safety.ledger import LedgerEntry, LedgerError

WITHHELD = "lease_withheld"
RESUMED = "lease_resumed"
BREACH = "lease_breach"
"""Kinds of the ledger entries made when leases stop, when they are granted again, and when an epoch is over."""


class LeaseWithheld(Exception):
    """No lease now; the message says why."""


class EpochOver(Exception):
    """No lease until the learner has rolled back."""

    def __init__(self, breach: safety_pb2.LeaseBreach) -> None:
        super().__init__(breach.reason)
        self.breach = breach


class Monitor(Protocol):
    """What may object to a lease, or end an epoch."""

    def refusal(self) -> Refusal | None:
        """Why nothing can be said about snapshots now; None where something can."""

    def breach(self) -> Breach | None:
        """Why the epoch is over; None while it is not."""

    def end(self, epoch: int) -> None:
        """The breach of this epoch is on record."""

    def begin(self, epoch: int) -> None:
        """Leases of this epoch are granted from now on. Raises CountsUnreadable where it could not be watched."""


class LeaseAuthority:
    """Grants the leases of one run; for any number of threads.

    Args:
      docket: has the lease key, knows the releases, and takes the changes.
      config: how long a lease lasts.
      run_id: the training run.
      monitor: may object; None where nothing is watched.
      clock: present time in ns since the epoch.
    """

    def __init__(
        self,
        docket: Docket,
        config: SafetyConfig,
        run_id: str,
        *,
        monitor: Monitor | None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._docket, self._config = docket, config
        self._run_id, self._monitor, self._clock = run_id, monitor, clock
        self._lock = threading.Lock()
        self._withheld_code = ""
        entries = docket.ledger.entries()
        for entry in entries:
            if entry.kind in (WITHHELD, RESUMED):
                self._withheld_code = str(entry.fields.get("code", ""))
            elif entry.kind == BREACH:
                self._withheld_code = BREACH
        self._breach = newest_breach(entries)

    def renew(self, run_id: str, rolled_back_epoch: int = 0) -> common_pb2.SignedStatement:
        """A lease from now on for `lease_s`.

        Args:
          run_id: the training run.
          rolled_back_epoch: the newest epoch whose breach the learner has answered by rolling back; 0: none.

        Raises:
          EpochOver: the newest breach has not been answered.
          LeaseWithheld: the monitor does not know enough, `run_id` is another run's, or the learner says that it has
            answered a breach that there was not: whoever could do that beforehand need never roll back.
          LedgerError, CustodyError: it could not be noted.
        """
        if run_id != self._run_id:
            raise LeaseWithheld(f"run_id is {run_id!r}, this safety service serves run {self._run_id!r} only")
        with self._lock:
            self._note_breach()
            over = 0 if self._breach is None else self._breach.epoch
            if rolled_back_epoch > over:
                known = f"the newest on record ended epoch {over}" if over else "on record there are: none"
                raise LeaseWithheld(
                    f"the learner says to have answered the breach of epoch {rolled_back_epoch}, {known}; no lease"
                )
            if self._breach is not None and rolled_back_epoch < over:
                raise EpochOver(self._breach)
            refusal = self._begun(over + 1)
            self._note(refusal)
            if refusal is not None:
                raise LeaseWithheld(refusal.reason)
            return self._granted(over + 1)

    def _begun(self, epoch: int) -> Refusal | None:
        """None once the monitor watches an epoch; otherwise why it cannot."""
        if self._monitor is None:
            return None
        refusal = self._monitor.refusal()
        if refusal is None:
            try:
                self._monitor.begin(epoch)
            except CountsUnreadable as error:
                return Refusal("unknown", f"epoch {epoch} cannot begin: {error}")
        return refusal

    def _granted(self, epoch: int) -> common_pb2.SignedStatement:
        now = self._clock()
        lease = safety_pb2.LeaseStatement(
            run_id=self._run_id,
            lease_number=self._docket.custody.next_lease_number(),
            issue_time_ns=now,
            expiry_time_ns=now + round(self._config.lease_s * 1e9),
            epoch=epoch,
        )
        return self._docket.custody.sign(LEASE_TYPE, lease.SerializeToString(deterministic=True))

    def _note_breach(self) -> None:
        """Puts a breach of the present epoch into the ledger, once; from then on the epoch is over."""
        breach = None if self._monitor is None else self._monitor.breach()
        if breach is None or self._monitor is None:
            return
        if self._breach is None or self._breach.epoch < breach.epoch:
            number, digest = self._docket.last_release()
            fields = {
                "run_id": self._run_id,
                "epoch": breach.epoch,
                "reason": breach.reason,
                "episodes": breach.episodes,
                "violating": breach.violating,
                "evidence": breach.evidence,
                "limit": breach.limit,
                "level": breach.level,
                "release_number": number,
                "release_digest": digest.hex(),
            }
            self._docket.ledger.append(BREACH, lambda _: fields)
            self._breach, self._withheld_code = _breach_of(fields), BREACH
        self._monitor.end(breach.epoch)

    def _note(self, refusal: Refusal | None) -> None:
        """Puts a change into the ledger, once for as long as it lasts."""
        code = "" if refusal is None else refusal.code
        if code == self._withheld_code:
            return
        fields = {"run_id": self._run_id, "code": code, "reason": "" if refusal is None else refusal.reason}
        self._docket.ledger.append(RESUMED if refusal is None else WITHHELD, lambda _: fields)
        self._withheld_code = code


def newest_breach(entries: Iterable[LedgerEntry]) -> safety_pb2.LeaseBreach | None:
    """The breach that ended the newest epoch; None where there was none. Raises LedgerError."""
    breach = None
    for entry in entries:
        if entry.kind == BREACH:
            try:
                breach = _breach_of(entry.fields)
            except (ValueError, KeyError, TypeError) as error:
                raise LedgerError(f"ledger entry {entry.index} is no breach of a lease: {error!r}") from error
    return breach


def _breach_of(fields: Mapping[str, Any]) -> safety_pb2.LeaseBreach:
    return safety_pb2.LeaseBreach(
        epoch=fields["epoch"],
        reason=fields["reason"],
        release_number=fields["release_number"],
        release_digest=bytes.fromhex(fields["release_digest"]),
    )
