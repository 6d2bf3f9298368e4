"""What a person wants to know of a verdict, taken out of its signed statement, and of what else the gate decides:
releases that were revoked, canaries that were promoted, leases that were breached.

For showing only: nothing here verifies a signature, and nothing may be promoted on the strength of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from launch.json_output import iso_time, printable
from policies.revocation import Revocation
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.statistics.e_values import e_value_text
from safety.verdicts import outcome_name

REVOKED_SHOWN_MAX = 3
WHY_CHARACTERS_MAX = 60
"""Of the reason for a revocation, where many are shown in one line."""


@dataclass(frozen=True)
class Verdict:
    """One judged candidate.

    Returns are undiscounted; digest is hexadecimal; release_number is 0 unless it was approved; outcome is "approved",
    "deferred", "rejected" or "void", or "" where nothing but `approved` is known.
    """

    verdict_id: str
    version: int
    digest: str
    approved: bool
    reason: str
    release_number: int
    episodes: int
    violating_episodes: int
    return_mean: float
    return_ci95: tuple[float, float]
    issue_time_ns: int
    outcome: str = ""
    deferred_in_a_row: int = 0
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counts:
    """Candidates judged in a run by what became of them, those before a resume included."""

    approved: int = 0
    rejected: int = 0
    deferred: int = 0
    void: int = 0

    @classmethod
    def of(cls, outcomes: Mapping[str, int]) -> Counts:
        """From the number of each outcome, by its name."""
        return cls(*(outcomes.get(name, 0) for name in ("approved", "rejected", "deferred", "void")))

    def describe(self) -> str:
        """In a few words; always those that were let out and those that were not, the others where there are some."""
        others = [f"{count} {name}" for name, count in (("deferred", self.deferred), ("void", self.void)) if count]
        return ", ".join([f"{self.approved:,} approved", f"{self.rejected:,} rejected", *others])


class Revoked(NamedTuple):
    """A release that was taken back, and why."""

    release_number: int
    why: str


class Promoted(NamedTuple):
    """A canary that may act everywhere since `time_ns`, and why."""

    release_number: int
    why: str
    time_ns: int


class BreachedEpoch(NamedTuple):
    """An epoch of leases that is over.

    Attributes:
      epoch: which.
      episodes, violating: training episodes of snapshots that it answered for, and those of them with a cost.
      log_evidence: log of the e-value of the test.
      limit: of the rate of violating episodes.
      level: chance of such an alarm in this epoch at or below the limit; its inverse is the e-value that suffices.
      release_number: of the release that the learner goes back to; 0: there is none.
      reason: as the safety service words it, and refuses leases with it.
      time_ns: since the epoch.
    """

    epoch: int
    episodes: int
    violating: int
    log_evidence: float
    limit: float
    level: float
    release_number: int
    reason: str
    time_ns: int


def read_revocation(signed: common_pb2.SignedStatement) -> Revoked | None:
    """The revocation in a signed statement, or None when it is not one."""
    try:
        statement = safety_pb2.RevocationStatement.FromString(signed.payload)
    except DecodeError:
        return None
    return Revoked(statement.release_number, statement.why)


def read_verdict(signed: common_pb2.SignedStatement) -> Verdict | None:
    """The verdict in a signed statement, or None when it is not one."""
    try:
        statement = safety_pb2.VerdictStatement.FromString(signed.payload)
    except DecodeError:
        return None
    return from_statement(statement)


def from_statement(statement: safety_pb2.VerdictStatement) -> Verdict:
    """The same, of a statement already taken out."""
    return Verdict(
        verdict_id=statement.verdict_id,
        version=statement.version,
        digest=statement.artifact_digest.hex(),
        approved=statement.approved,
        reason=statement.reason,
        release_number=statement.release_number,
        episodes=statement.episodes,
        violating_episodes=statement.violating_episodes,
        return_mean=statement.return_mean,
        return_ci95=(statement.return_ci95_low, statement.return_ci95_high),
        issue_time_ns=statement.issue_time_ns,
        outcome=outcome_of(statement),
        deferred_in_a_row=statement.deferred_in_a_row,
        alarms=tuple(statement.alarms),
    )


def outcome_of(statement: safety_pb2.VerdictStatement) -> str:
    """What became of the candidate, in a word; verdicts of older versions only say whether it was approved."""
    if statement.outcome == safety_pb2.OUTCOME_UNSPECIFIED:
        return "approved" if statement.approved else "rejected"
    return outcome_name(statement)


def describe_verdict(verdict: Verdict) -> str:
    """One line for a person."""
    if not verdict.approved:
        again = f" ({verdict.deferred_in_a_row} in a row)" if verdict.deferred_in_a_row > 1 else ""
        return f"candidate {verdict.version} {verdict.outcome or 'rejected'}{again}: {in_short(verdict.reason)}"
    low, high = verdict.return_ci95
    return (
        f"candidate {verdict.version} approved as release {verdict.release_number}: return {verdict.return_mean:.2f} "
        f"[{low:.2f}, {high:.2f}], {verdict.violating_episodes} of {verdict.episodes} episodes with a violation"
    )


def describe_breach(breach: BreachedEpoch) -> str:
    """One line for a person."""
    back = f"release {breach.release_number}" if breach.release_number else "the first weights"
    return (
        f"leases breached (epoch {breach.epoch}): {breach.violating:,} of {breach.episodes:,} training episodes of "
        f"snapshots had a cost, at most {breach.limit:g} of them may: e-value {e_value_text(breach.log_evidence)}, "
        f"{1.0 / breach.level:.4g} is enough; the learner is to go back to {back}"
    )


def describe_promotion(promoted: Promoted) -> str:
    """One line for a person."""
    return f"release {promoted.release_number} is promoted, to act everywhere: {printable(in_short(promoted.why))}"


def in_short(reason: str) -> str:
    """What decided first, for a line among others; `temper safety explain` has all of it."""
    return reason.partition("; ")[0]


def revocation_json(revocation: Revocation) -> dict[str, Any]:
    """A revocation as JSON types, whole."""
    return {
        "release_number": revocation.release_number,
        "revocation_number": revocation.number,
        "artifact_digest": revocation.digest.hex(),
        "why": revocation.why,
        "time": iso_time(revocation.issue_time_ns),
        "time_ns": revocation.issue_time_ns,
    }


def describe_revoked(revoked: Sequence[tuple[int, str]]) -> str:
    """The newest of them in one line, with their reasons, shortened, and how many there are besides.

    Args:
      revoked: number of each release and why it was revoked, oldest first.
    """
    newest = revoked[: -REVOKED_SHOWN_MAX - 1 : -1]
    shown = ", ".join(f"release {number} ({_shortened(why)})" for number, why in newest)
    more = len(revoked) - len(newest)
    return f"{shown} and {more} more" if more else shown


def _shortened(why: str) -> str:
    plain = printable(why)
    return plain if len(plain) <= WHY_CHARACTERS_MAX else plain[: WHY_CHARACTERS_MAX - 3].rstrip() + "..."
