"""From an assessment to a verdict statement, and from a signed one to text for people. Signs and stores nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.evaluation import EpisodeOutcomes
from safety.intervals import mean_interval


@dataclasses.dataclass(frozen=True)
class Offer:
    """A candidate as it was offered.

    Attributes:
      run_id: training run that made it.
      version: learner update count.
      digest: digest of its artifact (32 bytes).
      total_bytes: size of its artifact.
    """

    run_id: str
    version: int
    digest: bytes
    total_bytes: int


@dataclasses.dataclass(frozen=True)
class Rule:
    """Digests of what was evaluated and by which rule (32 bytes each); see `safety.suite`."""

    criteria_digest: bytes
    suite_digest: bytes
    seed_manifest_digest: bytes


@dataclasses.dataclass(frozen=True)
class SeedDisclosure:
    """What a verdict makes known of held-out seeds; see `safety.suite`.

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
      criteria: results; none where it could not be judged.
      outcomes: what its episodes came to; None where there are none.
      incumbent_digest: artifact it was compared with (32 bytes), or b"".
    """

    failure: str
    criteria: Sequence[safety_pb2.CriterionResult] = ()
    outcomes: EpisodeOutcomes | None = None
    incumbent_digest: bytes = b""

    @property
    def approved(self) -> bool:
        """Judged, by at least one criterion, and every one passed."""
        return not self.failure and len(self.criteria) > 0 and all(result.passed for result in self.criteria)

    @property
    def reason(self) -> str:
        """Why it is not approved; "" where it is."""
        if self.failure:
            return self.failure
        return "; ".join(f"{result.name}: {result.explanation}" for result in self.criteria if not result.passed)


def compose_statement(
    offer: Offer,
    assessment: Assessment,
    rule: Rule,
    *,
    seeds: SeedDisclosure,
    release_number: int,
    previous_entry_digest: bytes,
    issue_time_ns: int,
    validity_s: float,
    canary_share: float = 0.0,
) -> safety_pb2.VerdictStatement:
    """The statement to sign.

    Args:
      offer, assessment, rule: what was offered, how it came out, and by which rule.
      seeds: what becomes known of the seeds.
      release_number: number the release would get; used only where the candidate is approved.
      previous_entry_digest: digest of the ledger entry before this verdict's (32 bytes).
      issue_time_ns: ns since the epoch.
      validity_s: how long the verdict is valid (s).
      canary_share: share of the actors that act with the release until it is promoted; 0: all of them.
    """
    statement = safety_pb2.VerdictStatement(
        # The entry before is no other verdict's, so this is no other verdict's id.
        verdict_id=hashlib.sha256(b"temper.verdict-id.v1\n" + previous_entry_digest + offer.digest).hexdigest()[:32],
        run_id=offer.run_id,
        version=offer.version,
        artifact_digest=offer.digest,
        approved=assessment.approved,
        reason=assessment.reason,
        release_number=release_number if assessment.approved else 0,
        criteria=assessment.criteria,
        criteria_digest=rule.criteria_digest,
        suite_digest=rule.suite_digest,
        seed_manifest_digest=rule.seed_manifest_digest,
        issue_time_ns=issue_time_ns,
        expiry_time_ns=issue_time_ns + round(validity_s * 1e9),
        previous_entry_digest=previous_entry_digest,
        incumbent_digest=assessment.incumbent_digest,
        seed_key=seeds.key,
        next_seed_commitment=seeds.next_commitment,
        canary_share=canary_share if assessment.approved else 0.0,
    )
    if assessment.outcomes is not None:
        interval = mean_interval(assessment.outcomes.returns, 0.95)
        statement.episodes = len(assessment.outcomes.returns)
        statement.violating_episodes = assessment.outcomes.violating
        statement.return_mean = interval.mean
        statement.return_ci95_low = interval.low
        statement.return_ci95_high = interval.high
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
        "reason": statement.reason,
        "release_number": statement.release_number,
        "episodes": statement.episodes,
        "violating_episodes": statement.violating_episodes,
        "return_mean": _number(statement.return_mean),
        "return_ci95": [_number(statement.return_ci95_low), _number(statement.return_ci95_high)],
        "criteria": [
            {
                "name": result.name,
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
        "seed_key": statement.seed_key.hex(),
        "next_seed_commitment": statement.next_seed_commitment.hex(),
    }


def statement_in(fields: Mapping[str, Any]) -> common_pb2.SignedStatement:
    """The signed statement in a ledger entry's fields; raises ValueError, KeyError or DecodeError where it is none."""
    return common_pb2.SignedStatement.FromString(base64.b64decode(fields["statement"], validate=True))


def _number(value: float) -> float | None:
    # JSON has no infinities; the statement beside it has the value itself.
    return value if math.isfinite(value) else None
