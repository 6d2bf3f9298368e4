"""Everything that has been decided about one run, and what deciding needs: ledger, keys, history and the incumbent.

What is decided is written here and nowhere else: verdicts by the gate, promotions of canaries by who watches them
(safety.canary), revocations by both or, where no safety service runs, by whoever opens the directory in its place. Only
one process at a time can. Evaluates nothing.

A release that is revoked is the incumbent no longer: the newest one that is left takes its place, so the artifacts of
earlier releases are kept. Numbers of releases go on ascending. An artifact that was revoked is never approved again.
A release that is a canary is no incumbent until it is promoted, and there is one at a time: who judges candidates asks
`undecided_canary` first.

Exceptions: RevocationRefused (safety.revocations), PromotionRefused (safety.promotions); LedgerError, CustodyError:
nothing was decided.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.signing import PROMOTION_TYPE, REVOCATION_TYPE, VERDICT_TYPE, VerifyKey, sign
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.custody import Custody, CustodyError
from safety.history import OPENED, PROMOTION, REVOCATION, VERDICT, DecisionHistory
from safety.ledger import Ledger
from safety.promotions import PAGE_PROMOTIONS, PROMOTIONS_MAX, PromotionRefused, promotion_fields
from safety.revocations import (
    PAGE_REVOCATIONS,
    REVOCATIONS_MAX,
    RevocationRefused,
    UnknownRelease,
    checked_why,
    revocation_fields,
)
from safety.suite import seed_commitment, seed_key
from safety.verdicts import Assessment, Offer, Rule, SeedDisclosure, compose_statement, ledger_fields, statement_in


class Docket:
    """The decisions about one run, open for writing; for any number of threads.

    Args:
      directory: the safety service's own; must exist.
      run_id: the training run.
      clock: present time in ns since the epoch.

    Raises:
      LedgerError, CustodyError: the directory cannot be trusted, or another process has it open.
    """

    def __init__(self, directory: Path, run_id: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._run_id, self._clock = run_id, clock
        self._lock = threading.RLock()
        self._incumbent: tuple[bytes, bytes | None] = (b"", None)
        self.ledger = Ledger(directory, clock)
        try:
            self.custody = self._open_custody(directory)
            self._history = DecisionHistory(self.ledger.entries(), self.verify_key, run_id)
        except BaseException:
            self.ledger.close()
            raise

    @property
    def verify_key(self) -> VerifyKey:
        """The key that verifies what is decided here."""
        return self.custody.signing_key.verify_key

    @property
    def counts(self) -> tuple[int, int]:
        """Approved and rejected verdicts so far."""
        with self._lock:
            return self._history.approved, self._history.rejected

    @property
    def evaluations(self) -> int:
        """Verdicts so far; the next evaluation has the number after it."""
        with self._lock:
            return self._history.evaluations

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

    def forget_what_never_was_released(self) -> None:
        """Removes the artifacts of candidates whose verdict was never written, and of releases that were revoked."""
        with self._lock:
            self.custody.forget_incumbents_except(self._history.standing)

    def record(
        self,
        offer: Offer,
        artifact: bytes,
        assessment: Assessment,
        rule: Rule,
        validity_s: float,
        *,
        canary_share: float = 0.0,
    ) -> common_pb2.SignedStatement:
        """Signs a verdict and puts it in the ledger; what passed is kept first, as the incumbent to come.

        With a `canary_share`, what passed becomes a canary of that share of the actors.
        """

        def compose(previous: bytes) -> Mapping[str, Any]:
            number = self._history.evaluations + 1
            statement = compose_statement(
                offer,
                assessment,
                rule,
                seeds=SeedDisclosure(self.seed_key(number), seed_commitment(self.seed_key(number + 1))),
                release_number=self._history.approved + 1,
                previous_entry_digest=previous,
                issue_time_ns=self._clock(),
                validity_s=validity_s,
                canary_share=canary_share,
            )
            payload = statement.SerializeToString(deterministic=True)
            signed = sign(self.custody.signing_key, VERDICT_TYPE, payload)
            return ledger_fields(signed, statement, number)

        with self._lock:
            # It may have been revoked while it was evaluated once more.
            if objection := self.objection(offer.digest):
                assessment = Assessment(objection)
            if assessment.approved:
                self.custody.keep_incumbent(artifact)
            entry = self.ledger.append(VERDICT, compose)
            self._history.add(entry)
            if assessment.approved:
                if self._history.incumbent_digest == offer.digest:
                    self._incumbent = offer.digest, artifact
                self.forget_what_never_was_released()
        return statement_in(entry.fields)

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
                return revocation_fields(sign(self.custody.signing_key, REVOCATION_TYPE, payload), statement)

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
                return promotion_fields(sign(self.custody.signing_key, PROMOTION_TYPE, payload), statement)

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

    def close(self) -> None:
        """Frees the directory, once an entry being written is written."""
        self.ledger.close()

    def _check_run(self, run_id: str) -> None:
        if run_id != self._run_id:
            raise RevocationRefused(f"run_id is {run_id!r}, these are the releases of run {self._run_id!r} only")

    def _open_custody(self, directory: Path) -> Custody:
        opened = next((entry for entry in self.ledger.entries() if entry.kind == OPENED), None)
        custody = Custody(directory, first_start=opened is None)
        identity = {
            "run_id": self._run_id,
            "key_id": custody.signing_key.verify_key.key_id,
            "seed_commitment": seed_commitment(seed_key(custody.secret, self._run_id, 1)).hex(),
        }
        if opened is None:
            self.ledger.append(OPENED, lambda _: identity)
        elif opened.fields != identity:
            raise CustodyError(f"safety directory {directory} belongs to {dict(opened.fields)}, this is {identity}")
        return custody
