"""The gate: takes candidates, one evaluation at a time, and gives verdicts; takes releases back. Knows no gRPC.

The order is what makes it safe to crash anywhere: enter in the ledger that an evaluation begins, and sync, hold the
trial, keep the artifact and the evidence, sign, enter the verdict, sync, and only then answer. Whatever is not answered
has either not been decided, or stands in the ledger and is found there when the candidate is offered again. An
evaluation that was begun and got no verdict is never taken up again: the candidate, offered again, is tested on the
seeds and at the error rate of the next. A revocation waits for no evaluation: a candidate that is being
compared with a release that is revoked meanwhile gets the verdict of that comparison.

Exceptions:
  OfferRefused: the offer makes no sense here; nothing was decided, and nothing will be.
  GateBusy: too many candidates are waiting, or a canary is undecided; nothing was decided.
  GateClosed: the service stops; nothing was decided.
  RevocationRefused (safety.revocations): what cannot be revoked.
  LedgerError, CustodyError: see there; nothing was decided, and the service must be started anew.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.config import EnvironmentConfig
from policies.artifact import DIGEST_BYTES, artifact_digest
from policies.signing import VerifyKey
from protos.common.v1 import common_pb2
from protos.safety.v1.safety_pb2 import VerdictStatement
from replay.settings import SettingError, validate
from safety.begun_evaluations import KnownSchedule
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.evaluation.evaluator import EvaluatorClosed
from safety.evaluation.pool import EvaluatorPool
from safety.history import VerdictCounts
from safety.keys.custody import Custody, CustodyError
from safety.ledger import Ledger
from safety.statistics.parameters import ParameterError
from safety.suite_file import SuiteFileError, make_suite
from safety.suite_fit import check_fit
from safety.suites.manifest import criteria_digest, suite_digest
from safety.suites.spec import SuiteSpec
from safety.trials.levels import Schedule
from safety.trials.runner import Contender, Progress, TrialFailed, run_trial
from safety.trials.trial import Trial
from safety.verdicts import Assessment, Offer, Rule

_log = logging.getLogger(__name__)


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
      keys: the directory of the private keys; None: the one that is meant for the run (safety.keys.directory).

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
        *,
        keys: Path | None = None,
    ) -> None:
        validate(config, "safety.")
        self._suite = _attainable_suite(config, environment)
        self._criteria_digest = criteria_digest(self._suite)
        self._schedule = Schedule(self._suite.error_rate, self._suite.error_schedule)
        # Whoever can write here can replace the keys, so not even a generous umask may let others.
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._config, self._environment, self._directory, self._run_id = config, environment, directory, run_id
        known = KnownSchedule(self._criteria_digest, self._schedule)
        self._docket = Docket(directory, run_id, clock, known, keys=keys)
        try:
            # A gate that has nothing to compare with must not start.
            self._docket.incumbent()
            self._docket.forget_what_no_verdict_needs(config.evidence_bytes_max)
        except BaseException:
            self._docket.close()
            raise
        self._hidden = (directory, self._docket.custody.keys.place)
        self._say_what_changed()
        self._pool = EvaluatorPool(self._suite, config, directory, self._hidden)
        # One thread, alive as long as the gate: it holds one trial at a time, and the evaluator processes live with it.
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "temper-gate")
        self._lock = threading.Lock()
        self._pending = 0
        self._closed = False

    @property
    def verify_key(self) -> VerifyKey:
        """The first verdict key: whoever trusts it can verify this gate's verdicts."""
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
    def counts(self) -> VerdictCounts:
        """Verdicts so far."""
        return self._docket.counts

    @property
    def pending_max(self) -> int:
        """Most candidates that are in evaluation or waiting."""
        return self._config.queue_max + 1

    def start(self) -> None:
        """Starts the evaluator process; to be called before the first candidate is submitted.

        Raises:
          EnvironmentUnsupported: an environment cannot be made, or a slice is for other policies than those of the run.
          EvaluationFailed: the evaluator process does not come up.
        """
        self._executor.submit(self._pool.start).result()
        environments = self._pool.environments
        check_fit(
            self._suite, self._environment, environments, self._config, directory=self._directory, hidden=self._hidden
        )

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
        if len(offer.lineage_digest) not in {0, DIGEST_BYTES}:
            raise OfferRefused(f"lineage_digest has {len(offer.lineage_digest)} bytes, a SHA-256 has {DIGEST_BYTES}")

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
        self._pool.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._pool.release()
        self._docket.close()

    def _say_what_changed(self) -> None:
        """Logs that earlier verdicts were by other criteria: they stand, and are not those of these settings."""
        last = self._docket.newest_verdicts(1)
        if last and VerdictStatement.FromString(last[0].payload).criteria_digest != self._criteria_digest:
            _log.warning(
                "the criteria are not those of the last verdict: candidates are judged by the new ones from now on"
            )

    def _count_done(self, _: concurrent.futures.Future[common_pb2.SignedStatement]) -> None:
        with self._lock:
            self._pending -= 1

    def _judge(self, offer: Offer, artifact: bytes, on_progress: Progress) -> common_pb2.SignedStatement:
        """Runs in the gate's thread: from a candidate to a verdict that is in the ledger."""
        rule = Rule(self._criteria_digest, suite_digest(self._suite, self._pool.environments), self._suite)
        recorded = self._docket.recorded(offer.digest, rule.criteria_digest, rule.suite_digest)
        if recorded is not None:
            return recorded
        # Not in `submit`: who offers the canary again gets its verdict, and those in the queue came before it.
        if number := self._docket.undecided_canary():
            raise GateBusy(f"release {number} is a canary: wait until it is decided; nothing was decided here")
        # One that ended in an error of ours: in this thread, nothing else can be under way.
        self._docket.break_off()
        try:
            assessment = self._assess(offer, artifact, rule, on_progress)
        except EvaluatorClosed as error:
            raise GateClosed("the safety service stops; nothing was decided") from error
        return self._docket.record(offer, artifact, assessment, rule, self._config)

    def _assess(self, offer: Offer, artifact: bytes, rule: Rule, on_progress: Progress) -> Assessment:
        """Holds the trial of the candidate, unless there is nothing to be tested."""
        if self.is_oversize(offer):
            limit = self._config.artifact_bytes_max
            return Assessment(f"the artifact has {offer.total_bytes} bytes, the limit is {limit}: it was not read")
        if objection := self._docket.objection(offer.digest):
            return Assessment(objection)
        try:
            digest, released = self._docket.incumbent()
        except CustodyError as error:
            return Assessment(f"the incumbent cannot be compared with: {error}")
        incumbent = None if released is None else Contender(released, digest)
        key = self._docket.seed_key(self._docket.evaluations + 1)
        try:
            level = self._docket.next_level(self._schedule)
            trial = Trial(self._suite, level, key, lanes=self._config.lanes, incumbent=incumbent is not None)
        except ParameterError as error:
            return Assessment(f"what is left of the run's error rate is too little to test it: {error}")
        candidate = Contender(artifact, offer.digest)
        self._docket.begin(offer, rule, level)
        try:
            run_trial(
                trial, self._pool, self._config, candidate=candidate, incumbent=incumbent, on_progress=on_progress
            )
        except TrialFailed as error:
            return Assessment(str(error), level, None, trial.evidence(), digest)
        combination = trial.conclude(deferred_in_a_row=self._docket.deferred_in_a_row)
        return Assessment("", level, combination, trial.evidence(), digest)


def _attainable_suite(config: SafetyConfig, environment: EnvironmentConfig) -> SuiteSpec:
    """What candidates are tested on; raises SettingError where there is no such suite, or none could pass it."""
    try:
        return make_suite(config, environment)
    except (ParameterError, SuiteFileError) as error:
        raise SettingError(str(error)) from error
