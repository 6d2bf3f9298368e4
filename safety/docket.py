"""Everything that has been decided about one run, and what deciding needs: ledger, keys, history and the incumbent.

What is decided is written here and nowhere else: verdicts by the gate, promotions of canaries by who watches them
(safety.canaries.watch), revocations by both or, where no safety service runs, by whoever opens the directory in its
place. Only one process at a time can. Evaluates nothing.

What a verdict rests on is on the disk before the verdict is: the artifact, and the evidence whose digest it binds. What
a crash leaves of that without a verdict is removed at the next start. An evaluation is in the ledger before its first
episode (`begin`), so that number, key and error level are used up also where it never gets a verdict; who opens the
directory next enters that (`break_off`).

A release that is revoked is the incumbent no longer: the newest one that is left takes its place, so the artifacts of
earlier releases are kept. Numbers of releases go on ascending. An artifact that was revoked is never approved again.
A release that is a canary is no incumbent until it is promoted, and there is one at a time: who judges candidates asks
`undecided_canary` first.

Exceptions: RevocationRefused (safety.revocations), PromotionRefused (safety.promotions); LedgerError, CustodyError:
nothing was decided.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.signing import PROMOTION_TYPE, REVOCATION_TYPE, VERDICT_TYPE, VerifyKey
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.alarms import divergence_alarms
from safety.begun_evaluations import (
    BROKEN_OFF,
    EVALUATION,
    BegunEvaluation,
    KnownSchedule,
    broken_off_fields,
    evaluation_fields,
)
from safety.config import SafetyConfig
from safety.evidence.counts import slice_counts
from safety.evidence.store import EvidenceStore
from safety.history import PROMOTION, REVOCATION, VERDICT, DecisionHistory, VerdictCounts
from safety.in_toto import SIGNATURE_FIELD
from safety.keys.custody import Custody, CustodyError
from safety.keys.history import OPENED
from safety.ledger import Ledger, LedgerError
from safety.promotions import PAGE_PROMOTIONS, PROMOTIONS_MAX, PromotionRefused, promotion_fields
from safety.revocations import (
    PAGE_REVOCATIONS,
    REVOCATIONS_MAX,
    RevocationRefused,
    UnknownRelease,
    checked_why,
    revocation_fields,
)
from safety.suites.manifest import seed_commitment, seed_key
from safety.trials.levels import Level, Schedule, next_level
from safety.verdicts import (
    Assessment,
    Offer,
    Rule,
    SeedDisclosure,
    compose_evidence,
    compose_statement,
    ledger_fields,
    statement_in,
)

_log = logging.getLogger(__name__)


class Docket:
    """The decisions about one run, open for writing; for any number of threads.

    Args:
      directory: the safety service's own; must exist.
      run_id: the training run.
      clock: present time in ns since the epoch.
      known: how the candidates share the run's error rate, where that is known; see `DecisionHistory`.
      keys: the directory of the private keys; None: the one that is meant for the run (safety.keys.directory).

    Raises:
      LedgerError, CustodyError: the directory cannot be trusted, or another process has it open.
    """

    def __init__(
        self,
        directory: Path,
        run_id: str,
        clock: Callable[[], int] = time.time_ns,
        known: KnownSchedule | None = None,
        *,
        keys: Path | None = None,
    ) -> None:
        self._run_id, self._clock = run_id, clock
        self._lock = threading.RLock()
        self._incumbent: tuple[bytes, bytes | None] = (b"", None)
        self.ledger = Ledger(directory, clock)
        try:
            self.custody = self._open_custody(directory, keys)
            self._evidence = EvidenceStore(directory)
            self._history = DecisionHistory(self.ledger.entries(), self.verify_key, run_id, known)
            self._check_commitment()
            self.break_off()
        except BaseException:
            self.ledger.close()
            raise

    @property
    def verify_key(self) -> VerifyKey:
        """The first verdict key: whoever trusts it can verify what is decided here."""
        return self.custody.verify_key

    @property
    def counts(self) -> VerdictCounts:
        """Verdicts so far."""
        with self._lock:
            return self._history.counts

    @property
    def broken_off(self) -> int:
        """Evaluations so far that were begun and never got a verdict."""
        with self._lock:
            return self._history.broken_off

    @property
    def evaluations(self) -> int:
        """Those that have ended, with a verdict or broken off; the next, or the one under way, has the number after."""
        with self._lock:
            return self._history.evaluations

    @property
    def deferred_in_a_row(self) -> int:
        """Candidates deferred since the last that was not."""
        with self._lock:
            return self._history.deferred_in_a_row

    def next_level(self, schedule: Schedule) -> Level:
        """What the next candidate is tested at. Raises ParameterError where nothing is left."""
        with self._lock:
            return next_level(schedule, self._history.approvals)

    def seed_key(self, evaluation: int) -> bytes:
        """The key of the held-out seeds of an evaluation, from 1."""
        return seed_key(self.custody.secret, self._run_id, evaluation)

    def newest_verdicts(self, limit: int) -> list[common_pb2.SignedStatement]:
        """Verdicts, newest first, at most `limit` (0: all)."""
        with self._lock:
            return self._history.newest(limit)

    def recorded(self, digest: bytes, rule_digest: bytes, suite_digest: bytes) -> common_pb2.SignedStatement | None:
        """The verdict that stands for an artifact by these criteria and suite; see `DecisionHistory.recorded`."""
        with self._lock:
            return self._history.recorded(digest, rule_digest, suite_digest, self._clock())

    def objection(self, digest: bytes) -> str:
        """Why an artifact can never be approved, whatever it achieves; "" where nothing is known against it."""
        with self._lock:
            revocation = self._history.revocation(digest)
        if revocation is None:
            return ""
        return f"release {revocation.statement.release_number} of this artifact was revoked: {revocation.statement.why}"

    def incumbent(self) -> tuple[bytes, bytes | None]:
        """Digest and artifact of the newest release that is neither revoked nor a canary; (b"", None): there is none.

        Raises:
          CustodyError: its artifact is missing or damaged.
        """
        with self._lock:
            digest = self._history.incumbent_digest
            if digest != self._incumbent[0]:
                self._incumbent = digest, self.custody.incumbent(digest) if digest else None
            return self._incumbent

    def canary(self) -> safety_pb2.VerdictStatement | None:
        """The verdict of the canary that is neither promoted nor revoked; None where there is none."""
        with self._lock:
            return self._history.canary

    def undecided_canary(self) -> int:
        """Number of that release; 0: there is none. Until it is decided, no further candidate may be judged."""
        canary = self.canary()
        return 0 if canary is None else canary.release_number

    def forget_what_no_verdict_needs(self, evidence_bytes_max: int) -> None:
        """Removes what is left of verdicts that were never written, artifacts of releases that were revoked, and the
        oldest evidence for which there is no room (bytes). Raises CustodyError where something cannot be removed."""
        with self._lock:
            self.custody.forget_incumbents_except(self._history.standing)
            self._evidence.forget(self._history.kept, evidence_bytes_max)

    def begin(self, offer: Offer, rule: Rule, level: Level) -> None:
        """Enters that a candidate is about to be tested; to be called before its first episode.

        From here on number, key and error level are used up, whatever becomes of it.

        Args:
          offer, rule: the candidate, and by which rule.
          level: what it is tested at.

        Raises:
          LedgerError: it is not in the ledger, so nothing may be run.
        """
        with self._lock:
            if (begun := self._history.under_way) is not None:
                raise LedgerError(f"evaluation {begun.number} has not ended: no other can begin")
            number = self._history.evaluations + 1
            begun = BegunEvaluation(
                number=number,
                run_id=offer.run_id,
                version=offer.version,
                artifact_digest=offer.digest,
                lifetime_index=level.index,
                error_level=level.alpha,
                criteria_digest=rule.criteria_digest,
                suite_digest=rule.suite_digest,
                next_commitment=seed_commitment(self.seed_key(number + 1)),
            )
            fields = evaluation_fields(begun)
            self._history.add(self.ledger.append(EVALUATION, lambda _: fields))

    def break_off(self) -> None:
        """Enters that an evaluation which has not ended gets no verdict; to be called only where none can be running.

        Raises:
          LedgerError: it could not be written, or the ledger commits to keys that are not ours.
        """
        with self._lock:
            begun = self._history.under_way
            if begun is None:
                return
            fields = broken_off_fields(begun.number, self.seed_key(begun.number))
            self._history.add(self.ledger.append(BROKEN_OFF, lambda _: fields))
            self._check_commitment()
            _log.warning(
                "evaluation %d, of artifact %s, never got a verdict: its seeds and its error rate %g are used up",
                begun.number,
                begun.artifact_digest.hex(),
                begun.error_level,
            )

    def record(
        self, offer: Offer, artifact: bytes, assessment: Assessment, rule: Rule, config: SafetyConfig
    ) -> common_pb2.SignedStatement:
        """Signs a verdict and puts it in the ledger; artifact and evidence are kept first, the evidence synced.

        With a share for canaries, what passed becomes a canary of that share of the actors.

        Args:
          offer, artifact: the candidate.
          assessment, rule: how it came out, and by which rule. Where it was tested, that must have been begun.
          config: validity, share of the canary, lanes, and room for evidence.

        Raises:
          LedgerError, CustodyError: nothing was decided.
        """
        with self._lock:
            self._check_begun(offer, assessment)
            # It may have been revoked while it was evaluated once more.
            if objection := self.objection(offer.digest):
                assessment = dataclasses.replace(assessment, failure=objection)
            evidence_digest = self._keep(offer, artifact, assessment, rule, config.lanes)
            alarms = self._alarms(assessment, rule)

            def compose(previous: bytes) -> Mapping[str, Any]:
                number = self._history.evaluations + 1
                statement = compose_statement(
                    offer,
                    assessment,
                    rule,
                    seeds=SeedDisclosure(self.seed_key(number), seed_commitment(self.seed_key(number + 1))),
                    evidence_digest=evidence_digest,
                    alarms=alarms,
                    release_number=self._history.approved + 1,
                    previous_entry_digest=previous,
                    issue_time_ns=self._clock(),
                    validity_s=config.verdict_s_valid,
                    canary_share=config.canary_share,
                )
                payload = statement.SerializeToString(deterministic=True)
                signed = self.custody.sign(VERDICT_TYPE, payload)
                # Made now, for `temper safety export`: whoever asks for that does not have the key.
                attested = self.custody.attest(statement)
                return {**ledger_fields(signed, statement, number), SIGNATURE_FIELD: attested}

            entry = self.ledger.append(VERDICT, compose)
            self._history.add(entry)
            if assessment.approved and self._history.incumbent_digest == offer.digest:
                self._incumbent = offer.digest, artifact
            try:
                self.forget_what_no_verdict_needs(config.evidence_bytes_max)
            except CustodyError as error:
                # It is decided by now, and must not look as if it were not.
                _log.warning("%s; the next verdict tries again", error)
        return statement_in(entry.fields)

    def _check_begun(self, offer: Offer, assessment: Assessment) -> None:
        begun = self._history.under_way
        if (None if begun is None else begun.artifact_digest) != (None if assessment.level is None else offer.digest):
            what = "no evaluation is under way" if begun is None else f"evaluation {begun.number} has not ended"
            raise LedgerError(f"{what}: a verdict on {offer.digest.hex()} cannot be entered, nothing was decided")

    def _check_commitment(self) -> None:
        """Raises LedgerError unless the next key, or that of the evaluation under way, is the one committed to."""
        number = self._history.evaluations + 1
        if seed_commitment(self.seed_key(number)) != self._history.seed_commitment:
            raise LedgerError(
                f"the ledger commits to another key for evaluation {number} than follows from the secret in "
                f"{self.custody.keys.place}: one of them was edited; restore it"
            )

    def _keep(self, offer: Offer, artifact: bytes, assessment: Assessment, rule: Rule, lanes: int) -> bytes:
        """Keeps what the verdict will name; the digest of its evidence, b"" where nothing was run."""
        if assessment.level is None:
            return b""
        if assessment.approved:
            self.custody.keep_incumbent(artifact)
        else:
            self._evidence.keep_candidate(artifact)
        key = self.seed_key(self._history.evaluations + 1)
        evidence = compose_evidence(offer, assessment, assessment.level, rule, lanes=lanes, seed_key=key)
        return self._evidence.write(evidence)

    def _alarms(self, assessment: Assessment, rule: Rule) -> Sequence[str]:
        counts = [slice_counts(each) for each in assessment.slices]
        alarms = divergence_alarms(self._history.recent, rule.suite_digest, counts, rule.suite.error_rate)
        for alarm in alarms:
            _log.warning("alarm: %s", alarm)
        return alarms

    def revoke(self, run_id: str, release_number: int, why: str) -> common_pb2.SignedStatement:
        """The signed revocation of a release, which by then is in the ledger; of one revoked before, that of then.

        Raises:
          RevocationRefused: it is another run's, there is no reason, or there are too many revocations.
          UnknownRelease: there is no release of this number.
          LedgerError: it could not be written.
        """
        self._check_run(run_id)
        why = checked_why(why)
        with self._lock:
            digest = self._history.released(release_number)
            if digest is None:
                count = self._history.approved
                known = f"1 to {count}" if count else "none"
                raise UnknownRelease(f"there is no release {release_number}; releases there are: {known}")
            past = self._history.revocation(digest)
            if past is not None:
                return past.signed
            number = len(self._history.revocations) + 1
            if number > REVOCATIONS_MAX:
                raise RevocationRefused(
                    f"{REVOCATIONS_MAX} releases of this run are revoked, no more can be: end the run"
                )

            def compose(previous: bytes) -> Mapping[str, Any]:
                statement = safety_pb2.RevocationStatement(
                    run_id=run_id,
                    revocation_number=number,
                    release_number=release_number,
                    artifact_digest=digest,
                    why=why,
                    issue_time_ns=self._clock(),
                    previous_entry_digest=previous,
                )
                payload = statement.SerializeToString(deterministic=True)
                return revocation_fields(self.custody.sign(REVOCATION_TYPE, payload), statement)

            entry = self.ledger.append(REVOCATION, compose)
            self._history.add(entry)
        return statement_in(entry.fields)

    def revocations(
        self, run_id: str, after_number: int, limit: int
    ) -> tuple[Sequence[common_pb2.SignedStatement], int]:
        """A page of the revocations with a number above `after_number`, ascending, and the number of the newest of all.

        At most `limit` of them (0: a page), and never more than a page. Raises RevocationRefused for another run.
        """
        self._check_run(run_id)
        with self._lock:
            listed = self._history.revocations_after(after_number, min(limit or PAGE_REVOCATIONS, PAGE_REVOCATIONS))
            return listed, len(self._history.revocations)

    def promote(
        self, release_number: int, *, episodes: int, violating_episodes: int, why: str
    ) -> common_pb2.SignedStatement:
        """The signed promotion of a canary, which by then is in the ledger; of one promoted before, that of then.

        Args:
          release_number: of the canary.
          episodes, violating_episodes: of it, that this rests on.
          why: for people.

        Raises:
          PromotionRefused: it is no canary that waits to be decided, or there are too many promotions.
          LedgerError: it could not be written.
        """
        with self._lock:
            past = self._history.promotion(release_number)
            if past is not None:
                return past.signed
            canary = self._history.canary
            if canary is None or canary.release_number != release_number:
                raise PromotionRefused(f"release {release_number} is no canary that waits to be decided")
            number, digest = len(self._history.promotions) + 1, canary.artifact_digest
            if number > PROMOTIONS_MAX:
                raise PromotionRefused(f"{PROMOTIONS_MAX} canaries of this run are promoted, no more can be")

            def compose(previous: bytes) -> Mapping[str, Any]:
                statement = safety_pb2.PromotionStatement(
                    run_id=self._run_id,
                    promotion_number=number,
                    release_number=release_number,
                    artifact_digest=digest,
                    episodes=episodes,
                    violating_episodes=violating_episodes,
                    why=why,
                    issue_time_ns=self._clock(),
                    previous_entry_digest=previous,
                )
                payload = statement.SerializeToString(deterministic=True)
                return promotion_fields(self.custody.sign(PROMOTION_TYPE, payload), statement)

            entry = self.ledger.append(PROMOTION, compose)
            self._history.add(entry)
        return statement_in(entry.fields)

    def promotions(
        self, run_id: str, after_number: int, limit: int
    ) -> tuple[Sequence[common_pb2.SignedStatement], int]:
        """A page of the promotions, as `revocations` of those. Raises PromotionRefused for another run."""
        if run_id != self._run_id:
            raise PromotionRefused(f"run_id is {run_id!r}, these are the releases of run {self._run_id!r} only")
        with self._lock:
            listed = self._history.promotions_after(after_number, min(limit or PAGE_PROMOTIONS, PAGE_PROMOTIONS))
            return listed, len(self._history.promotions)

    def last_release(self) -> tuple[int, bytes]:
        """Number and digest of the newest release that stands for all actors; (0, b"") where there is none."""
        with self._lock:
            return self._history.incumbent_number, self._history.incumbent_digest

    def close(self) -> None:
        """Frees the directory, once an entry being written is written."""
        self.ledger.close()

    def _check_run(self, run_id: str) -> None:
        if run_id != self._run_id:
            raise RevocationRefused(f"run_id is {run_id!r}, these are the releases of run {self._run_id!r} only")

    def _open_custody(self, directory: Path, keys: Path | None) -> Custody:
        entries = self.ledger.entries()
        custody = Custody(directory, self._run_id, entries, keys)
        commitment = seed_commitment(seed_key(custody.secret, self._run_id, 1)).hex()
        opened = next((entry for entry in entries if entry.kind == OPENED), None)
        if opened is None:
            identity = {"run_id": self._run_id, "seed_commitment": commitment, **custody.opening(self._clock())}
            custody.follow(self.ledger.append(OPENED, lambda _: identity))
        elif opened.fields.get("seed_commitment") != commitment:
            raise CustodyError(
                f"the secret in {custody.keys.place} is not the one that the ledger in {directory} has committed to: "
                "restore that one"
            )
        return custody
