"""Candidates on their way to being releases: offered to the safety service, released only on its signed approval.

One candidate at a time, in a thread, so that training goes on meanwhile. The registry verifies the verdict itself
before it writes a release; nothing here can approve anything. What is approved may be a canary: whether it acts
everywhere is decided later, by the safety service, and heard of by learner.decisions. Until then it would judge no
other candidate, so none is offered.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from dataclasses import dataclass

from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry, RegistryError
from policies.trust import UntrustedError
from protos.safety.v1 import safety_pb2
from safety.client import OfferRefused, SafetyClient, SafetyUnavailable
from safety.criteria import rate_upper_bound

_log = logging.getLogger(__name__)

_CLOSE_S = 5.0


@dataclass(frozen=True)
class CandidateResult:
    """What became of a candidate. Not `decided`: no verdict was reached, so nothing is known and nothing released.

    With a `canary_share` an approved one acts in that share of the actors only, for now.
    """

    version: int
    decided: bool
    approved: bool
    reason: str
    return_mean: float = float("nan")
    violation_bound: float = float("nan")
    release_number: int = 0
    verdict_id: str = ""
    artifact_digest: bytes = b""
    canary_share: float = 0.0


class PromotionDesk:
    """Takes a candidate when it is idle, and hands back results when asked. Owns the client: `close` closes it."""

    def __init__(
        self, client: SafetyClient, registry: PolicyRegistry, board: PolicyBoard, run_id: str, timeout_s: float
    ) -> None:
        self._client = client
        self._registry = registry
        self._board = board
        self._run_id = run_id
        self._timeout_s = timeout_s
        self._offers: queue.Queue[tuple[int, bytes, bytes] | None] = queue.Queue(maxsize=1)
        self._results: queue.Queue[CandidateResult] = queue.Queue()
        self._fault: Exception | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="promotion-desk", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether a candidate can be offered now."""
        return self._idle.is_set() and not self._board.canary_number

    @property
    def released_return(self) -> float:
        """Mean evaluation return of the release that is offered for everywhere, canaries not; -inf: there is none."""
        verdict = self._board.verdict
        return -math.inf if verdict is None else verdict.return_mean

    def offer(self, version: int, data: bytes, lineage_digest: bytes = b"") -> None:
        """Starts the evaluation of an artifact. Raises queue.Full while another one is in evaluation.

        Args:
          version: learner update count.
          data: the artifact.
          lineage_digest: of the lineage that is kept of it (32 bytes), for the verdict to bind; b"": none is.
        """
        if not self._idle.is_set():
            raise queue.Full
        self._idle.clear()
        self._offers.put_nowait((version, data, lineage_digest))

    def results(self) -> list[CandidateResult]:
        """Results since the last call, in order. Raises what the desk's thread has died of, if it has."""
        if self._fault is not None:
            raise self._fault
        finished = []
        while True:
            try:
                finished.append(self._results.get_nowait())
            except queue.Empty:
                return finished

    def wait(self, timeout_s: float) -> bool:
        """Waits until no candidate is in evaluation; False if one is by then."""
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Closes the client and ends the thread. An evaluation under way is given up: nothing is promoted any more."""
        self._client.close()
        self._idle.wait(_CLOSE_S)
        if self._thread.is_alive():
            self._offers.put(None)
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (offer := self._offers.get()) is not None:
            try:
                self._results.put(self._evaluate(*offer))
            except Exception as error:  # noqa: BLE001  a fault of ours: the train loop raises it, nothing is promoted
                self._fault = error
                return
            finally:
                self._idle.set()

    def _evaluate(self, version: int, data: bytes, lineage_digest: bytes) -> CandidateResult:
        try:
            signed = self._client.evaluate(data, self._run_id, version, self._timeout_s, lineage_digest=lineage_digest)
        except (SafetyUnavailable, OfferRefused) as error:
            _log.warning("candidate %d is undecided: %s", version, error)
            return CandidateResult(version, decided=False, approved=False, reason=str(error))
        verdict = safety_pb2.VerdictStatement.FromString(signed.payload)
        approved, reason = verdict.approved, verdict.reason
        if approved:
            try:
                self._registry.promote(data, signed)
                self._board.publish_release(verdict.version, data, signed)
            except (RegistryError, UntrustedError) as error:
                _log.warning("candidate %d is not promoted: %s", version, error)
                approved, reason = False, str(error)
        return CandidateResult(
            version=version,
            decided=True,
            approved=approved,
            reason=reason,
            return_mean=verdict.return_mean,
            violation_bound=rate_upper_bound(verdict.criteria),
            release_number=verdict.release_number if approved else 0,
            verdict_id=verdict.verdict_id,
            artifact_digest=artifact_digest(data),
            canary_share=verdict.canary_share if approved else 0.0,
        )
