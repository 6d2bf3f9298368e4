"""Whether a signed statement lets a policy act here and now. Every process that loads a policy asks this itself.

A verdict vouches for one artifact. A lease vouches for a time in which the snapshots of one run may be used, not for
any particular weights: it is meant for sandboxed actors. A promotion lets a release act everywhere whose verdict gives
it a share of the actors only. A revocation takes an artifact out of use, for good. Which key may sign which of them is
in policies.key_chain. What has been accepted before is the caller's to remember (the newest numbers, what is promoted,
what is revoked); a process that starts afresh remembers nothing, so an old statement can be played back to it until
that statement expires.

Exceptions: UntrustedError and, below it, ForgedStatement, ExpiredStatement, ReplayedStatement, WrongArtifact,
WrongRun, NotApproved and RevokedArtifact; the attribute `reason` is a short name to count by.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import ClassVar

from google.protobuf.message import DecodeError, Message

from policies.artifact import DIGEST_BYTES
from policies.key_chain import ForeignKey, KeyChain
from policies.signing import LEASE_TYPE, PROMOTION_TYPE, REVOCATION_TYPE, VERDICT_TYPE, SignatureError, VerifyKey
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2

CLOCK_SKEW_NS_MAX = 5_000_000_000
"""A statement may be issued this far in the future of our clock: two machines' clocks differ a little."""


class UntrustedError(Exception):
    """A statement does not allow what it was shown for; the message says why."""

    reason: ClassVar[str] = "untrusted"


class ForgedStatement(UntrustedError):
    """Neither the trusted key nor one that follows from it signed these bytes as a statement of this kind."""

    reason = "forged"


class ExpiredStatement(UntrustedError):
    """The present time is outside the statement's validity."""

    reason = "expired"


class ReplayedStatement(UntrustedError):
    """A newer statement of the same kind has been accepted already."""

    reason = "replayed"


class WrongArtifact(UntrustedError):
    """The verdict is about another artifact."""

    reason = "wrong_artifact"


class WrongRun(UntrustedError):
    """The statement is about another training run."""

    reason = "wrong_run"


class NotApproved(UntrustedError):
    """The verdict rejects the artifact."""

    reason = "not_approved"


class RevokedArtifact(UntrustedError):
    """A release of the artifact has been revoked: no statement lets it act any more."""

    reason = "revoked"


