"""A revocation that has been verified: which artifact must not act any more, and why. Stores and sends nothing.

Exceptions: those of `policies.trust`.
"""

from __future__ import annotations

import dataclasses

from policies.trust import RevokedArtifact, TrustPolicy
from protos.common.v1 import common_pb2


@dataclasses.dataclass(frozen=True)
class Revocation:
    """A release taken back, as the safety service signed it. It is about the artifact, whatever release carries it.

    Attributes:
      number: from 1, ascending.
      release_number: of the release.
      digest: of the artifact (32 bytes).
      why: for whoever reads of it.
      issue_time_ns: ns since the epoch.
      signed: the statement itself.
    """

    number: int
    release_number: int
    digest: bytes
    why: str
    issue_time_ns: int
    signed: common_pb2.SignedStatement = dataclasses.field(repr=False, hash=False)

    @classmethod
    def verified(cls, signed: common_pb2.SignedStatement, trust: TrustPolicy) -> Revocation:
        """The revocation in a statement. Raises ForgedStatement or WrongRun."""
        statement = trust.check_revocation(signed)
        return cls(
            number=statement.revocation_number,
            release_number=statement.release_number,
            digest=statement.artifact_digest,
            why=statement.why,
            issue_time_ns=statement.issue_time_ns,
            signed=signed,
        )

    def refusal(self) -> RevokedArtifact:
        """The error of whatever would use the artifact."""
        return RevokedArtifact(f"release {self.release_number}, artifact {self.digest.hex()}, was revoked: {self.why}")
