"""Which evaluations were begun, and that each used up a number, a key and an error level, whatever became of it.

Before the first episode of a candidate is run, an entry "evaluation" is in the ledger, and synced:

    evaluation           number, from 1 without gaps; the key of its seeds follows from it (safety.suites.manifest)
    run_id, version, artifact_digest
                         the candidate
    lifetime_index, error_level
                         which tested candidate of the run it is, and at which error rate it is tested
    criteria_digest, suite_digest
                         by which rule, and on what
    next_seed_commitment to the key of the evaluation after it

It ends with the verdict of that number, or with an entry "broken_off": of an evaluation under which the safety service
was killed, closed, or failed. That one reveals the key as the verdict would have, and nothing of the three is given
back: so it cannot be chosen which evaluations count. A candidate on whose account nothing is run has no such entry; its
verdict takes a number and a key by itself, and no error level.

    evaluation           number
    seed_key             of its seeds

Neither is signed. What stands before a verdict is what the verdict names as the entry before it, and so on back; and
nobody but who has the secret can say keys that fit. Read from the entries, written by safety.docket.

Exceptions: LedgerError for an entry that skips or repeats a number, or a verdict that belongs to no evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from protos.safety.v1 import safety_pb2
from safety.ledger import LedgerEntry, LedgerError
from safety.suites.manifest import seed_commitment
from safety.trials.levels import Schedule

EVALUATION = "evaluation"
BROKEN_OFF = "broken_off"
"""Kinds of the ledger entries that begin an evaluation, and that end one which has no verdict."""


class KnownSchedule(NamedTuple):
    """How candidates share the run's error rate under the criteria with this digest (32 bytes)."""

    criteria_digest: bytes
    schedule: Schedule


class BegunEvaluation(NamedTuple):
    """What an entry "evaluation" says; see the head of this module. Digests and commitment have 32 bytes."""

    number: int
    run_id: str
    version: int
    artifact_digest: bytes
    lifetime_index: int
    error_level: float
    criteria_digest: bytes
    suite_digest: bytes
    next_commitment: bytes


class RuleChange(NamedTuple):
    """That an evaluation was not by the rule, or not on the suite, of the one before it.

    Attributes:
      entry: index of the ledger entry that began it.
      evaluation: its number.
      what: "criteria" or "suite".
      before, after: the digests (32 bytes).
    """

    entry: int
    evaluation: int
    what: str
    before: bytes
    after: bytes


class BegunEvaluations:
    """The evaluations of one run, oldest first, as the ledger tells.

    Args:
      run_id: the training run.
      known: where it is known, the error rate of each evaluation by these criteria is checked against it. The numbers
        of the candidates that were tested are checked in any case; they go on when the criteria change.

    Attributes:
      ended: numbers that are used up: by verdicts, and by evaluations that were broken off.
      broken_off: those of the latter.
      under_way: the evaluation that has neither; None where there is none.
      approvals: of every candidate that was tested, whether it was approved.
      changes: of the rule and of the suite.
      commitment: to the key of the evaluation with the number after `ended`; b"" before the ledger was opened.
    """

    def __init__(self, run_id: str, known: KnownSchedule | None) -> None:
        self._run_id, self._known = run_id, known
        self.ended = 0
        self.broken_off = 0
        self.under_way: BegunEvaluation | None = None
        self.approvals: list[bool] = []
        self.changes: list[RuleChange] = []
        self.commitment = b""
        self._rule: dict[str, bytes] = {}

    def add(self, entry: LedgerEntry) -> None:
        """Takes an entry into account; raises LedgerError where it is about evaluations and not what it must be."""
        if entry.kind == EVALUATION:
            self._begin(entry)
        elif entry.kind == BROKEN_OFF:
            self._break_off(entry)

    def take_verdict(self, entry: LedgerEntry, verdict: safety_pb2.VerdictStatement) -> None:
        """Ends an evaluation with its verdict; raises LedgerError where it is not that of the one under way."""
        if seed_commitment(verdict.seed_key) != self.commitment:
            raise LedgerError(
                f"ledger entry {entry.index} reveals another key of held-out seeds than was committed to before it"
            )
        begun, tested = self.under_way, verdict.lifetime_index != 0
        if begun is None and tested:
            raise LedgerError(
                f"ledger entry {entry.index} is a verdict on candidate {verdict.lifetime_index}, whose evaluation was "
                "never begun: an entry was taken out; or an older version wrote it, then start a new run"
            )
        if begun is not None and begun != _claimed(verdict, begun.number):
            raise LedgerError(
                f"ledger entry {entry.index} is not the verdict of evaluation {begun.number}, which was begun before "
                f"it: candidate {verdict.lifetime_index}, error rate {verdict.error_level:g} or another of its fields "
                "is not what was begun"
            )
        self.ended += 1
        self.under_way = None
        self.commitment = verdict.next_seed_commitment
        if tested:
            self.approvals.append(verdict.approved)

    def _begin(self, entry: LedgerEntry) -> None:
        begun = _begun_in(entry)
        number = self.ended + 1
        if self.under_way is not None or begun.number != number or begun.run_id != self._run_id:
            raise LedgerError(
                f"ledger entry {entry.index} begins evaluation {begun.number} of run {begun.run_id!r}: what can begin "
                f"there is {self._next()} of run {self._run_id!r}"
            )
        if begun.lifetime_index != len(self.approvals) + 1 or not 0.0 < begun.error_level < 1.0:
            raise LedgerError(
                f"ledger entry {entry.index} is not what can come after {len(self.approvals)} tested candidates: "
                f"candidate {begun.lifetime_index}, error rate {begun.error_level:g}"
            )
        if self._known is not None and begun.criteria_digest == self._known.criteria_digest:
            expected = self._known.schedule.alpha(self.approvals)
            if not math.isclose(begun.error_level, expected, rel_tol=1e-9):
                raise LedgerError(
                    f"ledger entry {entry.index} tests candidate {begun.lifetime_index} at the error rate "
                    f"{begun.error_level:g}, the schedule gives it {expected:g}"
                )
        self.under_way = begun
        for what, digest in (("criteria", begun.criteria_digest), ("suite", begun.suite_digest)):
            before = self._rule.setdefault(what, digest)
            if before != digest:
                self.changes.append(RuleChange(entry.index, number, what, before, digest))
                self._rule[what] = digest

    def _break_off(self, entry: LedgerEntry) -> None:
        begun, key = self.under_way, _key_in(entry)
        if begun is None or dict(entry.fields) != broken_off_fields(begun.number, key):
            raise LedgerError(
                f"ledger entry {entry.index} breaks off evaluation {entry.fields.get('evaluation')!r}, under way there "
                f"is {'none' if begun is None else begun.number}"
            )
        if seed_commitment(key) != self.commitment:
            raise LedgerError(
                f"ledger entry {entry.index} reveals another key of held-out seeds than was committed to before it"
            )
        self.ended += 1
        self.broken_off += 1
        self.under_way = None
        self.commitment = begun.next_commitment
        self.approvals.append(False)

    def _next(self) -> str:
        number = self.ended + 1
        return f"evaluation {number}" if self.under_way is None else f"none before evaluation {number} has ended"


