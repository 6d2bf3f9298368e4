"""Leases: short-lived signed permissions to act with snapshots, granted while the risk monitor does not object.

A lease that is not renewed runs out by itself, so a service that dies withdraws every permission within `lease_s`.
When renewals stop, and when they go on again, the ledger says why. Knows no gRPC.

Exceptions: LeaseWithheld with the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from policies.signing import LEASE_TYPE
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.config import SafetyConfig
from safety.custody import Custody
from safety.ledger import Ledger
from safety.monitor import Refusal

WITHHELD = "lease_withheld"
RESUMED = "lease_resumed"
"""Kinds of the ledger entries made when leases stop, and when they are granted again."""


class LeaseWithheld(Exception):
    """No lease now; the message says why."""


class Monitor(Protocol):
    """What may object to a lease."""

    def refusal(self) -> Refusal | None:
        """Why snapshots must stop now; None where they may be used."""


class LeaseAuthority:
    """Grants the leases of one run; for any number of threads.

    Args:
      custody: lease key and lease numbers.
      ledger: takes the changes.
      config: how long a lease lasts.
      run_id: the training run.
      monitor: may object; None where nothing is watched.
      clock: present time in ns since the epoch.
    """

    def __init__(
        self,
        custody: Custody,
        ledger: Ledger,
        config: SafetyConfig,
        run_id: str,
        *,
        monitor: Monitor | None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._custody, self._ledger, self._config = custody, ledger, config
        self._run_id, self._monitor, self._clock = run_id, monitor, clock
        self._lock = threading.Lock()
        self._withheld_code = ""
        for entry in ledger.entries():
            if entry.kind in (WITHHELD, RESUMED):
                self._withheld_code = str(entry.fields.get("code", ""))

    def renew(self, run_id: str) -> common_pb2.SignedStatement:
        """A lease from now on for `lease_s`.

        Raises:
          LeaseWithheld: the monitor objects, or `run_id` is another run's.
          LedgerError, CustodyError: it could not be noted.
        """
        if run_id != self._run_id:
            raise LeaseWithheld(f"run_id is {run_id!r}, this safety service serves run {self._run_id!r} only")
        refusal = None if self._monitor is None else self._monitor.refusal()
        self._note(refusal)
        if refusal is not None:
            raise LeaseWithheld(refusal.reason)
        now = self._clock()
        lease = safety_pb2.LeaseStatement(
            run_id=run_id,
            lease_number=self._custody.next_lease_number(),
            issue_time_ns=now,
            expiry_time_ns=now + round(self._config.lease_s * 1e9),
        )
        return self._custody.sign(LEASE_TYPE, lease.SerializeToString(deterministic=True))

    def _note(self, refusal: Refusal | None) -> None:
        """Puts a change into the ledger, once for as long as it lasts."""
        code = "" if refusal is None else refusal.code
        with self._lock:
            if code == self._withheld_code:
                return
            fields = {"run_id": self._run_id, "code": code, "reason": "" if refusal is None else refusal.reason}
            self._ledger.append(RESUMED if refusal is None else WITHHELD, lambda _: fields)
            self._withheld_code = code
