"""A promotion that has been verified: which canary may act everywhere from now on, and why. Stores and sends nothing.

Exceptions: those of `policies.trust`.
"""

from __future__ import annotations

import dataclasses

from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2


@dataclasses.dataclass(frozen=True)
class Promotion:
    """A canary that has become an ordinary release, as the safety service signed it.

    It is about one release and its artifact: another release of the same artifact is a canary of its own.

    Attributes:
      number: from 1, ascending.
      release_number: of the release.
      digest: of its artifact (32 bytes).
      episodes: of the canary that it rests on.
      violating_episodes: those of them with any cost.
      why: for whoever reads of it.
      issue_time_ns: ns since the epoch.
      signed: the statement itself.
    """

    number: int
    release_number: int
    digest: bytes
    episodes: int
    violating_episodes: int
    why: str
    issue_time_ns: int
    signed: common_pb2.SignedStatement = dataclasses.field(repr=False, hash=False)

    @property
    def release(self) -> tuple[int, bytes]:
        """Number and artifact digest of the release: what a promotion must fit in both."""
        return self.release_number, self.digest

    @classmethod
    def verified(cls, signed: common_pb2.SignedStatement, trust: TrustPolicy) -> Promotion:
        """The promotion in a statement. Raises ForgedStatement or WrongRun."""
        statement = trust.check_promotion(signed)
        return cls(
            number=statement.promotion_number,
            release_number=statement.release_number,
            digest=statement.artifact_digest,
            episodes=statement.episodes,
            violating_episodes=statement.violating_episodes,
            why=statement.why,
            issue_time_ns=statement.issue_time_ns,
            signed=signed,
        )
