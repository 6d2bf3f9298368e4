"""From an assessment to evidence and to a verdict statement, and from a signed one to text for people. Signs and stores
nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.criteria import OUTCOMES, criterion_result
from safety.evidence.counts import (
    detector_calibration,
    return_interval,
    seeds_digest,
    slice_counts,
    violating_episodes,
)
from safety.evidence.file import Evidence, SliceEvidence
from safety.statistics.combination import Combination, Outcome
from safety.statistics.findings import Finding
from safety.suites.spec import SuiteSpec
from safety.trials.levels import Level


@dataclasses.dataclass(frozen=True)
class Offer:
    """A candidate as it was offered.

    Attributes:
      run_id: training run that made it.
      version: learner update count.
      digest: digest of its artifact (32 bytes).
      total_bytes: size of its artifact.
      lineage_digest: digest of its lineage, as the learner keeps it (32 bytes); b"" where there is none.
    """

    run_id: str
    version: int
    digest: bytes
    total_bytes: int
    lineage_digest: bytes = b""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What was evaluated and by which rule.

    Attributes:
      criteria_digest, suite_digest: see `safety.suites.manifest` (32 bytes each).
      suite: what they are the digests of, but for what its environments turned out to be.
    """

    criteria_digest: bytes
    suite_digest: bytes
    suite: SuiteSpec


@dataclasses.dataclass(frozen=True)
class SeedDisclosure:
    """What a verdict makes known of held-out seeds; see `safety.suites.manifest`.

    Attributes:
      key: that this evaluation's were drawn from (32 bytes).
      next_commitment: to the key of the next evaluation's (32 bytes).
    """

    key: bytes
    next_commitment: bytes