def evaluation_fields(begun: BegunEvaluation) -> Mapping[str, Any]:
    """The fields of an entry by which an evaluation begins."""
    return {
        "evaluation": begun.number,
        "run_id": begun.run_id,
        "version": begun.version,
        "artifact_digest": begun.artifact_digest.hex(),
        "lifetime_index": begun.lifetime_index,
        "error_level": begun.error_level,
        "criteria_digest": begun.criteria_digest.hex(),
        "suite_digest": begun.suite_digest.hex(),
        "next_seed_commitment": begun.next_commitment.hex(),
    }


def broken_off_fields(number: int, seed_key: bytes) -> Mapping[str, Any]:
    """The fields of an entry that ends evaluation `number`; `seed_key` is what its seeds were drawn from."""
    return {"evaluation": number, "seed_key": seed_key.hex()}


def _begun_in(entry: LedgerEntry) -> BegunEvaluation:
    fields = entry.fields
    try:
        begun = BegunEvaluation(
            number=int(fields["evaluation"]),
            run_id=str(fields["run_id"]),
            version=int(fields["version"]),
            artifact_digest=bytes.fromhex(fields["artifact_digest"]),
            lifetime_index=int(fields["lifetime_index"]),
            error_level=float(fields["error_level"]),
            criteria_digest=bytes.fromhex(fields["criteria_digest"]),
            suite_digest=bytes.fromhex(fields["suite_digest"]),
            next_commitment=bytes.fromhex(fields["next_seed_commitment"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"ledger entry {entry.index} does not say what evaluation it begins: {error!r}") from error
    if dict(fields) != evaluation_fields(begun):
        raise LedgerError(f"ledger entry {entry.index} does not say what evaluation it begins, and that alone")
    return begun


def _key_in(entry: LedgerEntry) -> bytes:
    try:
        return bytes.fromhex(entry.fields["seed_key"])
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"ledger entry {entry.index} reveals no key of the evaluation it breaks off") from error


def _claimed(verdict: safety_pb2.VerdictStatement, number: int) -> BegunEvaluation:
    """What the entry that began evaluation `number` must have said for this to be its verdict."""
    return BegunEvaluation(
        number=number,
        run_id=verdict.run_id,
        version=verdict.version,
        artifact_digest=verdict.artifact_digest,
        lifetime_index=verdict.lifetime_index,
        error_level=verdict.error_level,
        criteria_digest=verdict.criteria_digest,
        suite_digest=verdict.suite_digest,
        next_commitment=verdict.next_seed_commitment,
    )
