"""Puts new keys in the place of the old ones, in a directory at which no safety service is.

    1. The new private keys are written beside the old ones, and synced.
    2. The outgoing verdict key signs for them, and that is entered in the ledger, and synced. From here on it is done.
    3. Each new private key is moved to where the old one was, which removes that one; the new public key is written.

Whoever is killed before the second step is complete has changed nothing, and after it, everything: the next to open the
directory, a safety service or this, throws the new keys away or finishes the third step (safety.keys.custody).

What that is worth: with the old private key nothing new can be entered in the ledger, but an actor cannot tell when a
statement was signed. To whoever trusts the first key, a stolen old key is good for ever; give the actors the public key
of the newest instead (verify_key.N.pem), to which everything older is a forgery.

Exceptions: RotationRefused for what makes no sense; LedgerError, CustodyError: see there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from policies.key_chain import LEASE_PURPOSE, VERDICT_PURPOSE
from policies.signing import KeyFileError, VerifyKey
from safety.docket import Docket
from safety.keys.custody import Custody, CustodyError
from safety.keys.directory import PURPOSES
from safety.keys.history import KEY, VERDICT_KEYS_MAX, key_statement, rotation_fields
from safety.ledger import LedgerEntry

WHY_CHARACTERS_MAX = 1_000


class RotationRefused(ValueError):
    """No key is replaced for this purpose, without a reason, or so often."""


class Rotation(NamedTuple):
    """What came of it.

    Attributes:
      entry: the ledger's.
      verdict_key, lease_key: that sign from here on.
      verdict_keys: how many verdict keys there have been.
    """

    entry: LedgerEntry
    verdict_key: VerifyKey
    lease_key: VerifyKey
    verdict_keys: int


def rotate(
    directory: Path,
    run_id: str,
    purpose: str,
    why: str,
    *,
    keys: Path | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> Rotation:
    """Replaces the lease key, or the verdict key and with it the lease key, which only a verdict key can vouch for.

    Args:
      directory: the safety service's own.
      run_id: the training run.
      purpose: "verdict" or "lease".
      why: for whoever reads of it in the ledger.
      keys: the directory of the private keys; None: the one that is meant for the run.
      clock: present time in ns since the epoch.

    Raises:
      RotationRefused: nothing was changed.
      LedgerInUse: a safety service runs.
      LedgerError, CustodyError: the directories cannot be trusted, or written; the next to open them sees what holds.
    """
    why = _checked(purpose, why)
    with contextlib.closing(Docket(directory, run_id, clock, keys=keys)) as docket:
        custody = docket.custody
        if purpose == VERDICT_PURPOSE and len(custody.key_history.verdict_keys) >= VERDICT_KEYS_MAX:
            raise RotationRefused(
                f"run {run_id} has had {VERDICT_KEYS_MAX} verdict keys, and no statement can carry the word of more: "
                "start a new run; the lease key can still be replaced"
            )
        try:
            fields = _prepare(custody, run_id, purpose, why, clock())
        except (KeyFileError, OSError) as error:
            raise CustodyError(f"the new key cannot be written in {custody.keys.place}: {error}") from error
        entry = docket.ledger.append(KEY, lambda _: fields)
        custody.follow(entry)
        history = custody.key_history
        verdict_keys = history.verdict_keys
        return Rotation(entry, verdict_keys[-1], history.current(LEASE_PURPOSE), len(verdict_keys))


def _prepare(custody: Custody, run_id: str, purpose: str, why: str, now_ns: int) -> Mapping[str, Any]:
    """Writes the new keys, and returns what is to be entered of them."""
    signer, statements = custody.keys.key(VERDICT_PURPOSE), []
    if purpose == VERDICT_PURPOSE:
        verdict_key = custody.keys.prepare(VERDICT_PURPOSE)
        statements.append(key_statement(signer, verdict_key.verify_key, VERDICT_PURPOSE, run_id, now_ns))
        signer = verdict_key
    lease_key = custody.keys.prepare(LEASE_PURPOSE)
    statements.append(key_statement(signer, lease_key.verify_key, LEASE_PURPOSE, run_id, now_ns))
    return rotation_fields(purpose, statements, verdict_key=signer.verify_key, lease_key=lease_key.verify_key, why=why)


def _checked(purpose: str, why: str) -> str:
    if purpose not in PURPOSES:
        raise RotationRefused(f"purpose is {purpose!r}, keys there are for: {', '.join(PURPOSES)}; nothing was changed")
    why = why.strip()
    if not 1 <= len(why) <= WHY_CHARACTERS_MAX:
        raise RotationRefused(
            f"why has {len(why)} characters, must have 1 to {WHY_CHARACTERS_MAX}: nothing was changed"
        )
    return why
