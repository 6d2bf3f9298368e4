"""From the one key that is trusted to the key that has signed: a chain of key statements, carried by what was signed.

A safety service signs with several keys in its life: verdicts with one, leases with another, and each can be replaced.
Whoever verifies knows one public key, the anchor. A statement that another key signed carries certificates: key
statements, each signed by the verdict key before it, the first by the anchor. What a key may sign is its purpose:

    "verdict"   verdicts, revocations, promotions, and statements of further keys
    "lease"     leases, and nothing else; nothing else signs leases, the anchor neither

An anchor may also stand further down the chain. Then what comes before it does not matter, and statements of earlier
keys are forgeries to whoever has it. A chain says nothing of time: a key that was replaced verifies for ever, for
whoever trusts it or a key before it. Only a newer anchor ends that.

Exceptions: SignatureError (policies.signing), and below it ForeignKey for a chain of another run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from policies.signing import KEY_TYPE, LEASE_TYPE, KeyFileError, SignatureError, VerifyKey, verify
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2

VERDICT_PURPOSE = "verdict"
LEASE_PURPOSE = "lease"

CERTIFICATES_MAX = 16
"""Certificates with one statement."""

CERTIFICATES_BYTES_MAX = 16_384
"""Size of all of them together."""

_CHAINS_KEPT = 8


class ForeignKey(SignatureError):
    """A certificate is about the keys of another run."""


class KeyChain:
    """Who may sign for one run. Immutable, for any number of threads.

    Chains that have verified are remembered, a few of them: a lease comes every few seconds, its chain seldom changes.

    Args:
      anchor: the public key that is trusted, one for verdicts.
      run_id: the training run.
    """

    def __init__(self, anchor: VerifyKey, run_id: str) -> None:
        self.anchor = anchor
        self.run_id = run_id
        self._signer = functools.lru_cache(_CHAINS_KEPT)(self._follow)

    def verify(self, signed: common_pb2.SignedStatement, payload_type: str) -> bytes:
        """The payload of a statement of `payload_type` that the holder of a key for its kind signed.

        Raises:
          SignatureError: no such key signed it; ForeignKey: its keys are another run's.
        """
        if signed.payload_type != payload_type:
            raise SignatureError(f"the statement is of type {signed.payload_type!r}, {payload_type!r} is needed")
        _check_size(signed.certificates)
        chain = tuple(certificate.SerializeToString(deterministic=True) for certificate in signed.certificates)
        signer, purpose = self._signer(chain)
        if purpose != (needed := purpose_of(payload_type)):
            raise SignatureError(
                f"the statement of type {payload_type!r} needs a {needed} key, {signer.key_id} is a {purpose} key"
            )
        return verify(signer, signed, payload_type)

    def _follow(self, chain: tuple[bytes, ...]) -> tuple[VerifyKey, str]:
        """The key at the end of a chain, and its purpose."""
        certificates = [common_pb2.SignedStatement.FromString(each) for each in chain]
        signer, purpose = self.anchor, VERDICT_PURPOSE
        for certificate in certificates[_first_after(self.anchor, certificates) :]:
            if purpose != VERDICT_PURPOSE:
                raise SignatureError(f"{signer.key_id} is a {purpose} key: it cannot vouch for another key")
            statement, signer = certified_key(signer, certificate, self.run_id)
            purpose = statement.purpose
        return signer, purpose


def purpose_of(payload_type: str) -> str:
    """The purpose of the keys that sign statements of a type."""
    return LEASE_PURPOSE if payload_type == LEASE_TYPE else VERDICT_PURPOSE


def certified_key(
    signer: VerifyKey, certificate: common_pb2.SignedStatement, run_id: str
) -> tuple[safety_pb2.KeyStatement, VerifyKey]:
    """What a key statement signed by `signer` says, and the key that it is about.

    Raises:
      SignatureError: `signer` did not sign it, or it is no such statement; ForeignKey: it is about another run.
    """
    if certificate.certificates:
        raise SignatureError("a certificate carries certificates itself")
    try:
        statement = safety_pb2.KeyStatement.FromString(verify(signer, certificate, KEY_TYPE))
        key = VerifyKey(statement.public_key)
    except (DecodeError, KeyFileError) as error:
        raise SignatureError(f"a certificate is not about a key: {error}") from error
    if statement.run_id != run_id:
        raise ForeignKey(f"key {key.key_id} is for run {statement.run_id!r}, this is run {run_id!r}")
    if statement.purpose not in (VERDICT_PURPOSE, LEASE_PURPOSE):
        raise SignatureError(f"key {key.key_id} is for {statement.purpose!r}, which nobody knows")
    return statement, key


def _check_size(certificates: Sequence[common_pb2.SignedStatement]) -> None:
    if len(certificates) > CERTIFICATES_MAX:
        raise SignatureError(f"the statement has {len(certificates)} certificates, at most {CERTIFICATES_MAX} are read")
    size_bytes = sum(certificate.ByteSize() for certificate in certificates)
    if size_bytes > CERTIFICATES_BYTES_MAX:
        raise SignatureError(f"the certificates have {size_bytes} bytes, at most {CERTIFICATES_BYTES_MAX} are read")


def _first_after(anchor: VerifyKey, certificates: Sequence[common_pb2.SignedStatement]) -> int:
    """Where the chain goes on from the anchor: after the last certificate that is about it, or at the beginning."""
    for index in reversed(range(len(certificates))):
        try:
            statement = safety_pb2.KeyStatement.FromString(certificates[index].payload)
        except DecodeError:
            continue
        if statement.public_key == anchor.raw:
            return index + 1
    return 0
