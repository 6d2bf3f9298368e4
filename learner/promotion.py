"""Candidates on their way to being releases: offered to the safety service, released only on its signed approval.

One candidate at a time, in a thread, so that training goes on meanwhile. The registry verifies the verdict itself
before it writes a release; nothing here can approve anything. What is approved may be a canary: whether it acts
everywhere is decided later, by the safety service, and heard of by learner.decisions. Until then it would judge no
other candidate, so none is offered.

What the safety service has decided stands in its ledger, whether or not its answer arrives. So a candidate is kept on
disk before it is offered, and until its answer is in effect. Where there is no answer, or the registry cannot take it,
the safety service is asked what it has decided of that artifact; where that is nothing, the same one is offered again.
That goes on, with pauses, until there is an answer: in this process, or in the next that finds the candidate kept.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from learner.candidate_file import Candidate, CandidateFile, CandidateFileError
from policies.artifact import ArtifactError, artifact_digest
from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry, RegistryError
from policies.revocation import Revocation
from policies.trust import UntrustedError
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.client import OfferRefused, SafetyClient, SafetyUnavailable
from safety.criteria import rate_upper_bound

_log = logging.getLogger(__name__)

RETRY_S = 0.5
"""Time after the first attempt to get an answer; twice as long after each further one."""

RETRY_S_MAX = 10.0
"""Longest time between two attempts."""

VERDICTS_LOOKED_AT = 16
"""Newest verdicts among which the one on a candidate is looked for: one at a time is under way."""

_CALL_S_MAX = 5.0
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


class Evaluation(NamedTuple):
    """How far a candidate under evaluation has come: episodes that have ended, and the most there can be."""

    version: int
    episodes_done: int
    episodes_total: int


class PromotionDesk:
    """Takes a candidate when it is idle, and hands back results when asked. Owns the client: `close` closes it.

    Args:
      client: offers the candidates.
      registry: takes the releases.
      board: offers them to the actors.
      run_id: the training run.
      timeout_s: longest single wait for a verdict.
      kept: keeps the candidate that is under way; one that is found there is offered again at once. None: what is not
        answered when this process ends is forgotten.
    """

    def __init__(
        self,
        client: SafetyClient,
        registry: PolicyRegistry,
        board: PolicyBoard,
        run_id: str,
        timeout_s: float,
        *,
        kept: CandidateFile | None = None,
    ) -> None:
        self._client = client
        self._registry = registry
        self._board = board
        self._run_id = run_id
        self._timeout_s = timeout_s
        self._kept = kept
        # With each, whether it may have been offered before.
        self._offers: queue.Queue[tuple[Candidate, bool] | None] = queue.Queue(maxsize=1)
        self._results: queue.Queue[CandidateResult] = queue.Queue()
        self._fault: Exception | None = None
        self._evaluation: Evaluation | None = None
        self._closing = threading.Event()
        self._idle = threading.Event()
        unanswered = None if kept is None else kept.read()
        if unanswered is None:
            self._idle.set()
        else:
            _log.info("candidate %d was offered before this start and is not answered", unanswered.version)
            self._offers.put_nowait((unanswered, True))
        self._thread = threading.Thread(target=self._run, name="promotion-desk", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether a candidate can be offered now: none is without an answer, and no canary undecided."""
        return self._idle.is_set() and not self._board.canary_number

    @property
    def evaluation(self) -> Evaluation | None:
        """The evaluation under way, as the safety service last told; None where there is none, or nothing was told."""
        return self._evaluation

    @property
    def released_return(self) -> float:
        """Mean evaluation return of the release that is offered for everywhere, canaries not; -inf: there is none."""
        verdict = self._board.verdict
        return -math.inf if verdict is None else verdict.return_mean

    def offer(self, version: int, data: bytes, lineage_digest: bytes = b"") -> None:
        """Starts the evaluation of an artifact. Raises queue.Full while another one is not answered.

        Args:
          version: learner update count.
          data: the artifact.
          lineage_digest: of the lineage that is kept of it (32 bytes), for the verdict to bind; b"": none is.
        """
        if not self._idle.is_set():
            raise queue.Full
        self._idle.clear()
        self._offers.put_nowait((Candidate(version, data, lineage_digest), False))

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
        """Waits until no candidate is without an answer; False if one is by then."""
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Closes the client and ends the thread. What is not answered by then stays kept, and is not decided here."""
        self._closing.set()
        self._client.close()
        self._idle.wait(_CLOSE_S)
        if self._thread.is_alive():
            self._offers.put(None)
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (offer := self._offers.get()) is not None:
            try:
                self._results.put(self._until_answered(*offer))
            except Exception as error:  # noqa: BLE001  a fault of ours: the train loop raises it, nothing is promoted
                # A call on a connection that has just been closed is none.
                self._fault = None if self._closing.is_set() else error
                return
            finally:
                self._evaluation = None
                self._idle.set()

    def _until_answered(self, candidate: Candidate, offered: bool) -> CandidateResult:
        """What became of a candidate, in effect by then; undecided if it is refused, or this is closed.

        Args:
          candidate: what is offered.
          offered: whether it may have been offered before, and is kept.
        """
        signed: common_pb2.SignedStatement | None = None
        obstacle, wait_s = "", RETRY_S
        while not self._closing.is_set():
            try:
                if not offered and self._kept is not None:
                    self._kept.keep(candidate)
                if signed is None:
                    known = self._recorded(candidate) if offered else None
                    offered = True
                    signed = self._offered(candidate) if known is None else known
                return self._answered(self._settled(candidate, signed))
            except OfferRefused as error:
                _log.warning("candidate %d is undecided: %s", candidate.version, error)
                return self._answered(_undecided(candidate, str(error)))
            except (SafetyUnavailable, RegistryError, CandidateFileError) as error:
                if str(error) != obstacle:
                    _log.warning("candidate %d has no answer in effect, going on trying: %s", candidate.version, error)
                obstacle = str(error)
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, RETRY_S_MAX)
        return _undecided(candidate, obstacle)

    def _recorded(self, candidate: Candidate) -> common_pb2.SignedStatement | None:
        """The verdict that the safety service has given on it; None where it must be offered (again).

        An approval that has expired, or was revoked since, counts no more; asked again, the safety service says so.
        A candidate that could not be judged would be tested anew, at the cost of the run's error rate: what was said
        of it is the answer. Raises SafetyUnavailable.
        """
        digest = artifact_digest(candidate.data)
        for signed in self._client.verdicts(VERDICTS_LOOKED_AT, _CALL_S_MAX):
            try:
                verdict = safety_pb2.VerdictStatement.FromString(signed.payload)
            except DecodeError:
                continue
            if (verdict.run_id, verdict.artifact_digest) != (self._run_id, digest):
                continue
            over = verdict.approved and self._registry.trust.clock() >= verdict.expiry_time_ns
            return None if over or (verdict.approved and self._revoked(digest)) else signed
        return None

    def _revoked(self, digest: bytes) -> bool:
        """Whether the safety service lists a revocation of it. The others are for learner.decisions to hear of."""
        for signed in self._client.revocations(self._run_id, timeout_s=_CALL_S_MAX):
            with contextlib.suppress(UntrustedError):
                if Revocation.verified(signed, self._registry.trust).digest == digest:
                    return True
        return False

    def _offered(self, candidate: Candidate) -> common_pb2.SignedStatement:
        """The verdict on it. Raises SafetyUnavailable, OfferRefused."""

        def heard(done: int, total: int) -> None:
            self._evaluation = Evaluation(candidate.version, done, total)

        return self._client.evaluate(
            candidate.data,
            self._run_id,
            candidate.version,
            self._timeout_s,
            heard,
            lineage_digest=candidate.lineage_digest,
        )

    def _settled(self, candidate: Candidate, signed: common_pb2.SignedStatement) -> CandidateResult:
        """What a verdict says of it, in effect by then. Raises RegistryError."""
        verdict = safety_pb2.VerdictStatement.FromString(signed.payload)
        approved, reason = verdict.approved, verdict.reason
        if approved:
            try:
                self._registry.promote(candidate.data, signed)
                self._board.publish_release(verdict.version, candidate.data, signed)
            except (UntrustedError, ArtifactError) as error:
                _log.warning("candidate %d is not promoted: %s", candidate.version, error)
                approved, reason = False, str(error)
        return CandidateResult(
            version=candidate.version,
            decided=True,
            approved=approved,
            reason=reason,
            return_mean=verdict.return_mean,
            violation_bound=rate_upper_bound(verdict.criteria),
            release_number=verdict.release_number if approved else 0,
            verdict_id=verdict.verdict_id,
            artifact_digest=artifact_digest(candidate.data),
            canary_share=verdict.canary_share if approved else 0.0,
        )

    def _answered(self, result: CandidateResult) -> CandidateResult:
        """The same; from now on the candidate is not offered again."""
        if self._kept is not None:
            self._kept.remove()
        return result


def _undecided(candidate: Candidate, reason: str) -> CandidateResult:
    return CandidateResult(candidate.version, decided=False, approved=False, reason=reason)
