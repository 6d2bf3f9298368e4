"""The gate: takes candidates, one evaluation at a time, and gives verdicts; takes releases back. Knows no gRPC.

The order is what makes it safe to crash anywhere: evaluate, apply the criteria, keep the artifact if it passed, sign,
append to the ledger and sync, and only then answer. Whatever is not answered has either not been decided, or stands in
the ledger and is found there when the candidate is offered again. A revocation waits for no evaluation: a candidate
that is being compared with a release that is revoked meanwhile gets the verdict of that comparison.

Exceptions:
  OfferRefused: the offer makes no sense here; nothing was decided, and nothing will be.
  GateBusy: too many candidates are waiting, or a canary is undecided; nothing was decided.
  GateClosed: the service stops; nothing was decided.
  RevocationRefused (safety.revocations): what cannot be revoked.
  LedgerError, CustodyError: see there; nothing was decided, and the service must be started anew.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.config import EnvironmentConfig
from policies.artifact import DIGEST_BYTES, artifact_digest
from policies.signing import VerifyKey
from protos.common.v1 import common_pb2
from replay.settings import validate
from safety.config import SafetyConfig
from safety.criteria import check_attainable, return_non_inferiority, violation_rate
from safety.custody import Custody, CustodyError
from safety.docket import Docket
from safety.evaluator import EvaluationFailed, Evaluator, EvaluatorClosed
from safety.ledger import Ledger
from safety.suite import criteria_digest, draw_seeds, seed_manifest_digest, suite_digest
from safety.verdicts import Assessment, Offer, Rule

Progress = Callable[[int, int], None]
"""Called with the episodes that have ended and the episodes in all."""


class OfferRefused(ValueError):
    """An offer that cannot become a verdict: another run, a malformed digest, bytes that are not those offered."""


class GateBusy(Exception):
    """The queue is full, or a canary is undecided."""


class GateClosed(Exception):
    """The service stops."""


class Gate:
    """Judges the candidates of one run. Any thread may submit.

    Args:
      config: suite, criteria and limits.
      environment: what candidates are evaluated in.
      directory: the safety service's own; made if it is not there.
      run_id: the training run.
      clock: present time in ns since the epoch.

    Raises:
      SettingError: the settings are out of bounds, or no candidate could satisfy them.
      LedgerError, CustodyError: the directory cannot be trusted.
    """

    def __init__(
        self,
        config: SafetyConfig,
        environment: EnvironmentConfig,
        directory: Path,
        run_id: str,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        validate(config, "safety.")
        check_attainable(config)
        # Whoever can write here can replace the keys, so not even a generous umask may let others.
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._config, self._run_id = config, run_id
        self._docket = Docket(directory, run_id, clock)
        try:
            # A gate that has nothing to compare with must not start.
            self._docket.incumbent()
            self._docket.forget_what_never_was_released()
        except BaseException:
            self._docket.close()
            raise
        self._evaluator = Evaluator(environment, config, directory / "evaluator.log")
        # One thread, alive as long as the gate: it makes one evaluation at a time, and the worker lives with it.
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "temper-gate")
        self._lock = threading.Lock()
        self._pending = 0
        self._closed = False

    @property
    def verify_key(self) -> VerifyKey:
        """The key that verifies this gate's verdicts."""
        return self._docket.verify_key

    @property
    def docket(self) -> Docket:
        """What has been decided; of canaries, others decide."""
        return self._docket

    @property
    def ledger(self) -> Ledger:
        """Where it enters what it decides."""
        return self._docket.ledger

    @property
    def custody(self) -> Custody:
        """Its keys."""
        return self._docket.custody

    @property
    def counts(self) -> tuple[int, int]:
        """Approved and rejected verdicts so far."""
        return self._docket.counts

    @property
    def pending_max(self) -> int:
        """Most candidates that are in evaluation or waiting."""
        return self._config.queue_max + 1

    def start(self) -> None:
        """Starts the evaluator process; to be called before the first candidate is submitted.

        Raises:
          EnvironmentUnsupported: the environment cannot be made.
          EvaluationFailed: the evaluator process does not come up.
        """
        self._executor.submit(self._evaluator.start).result()

    def newest_verdicts(self, limit: int) -> list[common_pb2.SignedStatement]:
        """Verdicts, newest first, at most `limit` (0: all)."""
        return self._docket.newest_verdicts(limit)

    def revoke(self, run_id: str, release_number: int, why: str) -> common_pb2.SignedStatement:
        """The signed revocation of a release, in the ledger by then; raises as `Docket.revoke`. For any thread."""
        return self._docket.revoke(run_id, release_number, why)

    def revocations(
        self, run_id: str, after_number: int, limit: int
    ) -> tuple[Sequence[common_pb2.SignedStatement], int]:
        """A page of the revocations, and the number of the newest; as `Docket.revocations`. For any thread."""
        return self._docket.revocations(run_id, after_number, limit)

    def check_offer(self, offer: Offer) -> None:
        """Raises OfferRefused for an offer that no bytes could make good."""
        if offer.run_id != self._run_id:
            raise OfferRefused(f"run_id is {offer.run_id!r}, this safety service serves run {self._run_id!r} only")
        if len(offer.digest) != DIGEST_BYTES:
            raise OfferRefused(f"digest has {len(offer.digest)} bytes, a SHA-256 has {DIGEST_BYTES}")

    def is_oversize(self, offer: Offer) -> bool:
        """Whether a candidate is rejected for its size alone, so that its bytes need not be sent."""
        return offer.total_bytes > self._config.artifact_bytes_max

    def submit(
        self, offer: Offer, artifact: bytes, on_progress: Progress
    ) -> concurrent.futures.Future[common_pb2.SignedStatement]:
        """Queues a candidate; the future has the signed verdict, which by then is in the ledger.

        Args:
          offer: what is offered.
          artifact: its bytes; not looked at where the offer is oversize.
          on_progress: called from the gate's thread.

        Raises:
          OfferRefused, GateBusy, GateClosed: see there. The future can also fail with GateBusy, GateClosed,
            LedgerError and CustodyError.
        """
        self.check_offer(offer)
        if not self.is_oversize(offer) and (
            len(artifact) != offer.total_bytes or artifact_digest(artifact) != offer.digest
        ):
            raise OfferRefused(
                f"{len(artifact)} bytes with digest {artifact_digest(artifact).hex()} came, offered were "
                f"{offer.total_bytes} with {offer.digest.hex()}: nothing was evaluated"
            )
        with self._lock:
            if self._closed:
                raise GateClosed("the safety service stops; nothing was decided")
            if self._pending >= self.pending_max:
                raise GateBusy(f"{self._config.queue_max} candidates are waiting already; offer it again later")
            self._pending += 1
            future = self._executor.submit(self._judge, offer, artifact, on_progress)
        future.add_done_callback(self._count_done)
        return future

    def close(self) -> None:
        """Abandons what is not decided, and frees the directory. Blocks until an entry being written is written."""
        with self._lock:
            self._closed = True
        self._evaluator.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._evaluator.release()
        self._docket.close()

    def _count_done(self, _: concurrent.futures.Future[common_pb2.SignedStatement]) -> None:
        with self._lock:
            self._pending -= 1

    def _judge(self, offer: Offer, artifact: bytes, on_progress: Progress) -> common_pb2.SignedStatement:
        """Runs in the gate's thread: from a candidate to a verdict that is in the ledger."""
        criteria, suite = criteria_digest(self._config), suite_digest(self._evaluator.environment, self._config)
        recorded = self._docket.recorded(offer.digest, criteria, suite)
        if recorded is not None:
            return recorded
        # Not in `submit`: who offers the canary again gets its verdict, and those in the queue came before it.
        if number := self._docket.undecided_canary():
            raise GateBusy(f"release {number} is a canary: wait until it is decided; nothing was decided here")
        seeds = draw_seeds(self._docket.seed_key(self._docket.evaluations + 1), self._config.episodes)
        try:
            assessment = self._assess(offer, artifact, seeds, on_progress)
        except EvaluatorClosed as error:
            raise GateClosed("the safety service stops; nothing was decided") from error
        rule = Rule(criteria, suite, seed_manifest_digest(seeds))
        validity_s, share = self._config.verdict_s_valid, self._config.canary_share
        return self._docket.record(offer, artifact, assessment, rule, validity_s, canary_share=share)

    def _assess(self, offer: Offer, artifact: bytes, seeds: Sequence[int], on_progress: Progress) -> Assessment:
        """Evaluates the candidate, then the incumbent on the same seeds, and applies the criteria."""
        if self.is_oversize(offer):
            limit = self._config.artifact_bytes_max
            return Assessment(f"the artifact has {offer.total_bytes} bytes, the limit is {limit}: it was not read")
        if objection := self._docket.objection(offer.digest):
            return Assessment(objection)
        try:
            digest, incumbent = self._docket.incumbent()
        except CustodyError as error:
            return Assessment(f"the incumbent cannot be compared with: {error}")
        count = len(seeds)
        total = count if incumbent is None else 2 * count
        try:
            outcomes = self._evaluator.evaluate(artifact, offer.digest, seeds, lambda ended: on_progress(ended, total))
        except EvaluationFailed as error:
            return Assessment(str(error))
        incumbent_returns = None
        if incumbent is not None:
            try:
                incumbent_returns = self._evaluator.evaluate(
                    incumbent, digest, seeds, lambda ended: on_progress(count + ended, total)
                ).returns
            except EvaluationFailed as error:
                return Assessment(f"the incumbent cannot be compared with: {error}", (), outcomes, digest)
        criteria = (
            violation_rate(outcomes.violating, count, self._config),
            return_non_inferiority(outcomes.returns, incumbent_returns, self._config),
        )
        return Assessment("", criteria, outcomes, digest)