@dataclasses.dataclass(frozen=True)
class Assessment:
    """How an evaluation came out.

    Attributes:
      failure: why the candidate could not be judged; "" where it was.
      level: what it was tested at; None where nothing was run on its account.
      combination: the decision; None where it could not be judged.
      slices: what was run, also where it ended in a failure.
      incumbent_digest: artifact it was compared with (32 bytes), or b"".
    """

    failure: str
    level: Level | None = None
    combination: Combination | None = None
    slices: tuple[SliceEvidence, ...] = ()
    incumbent_digest: bytes = b""

    @property
    def findings(self) -> Sequence[Finding]:
        """What it was judged by; none where it could not be judged."""
        return () if self.failure or self.combination is None else self.combination.findings

    @property
    def outcome(self) -> Outcome:
        """What becomes of the candidate. APPROVED only where it was tested and judged, and every finding passed."""
        if self.failure or self.combination is None or self.level is None:
            return Outcome.REJECTED
        passed = len(self.findings) > 0 and all(finding.passed for finding in self.findings)
        if self.combination.outcome is Outcome.APPROVED and not passed:
            return Outcome.REJECTED
        return self.combination.outcome

    @property
    def approved(self) -> bool:
        """Whether it is released."""
        return self.outcome is Outcome.APPROVED

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not approved, one sentence each; none where it is."""
        if self.failure or self.combination is None:
            return (self.failure or "nothing was found out",)
        return self.combination.reasons or (() if self.approved else ("not every criterion passed",))

    @property
    def deferred_in_a_row(self) -> int:
        """Candidates deferred in a row, this one included; 0 where it is not deferred."""
        if self.combination is None or self.outcome is not Outcome.DEFERRED:
            return 0
        return self.combination.deferred_in_a_row


def compose_evidence(
    offer: Offer, assessment: Assessment, level: Level, rule: Rule, *, lanes: int, seed_key: bytes
) -> Evidence:
    """What the verdict will rest on.

    Args:
      offer, assessment, rule: what was offered, how it came out, and by which rule.
      level: what it was tested at.
      lanes: rows of an environment.
      seed_key: that the seeds were drawn from (32 bytes).
    """
    return Evidence(
        run_id=offer.run_id,
        version=offer.version,
        artifact_digest=offer.digest,
        incumbent_digest=assessment.incumbent_digest,
        suite_digest=rule.suite_digest,
        criteria_digest=rule.criteria_digest,
        seed_key=seed_key,
        lifetime_index=level.index,
        error_level=level.alpha,
        lanes=lanes,
        action_selection=rule.suite.action_selection,
        severity=rule.suite.severity,
        suite=rule.suite.name,
        slices=assessment.slices,
        findings=tuple(assessment.findings),
        outcome=assessment.outcome,
        reasons=assessment.reasons,
    )


def compose_statement(
    offer: Offer,
    assessment: Assessment,
    rule: Rule,
    *,
    seeds: SeedDisclosure,
    evidence_digest: bytes,
    alarms: Sequence[str],
    release_number: int,
    previous_entry_digest: bytes,
    issue_time_ns: int,
    validity_s: float,
    canary_share: float,
) -> safety_pb2.VerdictStatement:
    """The statement to sign.

    Args:
      offer, assessment, rule: what was offered, how it came out, and by which rule.
      seeds: what becomes known of the seeds.
      evidence_digest: of the evidence (32 bytes); b"" where nothing was run.
      alarms: what a person should look at.
      release_number: number the release would get; used only where the candidate is approved.
      previous_entry_digest: digest of the ledger entry before this verdict's (32 bytes).
      issue_time_ns: ns since the epoch.
      validity_s: how long the verdict is valid (s).
      canary_share: share of the actors that act with the release until it is promoted; 0: all of them.
    """
    interval = return_interval(assessment.slices)
    statement = safety_pb2.VerdictStatement(
        # The entry before is no other verdict's, so this is no other verdict's id.
        verdict_id=hashlib.sha256(b"temper.verdict-id.v1\n" + previous_entry_digest + offer.digest).hexdigest()[:32],
        run_id=offer.run_id,
        version=offer.version,
        artifact_digest=offer.digest,
        approved=assessment.approved,
        reason="; ".join(assessment.reasons),
        release_number=release_number if assessment.approved else 0,
        criteria=[criterion_result(finding) for finding in assessment.findings],
        criteria_digest=rule.criteria_digest,
        suite_digest=rule.suite_digest,
        seed_manifest_digest=seeds_digest(assessment.slices),
        episodes=sum(len(each.seeds) for each in assessment.slices),
        violating_episodes=violating_episodes(assessment.slices),
        return_mean=interval.mean,
        return_ci95_low=interval.low,
        return_ci95_high=interval.high,
        issue_time_ns=issue_time_ns,
        expiry_time_ns=issue_time_ns + round(validity_s * 1e9),
        previous_entry_digest=previous_entry_digest,
        incumbent_digest=assessment.incumbent_digest,
        seed_key=seeds.key,
        next_seed_commitment=seeds.next_commitment,
        outcome=OUTCOMES[assessment.outcome],
        evidence_digest=evidence_digest,
        slices=[slice_counts(each) for each in assessment.slices],
        lineage_digest=offer.lineage_digest,
        canary_share=canary_share if assessment.approved else 0.0,
        deferred_in_a_row=assessment.deferred_in_a_row,
        alarms=alarms,
    )
    if assessment.level is not None:
        statement.lifetime_index, statement.error_level = assessment.level.index, assessment.level.alpha
        statement.detector.CopyFrom(detector_calibration(assessment.slices))
    return statement


def ledger_fields(
    signed: common_pb2.SignedStatement, statement: safety_pb2.VerdictStatement, evaluation: int
) -> Mapping[str, Any]:
    """A verdict's fields in the ledger: the signed statement whole, and beside it what a person wants to read."""
    return {
        "evaluation": evaluation,
        "statement": base64.b64encode(signed.SerializeToString(deterministic=True)).decode(),
        "verdict_id": statement.verdict_id,
        "run_id": statement.run_id,
        "version": statement.version,
        "artifact_digest": statement.artifact_digest.hex(),
        "approved": statement.approved,
        "outcome": outcome_name(statement),
        "reason": statement.reason,
        "release_number": statement.release_number,
        "lifetime_index": statement.lifetime_index,
        "error_level": _number(statement.error_level),
        "episodes": statement.episodes,
        "violating_episodes": statement.violating_episodes,
        "return_mean": _number(statement.return_mean),
        "return_ci95": [_number(statement.return_ci95_low), _number(statement.return_ci95_high)],
        "criteria": [
            {
                "name": result.name,
                "slice": result.slice,
                "passed": result.passed,
                "statistic": _number(result.statistic),
                "limit": _number(result.limit),
                "estimate": _number(result.estimate),
                "episodes": result.episodes,
                "explanation": result.explanation,
            }
            for result in statement.criteria
        ],
        "criteria_digest": statement.criteria_digest.hex(),
        "suite_digest": statement.suite_digest.hex(),
        "seed_manifest_digest": statement.seed_manifest_digest.hex(),
        "incumbent_digest": statement.incumbent_digest.hex(),
        "lineage_digest": statement.lineage_digest.hex(),
        "evidence_digest": statement.evidence_digest.hex(),
        "canary_share": _number(statement.canary_share),
        "alarms": list(statement.alarms),
        "seed_key": statement.seed_key.hex(),
        "next_seed_commitment": statement.next_seed_commitment.hex(),
    }


def statement_in(fields: Mapping[str, Any]) -> common_pb2.SignedStatement:
    """The signed statement in a ledger entry's fields; raises ValueError, KeyError or DecodeError where it is none."""
    return common_pb2.SignedStatement.FromString(base64.b64decode(fields["statement"], validate=True))


def outcome_name(statement: safety_pb2.VerdictStatement) -> str:
    """What became of the candidate, in a word: "approved", "deferred", "rejected" or "void"; "unknown" otherwise."""
    names = {number: outcome.value for outcome, number in OUTCOMES.items()}
    return names.get(statement.outcome, "unknown")


def _number(value: float) -> float | None:
    # JSON has no infinities; the statement beside it has the value itself.
    return value if math.isfinite(value) else None
