"""Asks the safety service which releases were revoked and which canaries promoted: nobody else tells the learner of
all of them.

Whoever revokes a release hands the revocation to the learner; but the learner may be down then, or whoever revokes may
be killed in between, and the learner may have no access to the ledger. What the safety service itself decides of a
canary it hands to nobody. So it is asked: before the learner offers the release that it finds when it starts, and every
second from then on. What it says counts only as far as it is signed: that is for policies.release_keeper to see, which
also stores it and tells the actors.

A safety service that does not answer at the start is not waited for without end: like its end in the middle of a run it
leaves the actors the last release (docs/architecture.md).

Exceptions: none of its own; what goes wrong is logged, and asked for again.
"""

from __future__ import annotations

import logging
import threading
import time

from policies.release_keeper import ReleaseKeeper
from safety.client import SafetyClient

PATIENCE_S = 10.0
"""How long the safety service may take to answer before the release that was found is offered all the same."""

POLL_S = 1.0
"""Time between two questions."""

RETRY_S = 0.5
"""Time between two questions while there is no answer."""

_CALL_S_MAX = 2.0
_REFUSED_SHOWN_MAX = 5

_log = logging.getLogger(__name__)


class DecisionListener:
    """Hands what the safety service lists to a ReleaseKeeper. Call `catch_up` before `start`, or not.

    Args:
      client: asked; not closed.
      releases: takes what is listed.
      run_id: the training run.
    """

    def __init__(self, client: SafetyClient, releases: ReleaseKeeper, run_id: str) -> None:
        self._client = client
        self._releases = releases
        self._run_id = run_id
        self._revocations_heard = 0
        self._promotions_heard = 0
        self._refused: list[str] = []
        self._failure = ""
        self._silent_since_s: float | None = None
        self._silence_told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision-listener", daemon=True)

    def catch_up(self, stop: threading.Event, patience_s: float = PATIENCE_S) -> bool:
        """Asks until there is an answer, the patience ends, or `stop` is set; returns whether there was an answer."""
        deadline_s = time.monotonic() + patience_s
        while not self._ask():
            if time.monotonic() >= deadline_s:
                _log.warning("what was revoked is not known, a release is offered all the same: %s", self._failure)
                return False
            if stop.wait(RETRY_S):
                return False
        return True

    def start(self) -> None:
        """Starts to ask in a thread, at once."""
        self._thread.start()

    def close(self) -> None:
        """Stops asking. A second call does nothing, nor does one before `start`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            wait_s = POLL_S if self._ask() else RETRY_S

    def _ask(self) -> bool:
        """One question; whether there was an answer."""
        try:
            revocations = self._client.revocations(self._run_id, self._revocations_heard, _CALL_S_MAX)
            refused = self._releases.catch_up(revocations)
            # What was refused or not stored is asked for again: the disk may have room by then.
            self._revocations_heard += 0 if refused else len(revocations)
            promotions = self._client.promotions(self._run_id, self._promotions_heard, _CALL_S_MAX)
            not_promoted = self._releases.promote(promotions)
            self._promotions_heard += 0 if not_promoted else len(promotions)
            refused = [*refused, *not_promoted]
        except Exception as error:  # noqa: BLE001  whatever it was: if asking ended, nothing would be heard of
            self._not_answered(str(error))
            return False
        self._failure, self._silent_since_s, self._silence_told = "", None, False
        if refused != self._refused:
            for each in refused[:_REFUSED_SHOWN_MAX]:
                _log.error("%s", each)
            if len(refused) > _REFUSED_SHOWN_MAX:
                _log.error("and %d more", len(refused) - _REFUSED_SHOWN_MAX)
        self._refused = refused
        return True

    def _not_answered(self, failure: str) -> None:
        """Logs a silence once it has lasted for a while, and only once."""
        now_s = time.monotonic()
        self._failure = failure
        # Whoever comes back may have been set back: then its list is to be heard from the first.
        self._revocations_heard = self._promotions_heard = 0
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        elif now_s - self._silent_since_s >= PATIENCE_S and not self._silence_told:
            self._silence_told = True
            _log.warning("what has been revoked or promoted since is not known: %s", failure)
