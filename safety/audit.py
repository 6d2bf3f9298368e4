"""Checks a whole ledger from outside, with nothing secret: order, signatures, that no seed was chosen, and evidence.

That the entries are chained is for safety.ledger to see, that each decision is signed and stands where it must for
safety.history, and that no evaluation is missing or was given its number twice for safety.begun_evaluations. What is
added here is that each evaluation ran on the seeds that follow from the key that its verdict reveals; the key itself
was committed to before the candidate was seen (safety.suites.manifest). Where the evidence of a verdict is still there,
it must be what the verdict binds, and say what the verdict says; where it is gone, nothing is wrong. A chain shows what
was altered to whoever remembers a later digest: so the head is given, to be kept elsewhere, and can be compared with
one kept earlier.

Exceptions: LedgerError for the first entry that is not what it must be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from policies.signing import VerifyKey
from protos.safety.v1 import safety_pb2
from safety.begun_evaluations import KnownSchedule, RuleChange
from safety.evidence.audit import contradiction
from safety.evidence.file import EvidenceDamaged, EvidenceMissing, read_evidence
from safety.history import DecisionHistory
from safety.keys.history import KeyInUse
from safety.leases.authority import BREACH
from safety.ledger import LedgerEntry, LedgerError
from safety.suites.manifest import draw_seeds, seed_manifest_digest

EPISODES_MAX = 1_000_000
"""A verdict that claims more is not believed: drawing their seeds would take minutes."""


@dataclasses.dataclass(frozen=True)
class LedgerAudit:
    """What a ledger holds, all of it verified.

    Attributes:
      entries: how many, of every kind.
      approved, deferred, rejected, void: verdicts, by what became of the candidate.
      broken_off: evaluations that were begun and never got a verdict.
      under_way: 1 where the newest evaluation has no verdict and was not broken off: it is running, or whatever ran it
        was killed, and nothing has opened the directory since; 0 otherwise.
      revocations: of releases.
      promotions: of canaries.
      breaches: epochs of leases that ended with one.
      evaluations_checked: verdicts whose seeds were drawn again; the others rest on no episodes.
      levels_checked: verdicts whose error rate is what the schedule gives their candidate; of the others, it is not
        known by which schedule.
      evidence_checked: verdicts whose evidence was found, and says what they say.
      evidence_absent: those whose evidence is not there.
      rule_changes: where the criteria or the suite became others than those of the evaluation before.
      keys: that have signed, in the order in which they came; the last of each purpose signs now.
      head: digest of the newest entry (32 bytes); b"" where there is none.
    """

    entries: int
    approved: int
    deferred: int
    rejected: int
    void: int
    broken_off: int
    under_way: int
    revocations: int
    promotions: int
    breaches: int
    evaluations_checked: int
    levels_checked: int
    evidence_checked: int
    evidence_absent: int
    rule_changes: Sequence[RuleChange]
    keys: Sequence[KeyInUse]
    head: bytes


def audit_ledger(
    entries: Sequence[LedgerEntry],
    key: VerifyKey,
    run_id: str,
    kept_head: tuple[int, bytes] | None = None,
    *,
    directory: Path | None = None,
    known: KnownSchedule | None = None,
) -> LedgerAudit:
    """Checks all of it.

    Args:
      entries: of one ledger, oldest first.
      key: the first verdict key; each decision must be signed by the one that was current by then.
      run_id: that each must be about.
      kept_head: index and digest of an entry as an earlier audit gave it.
      directory: the safety service's, with the evidence; None: there is none to be had.
      known: how the candidates share the run's error rate, where that is known.

    Raises:
      LedgerError: see there.
    """
    history = DecisionHistory(entries, key, run_id, known)
    statements = [safety_pb2.VerdictStatement.FromString(signed.payload) for signed in history.newest(0)[::-1]]
    checked = sum(_check_seeds(number, statement) for number, statement in enumerate(statements, 1))
    with_evidence = [(number, each) for number, each in enumerate(statements, 1) if each.evidence_digest]
    present = sum(_check_evidence(number, statement, directory) for number, statement in with_evidence)
    if kept_head is not None:
        _check_kept(entries, *kept_head)
    return LedgerAudit(
        entries=len(entries),
        **history.counts._asdict(),
        broken_off=history.broken_off,
        under_way=int(history.under_way is not None),
        revocations=len(history.revocations),
        promotions=len(history.promotions),
        breaches=sum(entry.kind == BREACH for entry in entries),
        evaluations_checked=checked,
        levels_checked=sum(_is_known(statement, known) for statement in statements),
        evidence_checked=present,
        evidence_absent=len(with_evidence) - present,
        rule_changes=tuple(history.rule_changes),
        keys=tuple(history.keys.keys),
        head=entries[-1].digest if entries else b"",
    )


def _is_known(statement: safety_pb2.VerdictStatement, known: KnownSchedule | None) -> bool:
    tested = statement.lifetime_index != 0
    return tested and known is not None and statement.criteria_digest == known.criteria_digest


def _check_seeds(number: int, statement: safety_pb2.VerdictStatement) -> bool:
    """Whether verdict `number` rests on episodes; raises LedgerError where they were not on the seeds of its key."""
    episodes = {each.name: each.episodes for each in statement.slices}
    claimed = sum(episodes.values())
    if claimed > EPISODES_MAX:
        raise LedgerError(f"verdict {number} claims {claimed} episodes, at most {EPISODES_MAX} are believed")
    if claimed != statement.episodes or len(episodes) != len(statement.slices):
        raise LedgerError(
            f"verdict {number} claims {statement.episodes} episodes, and {claimed} in {len(statement.slices)} slices"
        )
    seeds = {name: draw_seeds(statement.seed_key, name, count) for name, count in episodes.items()}
    if seed_manifest_digest(seeds) != statement.seed_manifest_digest:
        raise LedgerError(
            f"verdict {number} ({statement.verdict_id}) was not evaluated on the seeds that follow from its key: they "
            "were chosen"
        )
    return claimed > 0


def _check_evidence(number: int, statement: safety_pb2.VerdictStatement, directory: Path | None) -> bool:
    """Whether the evidence of verdict `number` is there; raises LedgerError where it says something else."""
    if directory is None:
        return False
    try:
        evidence = read_evidence(directory, statement.evidence_digest)
    except EvidenceMissing:
        return False
    except EvidenceDamaged as error:
        raise LedgerError(f"the evidence of verdict {number} ({statement.verdict_id}) is damaged: {error}") from error
    if difference := contradiction(evidence, statement):
        raise LedgerError(
            f"the evidence of verdict {number} ({statement.verdict_id}) does not say what it says: {difference}"
        )
    return True


def _check_kept(entries: Sequence[LedgerEntry], index: int, digest: bytes) -> None:
    if index >= len(entries):
        raise LedgerError(
            f"the kept head is of entry {index}, but the ledger ends before {len(entries)}: it was cut off"
        )
    if entries[index].digest != digest:
        raise LedgerError(f"entry {index} is not what it was when its digest was kept: the ledger was rewritten")