class TrustPolicy:
    """Whose statements are believed, and for which run. Immutable, for any number of threads.

    Args:
      verify_key: the safety service's public key: that of its first verdict key, or of a later one. Statements of
        earlier keys than this are forgeries here.
      run_id: the training run whose policies may act here.
      clock: present time in ns since the epoch.
    """

    def __init__(self, verify_key: VerifyKey, run_id: str, clock: Callable[[], int] = time.time_ns) -> None:
        self.verify_key = verify_key
        self.run_id = run_id
        self.clock = clock
        self._chain = KeyChain(verify_key, run_id)

    def check_release(
        self,
        signed: common_pb2.SignedStatement,
        artifact_digest: bytes,
        newest_release_number: int = 0,
        newest_release_digest: bytes = b"",
    ) -> safety_pb2.VerdictStatement:
        """The verdict by which an artifact may be released now.

        Args:
          signed: the verdict statement.
          artifact_digest: digest of the artifact at hand (32 bytes).
          newest_release_number: number of the newest release accepted so far; 0: none.
          newest_release_digest: digest of its artifact. The same release again is no replay.

        Raises:
          UntrustedError: one of its subclasses, for the first check that fails.
        """
        verdict = self.check_past_release(signed, artifact_digest)
        self._check_time("verdict", verdict.issue_time_ns, verdict.expiry_time_ns)
        again = verdict.release_number == newest_release_number and artifact_digest == newest_release_digest
        if verdict.release_number <= newest_release_number and not again:
            raise ReplayedStatement(
                f"the verdict is for release {verdict.release_number}, release {newest_release_number} is in use"
            )
        return verdict

    def check_past_release(
        self, signed: common_pb2.SignedStatement, artifact_digest: bytes
    ) -> safety_pb2.VerdictStatement:
        """The verdict by which an artifact was once released: as `check_release`, whatever time and order."""
        verdict = safety_pb2.VerdictStatement()
        self._open(signed, VERDICT_TYPE, verdict)
        self._check_run("verdict", verdict.run_id)
        if not verdict.approved or verdict.release_number < 1:
            raise NotApproved(f"verdict {verdict.verdict_id} rejects the artifact: {verdict.reason or 'no release'}")
        if not hmac.compare_digest(verdict.artifact_digest, artifact_digest):
            raise WrongArtifact(
                f"verdict {verdict.verdict_id} is for artifact {verdict.artifact_digest.hex()}, "
                f"not for {artifact_digest.hex()}"
            )
        return verdict

    def check_lease(
        self, signed: common_pb2.SignedStatement, newest_lease_number: int = 0
    ) -> safety_pb2.LeaseStatement:
        """The lease under which the snapshots of the run may be used now.

        Args:
          signed: the lease statement.
          newest_lease_number: number of the newest lease accepted so far; that lease again is no replay.

        Raises:
          UntrustedError: one of its subclasses, for the first check that fails.
        """
        lease = safety_pb2.LeaseStatement()
        self._open(signed, LEASE_TYPE, lease)
        self._check_run("lease", lease.run_id)
        self._check_time("lease", lease.issue_time_ns, lease.expiry_time_ns)
        if lease.lease_number < newest_lease_number:
            raise ReplayedStatement(f"the lease has number {lease.lease_number}, {newest_lease_number} is in use")
        return lease

    def check_revocation(self, signed: common_pb2.SignedStatement) -> safety_pb2.RevocationStatement:
        """The revocation of an artifact of the run. It holds whenever it was issued: nothing is said of time and order.

        Raises:
          ForgedStatement: no trusted key signed it as a revocation, or it names no artifact.
          WrongRun: it is another run's.
        """
        revocation = safety_pb2.RevocationStatement()
        self._open(signed, REVOCATION_TYPE, revocation)
        self._check_run("revocation", revocation.run_id)
        if len(revocation.artifact_digest) != DIGEST_BYTES or not revocation.revocation_number:
            raise ForgedStatement(f"the revocation of release {revocation.release_number} names no artifact")
        return revocation

    def check_promotion(self, signed: common_pb2.SignedStatement) -> safety_pb2.PromotionStatement:
        """The promotion of a release of the run. It holds whenever it was issued: nothing is said of time and order.

        Raises:
          ForgedStatement: no trusted key signed it as a promotion, or it names no release.
          WrongRun: it is another run's.
        """
        promotion = safety_pb2.PromotionStatement()
        self._open(signed, PROMOTION_TYPE, promotion)
        self._check_run("promotion", promotion.run_id)
        named = promotion.promotion_number and promotion.release_number
        if len(promotion.artifact_digest) != DIGEST_BYTES or not named:
            raise ForgedStatement(f"the promotion of release {promotion.release_number} names no release")
        return promotion

    def _open(self, signed: common_pb2.SignedStatement, payload_type: str, statement: Message) -> None:
        try:
            statement.ParseFromString(self._chain.verify(signed, payload_type))
        except ForeignKey as error:
            raise WrongRun(str(error)) from error
        except SignatureError as error:
            raise ForgedStatement(self._strangers(signed, payload_type) or str(error)) from error
        except DecodeError as error:
            raise ForgedStatement(f"the signed payload is no statement of type {payload_type!r}") from error

    def _strangers(self, signed: common_pb2.SignedStatement, payload_type: str) -> str:
        """What to say of a statement with which the trusted key has nothing to do; "" where it has."""
        trusted = self.verify_key.key_id
        signers = {signed.key_id, *(certificate.key_id for certificate in signed.certificates)}
        if trusted in signers or signed.payload_type != payload_type:
            return ""
        first = signed.certificates[0].key_id if signed.certificates else signed.key_id
        return (
            f"it goes back to key {first!r}, the key that is trusted here is {trusted!r}: the statement is forged or "
            "another run's, or another key was put in the place of the trusted one; it is not believed"
        )

    def _check_run(self, kind: str, run_id: str) -> None:
        if run_id != self.run_id:
            raise WrongRun(f"the {kind} is for run {run_id!r}, this is run {self.run_id!r}")

    def _check_time(self, kind: str, issue_time_ns: int, expiry_time_ns: int) -> None:
        now = self.clock()
        if now >= expiry_time_ns:
            raise ExpiredStatement(f"the {kind} expired {(now - expiry_time_ns) / 1e9:.3f} s ago")
        if issue_time_ns > now + CLOCK_SKEW_NS_MAX:
            raise ExpiredStatement(f"the {kind} is issued {(issue_time_ns - now) / 1e9:.3f} s in the future")
