"""From the wish to take a release back to a revocation statement, and from a signed one to text for people. Signs and
stores nothing.

Exceptions: RevocationRefused and, below it, UnknownRelease.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2

WHY_CHARACTERS_MAX = 1_000

REVOCATIONS_MAX = 10_000
"""Most revocations of one run: every actor that starts is told all of them."""

PAGE_REVOCATIONS = 256
"""Most revocations in one answer: 70 KB of them as people write, 1.1 MB at the worst."""


class RevocationRefused(ValueError):
    """What cannot be revoked, or not in this way; nothing was decided."""


class UnknownRelease(RevocationRefused):
    """There is no release of this number."""


def checked_why(why: str) -> str:
    """The reason without the blanks around it. Raises RevocationRefused where none is given, or far too long a one."""
    why = why.strip()
    if not 1 <= len(why) <= WHY_CHARACTERS_MAX:
        raise RevocationRefused(
            f"why has {len(why)} characters, must have 1 to {WHY_CHARACTERS_MAX}: nothing was revoked"
        )
    return why


def revocation_fields(
    signed: common_pb2.SignedStatement, statement: safety_pb2.RevocationStatement
) -> Mapping[str, Any]:
    """A revocation's fields in the ledger: the signed statement whole, and beside it what a person wants to read."""
    return {
        "statement": base64.b64encode(signed.SerializeToString(deterministic=True)).decode(),
        "run_id": statement.run_id,
        "revocation_number": statement.revocation_number,
        "release_number": statement.release_number,
        "artifact_digest": statement.artifact_digest.hex(),
        "why": statement.why,
    }
