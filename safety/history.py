"""What the ledger says of past decisions: verdicts, revocations and promotions, which release is the incumbent, what
was judged. Which evaluations the verdicts belong to is for safety.begun_evaluations to see.

Read from the entries when the service starts, each verified against the key that was current there and against the
chain, and kept up with each decision since. It writes nothing. For one thread at a time.

Exceptions: LedgerError where an entry's statement is not one that this service signed at this place.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from policies.signing import PROMOTION_TYPE, REVOCATION_TYPE, VERDICT_TYPE, SignatureError, VerifyKey
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.alarms import EVALUATIONS_LOOKED_AT
from safety.begun_evaluations import BegunEvaluation, BegunEvaluations, KnownSchedule, RuleChange
from safety.evidence.store import Kept
from safety.in_toto import SIGNATURE_FIELD, EnvelopeError, check_in_toto
from safety.keys.history import OPENED, KeyHistory
from safety.ledger import LedgerEntry, LedgerError
from safety.promotions import promotion_fields
from safety.revocations import revocation_fields
from safety.verdicts import ledger_fields, statement_in

VERDICT = "verdict"
REVOCATION = "revocation"
PROMOTION = "promotion"
"""Kinds of the ledger entries that hold verdicts, revocations and promotions."""

_Statement = TypeVar("_Statement", bound=Message)


class PastRevocation(NamedTuple):
    """A release taken back, as it was signed and what it says."""

    signed: common_pb2.SignedStatement
    statement: safety_pb2.RevocationStatement


class PastPromotion(NamedTuple):
    """A canary that may act everywhere since, as it was signed and what it says."""

    signed: common_pb2.SignedStatement
    statement: safety_pb2.PromotionStatement


class VerdictCounts(NamedTuple):
    """How many candidates got which verdict; together they are all that got one."""

    approved: int
    deferred: int
    rejected: int
    void: int


class DecisionHistory:
    """Past verdicts, revocations and promotions, oldest first.

    Args:
      entries: the ledger's.
      key: the first verdict key; that one must have signed them, or one that took its place.
      run_id: that they must be about.
      known: how the candidates share the run's error rate, where that is known; see `BegunEvaluations`.

    Attributes:
      keys: which signed when.
    """

    def __init__(
        self, entries: Iterable[LedgerEntry], key: VerifyKey, run_id: str, known: KnownSchedule | None = None
    ) -> None:
        self.deferred_in_a_row = 0
        self._begun = BegunEvaluations(run_id, known)
        self._outcomes: collections.Counter[int] = collections.Counter()
        self._kept: list[Kept] = []
        self._recent: collections.deque[safety_pb2.VerdictStatement] = collections.deque(maxlen=EVALUATIONS_LOOKED_AT)
        self._released: list[bytes] = []
        self._revocations: dict[bytes, PastRevocation] = {}
        # By number of the release.
        self._canaries: dict[int, safety_pb2.VerdictStatement] = {}
        self._promotions: dict[int, PastPromotion] = {}
        self._statements: list[common_pb2.SignedStatement] = []
        self._judged: dict[bytes, tuple[common_pb2.SignedStatement, safety_pb2.VerdictStatement]] = {}
        self.keys = KeyHistory(key, run_id)
        self._run_id = run_id
        for entry in entries:
            self.add(entry)

    @property
    def approved(self) -> int:
        """Approved verdicts so far: as many as there are releases, the revoked ones included."""
        return len(self._released)

    @property
    def counts(self) -> VerdictCounts:
        """Verdicts so far."""
        deferred, void = (self._outcomes[one] for one in (safety_pb2.OUTCOME_DEFERRED, safety_pb2.OUTCOME_VOID))
        return VerdictCounts(self.approved, deferred, len(self._statements) - self.approved - deferred - void, void)

    @property
    def evaluations(self) -> int:
        """Those that have ended, with a verdict or broken off; the next, or the one under way, has the number after."""
        return self._begun.ended

    @property
    def broken_off(self) -> int:
        """Evaluations that were begun and never got a verdict."""
        return self._begun.broken_off

    @property
    def under_way(self) -> BegunEvaluation | None:
        """The newest evaluation, where it has not ended."""
        return self._begun.under_way

    @property
    def rule_changes(self) -> Sequence[RuleChange]:
        """Where the criteria or the suite became others, oldest first."""
        return self._begun.changes

    @property
    def seed_commitment(self) -> bytes:
        """To the key of the next evaluation, or of the one under way (32 bytes)."""
        return self._begun.commitment

    @property
    def approvals(self) -> Sequence[bool]:
        """Of every candidate that was tested, whether it was approved; one broken off was not."""
        return self._begun.approvals

    @property
    def recent(self) -> Sequence[safety_pb2.VerdictStatement]:
        """The last verdicts on candidates that were tested, oldest first."""
        return list(self._recent)

    @property
    def kept(self) -> Sequence[Kept]:
        """What evidence and artifacts belong to the verdicts, newest first."""
        standing = set(self.standing)
        return [each._replace(standing=each.released in standing) for each in reversed(self._kept)]

    @property
    def standing(self) -> Sequence[bytes]:
        """Artifact digests of the releases that are not revoked, newest first; a canary's may be the first."""
        return [digest for digest in reversed(self._released) if digest not in self._revocations]

    @property
    def incumbent_digest(self) -> bytes:
        """That of the newest release that may act everywhere, neither revoked nor a canary; b"" where there is none."""
        number = self.incumbent_number
        return self._released[number - 1] if number else b""

    @property
    def incumbent_number(self) -> int:
        """Number of that release; 0 where there is none. An artifact may be released twice, and be a canary later."""
        for number in range(self.approved, 0, -1):
            everywhere = number not in self._canaries or number in self._promotions
            if everywhere and self._released[number - 1] not in self._revocations:
                return number
        return 0

    @property
    def canary(self) -> safety_pb2.VerdictStatement | None:
        """The verdict of the newest release that is not revoked, if it is a canary still; None otherwise."""
        for number in range(self.approved, 0, -1):
            if self._released[number - 1] not in self._revocations:
                return None if number in self._promotions else self._canaries.get(number)
        return None

    @property
    def promotions(self) -> Sequence[PastPromotion]:
        """All of them, oldest first."""
        return list(self._promotions.values())

    def promotions_after(self, number: int, limit: int) -> list[common_pb2.SignedStatement]:
        """The promotions with a number above `number`, ascending, at most `limit`."""
        first = min(number, len(self._promotions))
        return [past.signed for past in itertools.islice(self._promotions.values(), first, first + limit)]

    def promotion(self, release_number: int) -> PastPromotion | None:
        """The promotion of a release, if there is one."""
        return self._promotions.get(release_number)

    @property
    def revocations(self) -> Sequence[PastRevocation]:
        """All of them, oldest first."""
        return list(self._revocations.values())

    def revocations_after(self, number: int, limit: int) -> list[common_pb2.SignedStatement]:
        """The revocations with a number above `number`, ascending, at most `limit`."""
        first = min(number, len(self._revocations))
        # Numbers ascend from 1 without gaps, so that many come before.
        return [past.signed for past in itertools.islice(self._revocations.values(), first, first + limit)]

    def released(self, release_number: int) -> bytes | None:
        """Artifact digest of a release, revoked or not; None where there is none of this number."""
        return self._released[release_number - 1] if 1 <= release_number <= len(self._released) else None

    def revocation(self, digest: bytes) -> PastRevocation | None:
        """The revocation of an artifact (32-byte digest), if there is one."""
        return self._revocations.get(digest)

    def add(self, entry: LedgerEntry) -> None:
        """Takes an entry into account; raises LedgerError unless its statement is the one that must stand there."""
        if entry.kind == OPENED:
            self._begun.commitment = _first_commitment(entry)
        self.keys.add(entry)
        self._begun.add(entry)
        if entry.kind == VERDICT:
            self._add_verdict(entry)
        elif entry.kind == REVOCATION:
            self._add_revocation(entry)
        elif entry.kind == PROMOTION:
            self._add_promotion(entry)

    def recorded(
        self, digest: bytes, criteria_digest: bytes, suite_digest: bytes, now_ns: int
    ) -> common_pb2.SignedStatement | None:
        """The verdict that stands for an artifact (32-byte digest), if it has been judged by this rule and suite.

        An artifact that has been judged by the criteria is not judged again, deferred ones included: with fresh seeds
        for every attempt, a bad one would pass at last. One that could not be judged, because it failed or because the
        evaluation was void, whose approval has expired, or that was judged before the settings or the environment
        changed, may be offered again; it then uses up another share of the error rate. For one that was revoked no
        verdict stands.
        """
        if digest not in self._judged or digest in self._revocations:
            return None
        signed, statement = self._judged[digest]
        if (statement.criteria_digest, statement.suite_digest) != (criteria_digest, suite_digest):
            return None
        return None if statement.approved and now_ns >= statement.expiry_time_ns else signed

    def newest(self, limit: int) -> list[common_pb2.SignedStatement]:
        """Verdicts, newest first, at most `limit` (0: all)."""
        statements = self._statements[-limit:] if limit else self._statements
        return statements[::-1]

    def _add_verdict(self, entry: LedgerEntry) -> None:
        signed, statement = self._opened(entry, VERDICT_TYPE, safety_pb2.VerdictStatement())
        expected = ledger_fields(signed, statement, self.evaluations + 1)
        numbered = statement.release_number == (self.approved + 1 if statement.approved else 0)
        fields = {name: value for name, value in entry.fields.items() if name != SIGNATURE_FIELD}
        if fields != expected or statement.previous_entry_digest != entry.previous or not numbered:
            raise LedgerError(f"ledger entry {entry.index} does not say what its verdict says, or stands out of place")
        try:
            check_in_toto(self.keys.verdict_keys[-1], statement, entry.fields.get(SIGNATURE_FIELD))
        except EnvelopeError as error:
            raise LedgerError(f"ledger entry {entry.index}: {error}") from error
        self._check_run(entry, statement.run_id)
        self._check_outcome(entry, statement)
        self._begun.take_verdict(entry, statement)
        if statement.approved:
            self._released.append(statement.artifact_digest)
            if statement.canary_share != 0.0:
                self._canaries[self.approved] = statement
        self._outcomes[statement.outcome] += 1
        self._statements.append(signed)
        self._kept.append(_kept(statement))
        if statement.lifetime_index:
            self._recent.append(statement)
            self.deferred_in_a_row = statement.deferred_in_a_row
        if statement.criteria and statement.outcome != safety_pb2.OUTCOME_VOID:
            self._judged[statement.artifact_digest] = signed, statement

    def _check_outcome(self, entry: LedgerEntry, statement: safety_pb2.VerdictStatement) -> None:
        """Raises LedgerError unless the outcome is one that a candidate can have there, tested or not."""
        deferred = statement.outcome == safety_pb2.OUTCOME_DEFERRED
        tested = statement.lifetime_index != 0
        consistent = (
            statement.approved == (statement.outcome == safety_pb2.OUTCOME_APPROVED)
            and (0.0 < statement.error_level < 1.0) == tested
            and (tested or not (statement.approved or deferred or statement.episodes))
            and statement.deferred_in_a_row == (self.deferred_in_a_row + 1 if deferred else 0)
        )
        if not consistent:
            raise LedgerError(
                f"ledger entry {entry.index} is not what can come after {len(self.approvals)} tested candidates: "
                f"outcome {statement.outcome}, candidate {statement.lifetime_index}, error rate "
                f"{statement.error_level:g}, deferred {statement.deferred_in_a_row}"
            )

    def _add_revocation(self, entry: LedgerEntry) -> None:
        signed, statement = self._opened(entry, REVOCATION_TYPE, safety_pb2.RevocationStatement())
        numbered = statement.revocation_number == len(self._revocations) + 1
        if (
            entry.fields != revocation_fields(signed, statement)
            or statement.previous_entry_digest != entry.previous
            or self.released(statement.release_number) != statement.artifact_digest
            or not numbered
        ):
            raise LedgerError(
                f"ledger entry {entry.index} does not say what its revocation says, or stands out of place"
            )
        self._check_run(entry, statement.run_id)
        self._revocations[statement.artifact_digest] = PastRevocation(signed, statement)

    def _add_promotion(self, entry: LedgerEntry) -> None:
        signed, statement = self._opened(entry, PROMOTION_TYPE, safety_pb2.PromotionStatement())
        canary = self.canary
        if (
            entry.fields != promotion_fields(signed, statement)
            or statement.previous_entry_digest != entry.previous
            or canary is None
            or canary.release_number != statement.release_number
            or canary.artifact_digest != statement.artifact_digest
            or statement.promotion_number != len(self._promotions) + 1
        ):
            raise LedgerError(
                f"ledger entry {entry.index} does not say what its promotion says, or stands out of place"
            )
        self._check_run(entry, statement.run_id)
        self._promotions[statement.release_number] = PastPromotion(signed, statement)

    def _opened(
        self, entry: LedgerEntry, payload_type: str, statement: _Statement
    ) -> tuple[common_pb2.SignedStatement, _Statement]:
        try:
            signed = statement_in(entry.fields)
            statement.ParseFromString(self.keys.verify(signed, payload_type))
        except (SignatureError, DecodeError, ValueError, KeyError, TypeError) as error:
            key_id = self.keys.verdict_keys[-1].key_id
            raise LedgerError(
                f"ledger entry {entry.index} holds no {entry.kind} signed by {key_id}: {error}"
            ) from error
        return signed, statement

    def _check_run(self, entry: LedgerEntry, run_id: str) -> None:
        if run_id != self._run_id:
            raise LedgerError(f"ledger entry {entry.index} is about run {run_id!r}, not {self._run_id!r}")


def _kept(statement: safety_pb2.VerdictStatement) -> Kept:
    tested = statement.lifetime_index != 0
    return Kept(
        statement.evidence_digest,
        candidate=statement.artifact_digest if tested and not statement.approved else b"",
        released=statement.artifact_digest if statement.approved else b"",
    )


def _first_commitment(entry: LedgerEntry) -> bytes:
    try:
        return bytes.fromhex(entry.fields["seed_commitment"])
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(
            f"ledger entry {entry.index} commits to no seeds: an older version began this ledger; start a new run"
        ) from error
