"""Which keys sign, at every place in the ledger: the first ones, and those that took their places.

The ledger's first entry, "opened", names the first verdict key and carries its word for the first lease key; each
rotation is one entry, "key", with the word of the verdict key that was current for those that follow:

    purpose        "verdict" or "lease": which was replaced. A new verdict key comes with a new lease key
    verdict_key, lease_key
                   ids of the keys that sign from here on
    statements     signed key statements, base64 each: the new verdict key's by the outgoing one, if it was replaced;
                   then the new lease key's by the verdict key that signs from here on
    why            for whoever reads of it

A statement in the ledger must be signed by the key that is current there, with the certificates that lead to it. So one
that an outgoing key signed after its rotation has no place in it. Writes nothing. For one thread at a time.

Exceptions: LedgerError for an entry that is not what it must be; SignatureError for a statement.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from policies.key_chain import CERTIFICATES_MAX, LEASE_PURPOSE, VERDICT_PURPOSE, certified_key, purpose_of
from policies.signing import KEY_TYPE, KeyFileError, SignatureError, SigningKey, VerifyKey, sign, verify
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from safety.ledger import LedgerEntry, LedgerError

OPENED = "opened"
"""Kind of the ledger's entry that binds it to a run, its first keys, and the key of the first evaluation's seeds."""

KEY = "key"
"""Kind of the ledger entries by which keys take the place of others."""

VERDICT_KEYS_MAX = CERTIFICATES_MAX
"""Verdict keys of a run, the first included: so many certificates a lease can have with its own."""


class KeyInUse(NamedTuple):
    """A key and since when it has signed.

    Attributes:
      purpose: "verdict" or "lease".
      key: its public half.
      entry: index of the ledger entry after which it signs.
    """

    purpose: str
    key: VerifyKey
    entry: int


class KeyHistory:
    """The keys of one run, as the ledger tells.

    Args:
      anchor: the first verdict key.
      run_id: the training run.

    Attributes:
      keys: all there were, in the order in which they came.
      certificates: how the current key of each purpose follows from the anchor.
    """

    def __init__(self, anchor: VerifyKey, run_id: str) -> None:
        self._anchor, self._run_id = anchor, run_id
        self.keys: list[KeyInUse] = []
        self.certificates: dict[str, tuple[common_pb2.SignedStatement, ...]] = {VERDICT_PURPOSE: (), LEASE_PURPOSE: ()}

    @property
    def verdict_keys(self) -> Sequence[VerifyKey]:
        """Every one there was, the current one last."""
        return [each.key for each in self.keys if each.purpose == VERDICT_PURPOSE] or [self._anchor]

    def current(self, purpose: str) -> VerifyKey:
        """The key that signs now. Raises LedgerError before the ledger was opened."""
        for each in reversed(self.keys):
            if each.purpose == purpose:
                return each.key
        raise LedgerError(f"the ledger names no {purpose} key: its first entry is missing")

    def add(self, entry: LedgerEntry) -> None:
        """Takes an entry into account; raises LedgerError where it is about keys and not what it must be."""
        try:
            if entry.kind == OPENED:
                self._open(entry)
            elif entry.kind == KEY:
                self._rotate(entry)
        except (SignatureError, DecodeError, ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"ledger entry {entry.index} does not name keys for which key {self.verdict_keys[-1].key_id} vouches: "
                f"{error}"
            ) from error

    def verify(self, signed: common_pb2.SignedStatement, payload_type: str) -> bytes:
        """The payload of a statement that stands next in the ledger. Raises SignatureError."""
        purpose = purpose_of(payload_type)
        if tuple(signed.certificates) != self.certificates[purpose]:
            raise SignatureError(f"its certificates do not lead to the {purpose} key that is current there")
        key = self.verdict_keys[-1] if purpose == VERDICT_PURPOSE else self.current(purpose)
        return verify(key, signed, payload_type)

    def _open(self, entry: LedgerEntry) -> None:
        if self.keys or entry.fields["verdict_key"] != self._anchor.raw.hex():
            raise ValueError(f"it is not the only one to begin with key {self._anchor.key_id}")
        certificate = _decoded(entry.fields["lease_key"])
        lease_key = self._certified(self._anchor, certificate, LEASE_PURPOSE)
        first = {VERDICT_PURPOSE: self._anchor, LEASE_PURPOSE: lease_key}
        self.keys = [KeyInUse(purpose, key, entry.index) for purpose, key in first.items()]
        self.certificates[LEASE_PURPOSE] = (certificate,)

    def _rotate(self, entry: LedgerEntry) -> None:
        purpose, signer = entry.fields["purpose"], self.current(VERDICT_PURPOSE)
        *outgoing, certificate = [_decoded(text) for text in entry.fields["statements"]]
        if len(outgoing) != (purpose == VERDICT_PURPOSE) or purpose not in (VERDICT_PURPOSE, LEASE_PURPOSE):
            raise ValueError(f"{len(outgoing) + 1} statements do not replace a key for {purpose!r}")
        added = []
        for each in outgoing:
            signer = self._certified(signer, each, VERDICT_PURPOSE)
            added.append(KeyInUse(VERDICT_PURPOSE, signer, entry.index))
        lease_key = self._certified(signer, certificate, LEASE_PURPOSE)
        added.append(KeyInUse(LEASE_PURPOSE, lease_key, entry.index))
        said = {"purpose": purpose, "statements": entry.fields["statements"], "why": str(entry.fields["why"])}
        if entry.fields != said | {"verdict_key": signer.key_id, "lease_key": lease_key.key_id}:
            raise ValueError("it does not say what its statements say")
        if known := {each.key.raw for each in self.keys} & {each.key.raw for each in added}:
            raise ValueError(f"{len(known)} of its keys are no new ones")
        self.keys += added
        self.certificates[VERDICT_PURPOSE] += tuple(outgoing)
        self.certificates[LEASE_PURPOSE] = (*self.certificates[VERDICT_PURPOSE], certificate)

    def _certified(self, signer: VerifyKey, certificate: common_pb2.SignedStatement, purpose: str) -> VerifyKey:
        statement, key = certified_key(signer, certificate, self._run_id)
        if statement.purpose != purpose:
            raise SignatureError(f"key {key.key_id} is for {statement.purpose}s, one for {purpose}s must stand here")
        return key


def anchor_of(opened: LedgerEntry) -> VerifyKey:
    """The verdict key that a ledger began with. Raises LedgerError where its entry names none."""
    try:
        return VerifyKey(bytes.fromhex(opened.fields["verdict_key"]))
    except (KeyError, TypeError, ValueError, KeyFileError) as error:
        raise LedgerError(
            f"ledger entry {opened.index} names no key: an older version began this ledger; start a new run"
        ) from error


def key_statement(
    signer: SigningKey, certified: VerifyKey, purpose: str, run_id: str, now_ns: int
) -> common_pb2.SignedStatement:
    """The word of a verdict key that another key may sign for a purpose."""
    statement = safety_pb2.KeyStatement(run_id=run_id, purpose=purpose, public_key=certified.raw, issue_time_ns=now_ns)
    return sign(signer, KEY_TYPE, statement.SerializeToString(deterministic=True))


def opening_fields(verdict_key: SigningKey, lease_key: VerifyKey, run_id: str, now_ns: int) -> Mapping[str, Any]:
    """What the ledger's first entry says of keys."""
    certificate = key_statement(verdict_key, lease_key, LEASE_PURPOSE, run_id, now_ns)
    return {"verdict_key": verdict_key.verify_key.raw.hex(), "lease_key": _encoded(certificate)}


def rotation_fields(
    purpose: str,
    statements: Sequence[common_pb2.SignedStatement],
    *,
    verdict_key: VerifyKey,
    lease_key: VerifyKey,
    why: str,
) -> Mapping[str, Any]:
    """The fields of an entry by which keys take the place of others; see the head of this module."""
    return {
        "purpose": purpose,
        "verdict_key": verdict_key.key_id,
        "lease_key": lease_key.key_id,
        "statements": [_encoded(each) for each in statements],
        "why": why,
    }


def _encoded(signed: common_pb2.SignedStatement) -> str:
    return base64.b64encode(signed.SerializeToString(deterministic=True)).decode()


def _decoded(text: str) -> common_pb2.SignedStatement:
    return common_pb2.SignedStatement.FromString(base64.b64decode(text, validate=True))
