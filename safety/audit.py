"""Checks a whole ledger from outside, with nothing secret: order, signatures, and that no seed was chosen.

That the entries are chained is for safety.ledger to see, and that each decision is signed and stands where it must for
safety.history. What is added here is that each evaluation ran on the seeds that follow from the key that its verdict
reveals; the key itself was committed to before the candidate was seen (safety.suite). A chain shows what was altered to
whoever remembers a later digest: so the head is given, to be kept elsewhere, and can be compared with one kept earlier.

Exceptions: LedgerError for the first entry that is not what it must be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from policies.signing import VerifyKey
from protos.safety.v1 import safety_pb2
from safety.history import DecisionHistory
from safety.key_history import KeyInUse
from safety.ledger import LedgerEntry, LedgerError
from safety.suite import draw_seeds, seed_manifest_digest

EPISODES_MAX = 1_000_000
"""A verdict that claims more is not believed: drawing their seeds would take minutes."""


@dataclasses.dataclass(frozen=True)
class LedgerAudit:
    """What a ledger holds, all of it verified.

    Attributes:
      entries: how many, of every kind.
      approved, rejected: verdicts.
      revocations: of releases.
      evaluations_checked: verdicts whose seeds were drawn again; the others rest on no episodes.
      keys: that have signed, in the order in which they came; the last of each purpose signs now.
      head: digest of the newest entry (32 bytes); b"" where there is none.
    """

    entries: int
    approved: int
    rejected: int
    revocations: int
    evaluations_checked: int
    keys: Sequence[KeyInUse]
    head: bytes


def audit_ledger(
    entries: Sequence[LedgerEntry], key: VerifyKey, run_id: str, kept_head: tuple[int, bytes] | None = None
) -> LedgerAudit:
    """Checks all of it.

    Args:
      entries: of one ledger, oldest first.
      key: the first verdict key; each decision must be signed by the one that was current by then.
      run_id: that each must be about.
      kept_head: index and digest of an entry as an earlier audit gave it.

    Raises:
      LedgerError: see there.
    """
    history = DecisionHistory(entries, key, run_id)
    checked = sum(_check_seeds(number, signed.payload) for number, signed in enumerate(history.newest(0)[::-1], 1))
    if kept_head is not None:
        _check_kept(entries, *kept_head)
    return LedgerAudit(
        entries=len(entries),
        approved=history.approved,
        rejected=history.rejected,
        revocations=len(history.revocations),
        evaluations_checked=checked,
        keys=tuple(history.keys.keys),
        head=entries[-1].digest if entries else b"",
    )


def _check_seeds(number: int, payload: bytes) -> bool:
    """Whether verdict `number` rests on episodes; raises LedgerError where they were not on the seeds of its key."""
    statement = safety_pb2.VerdictStatement.FromString(payload)
    if not statement.episodes:
        return False
    if statement.episodes > EPISODES_MAX:
        raise LedgerError(f"verdict {number} claims {statement.episodes} episodes, at most {EPISODES_MAX} are believed")
    if seed_manifest_digest(draw_seeds(statement.seed_key, statement.episodes)) != statement.seed_manifest_digest:
        raise LedgerError(
            f"verdict {number} ({statement.verdict_id}) was not evaluated on the seeds that follow from its key: they "
            "were chosen"
        )
    return True


def _check_kept(entries: Sequence[LedgerEntry], index: int, digest: bytes) -> None:
    if index >= len(entries):
        raise LedgerError(
            f"the kept head is of entry {index}, but the ledger ends before {len(entries)}: it was cut off"
        )
    if entries[index].digest != digest:
        raise LedgerError(f"entry {index} is not what it was when its digest was kept: the ledger was rewritten")
