"""Keeps the release that is offered the newest one that is not revoked: between the registry, on disk, and the board,
which the actors watch. Decides nothing: what is not signed by the safety service is refused.
"""

from __future__ import annotations

import logging

from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry, RegistryError, Release
from policies.revocation import Revocation
from policies.trust import RevokedArtifact
from protos.common.v1 import common_pb2

_log = logging.getLogger(__name__)


class ReleaseKeeper:
    """For any number of threads, since registry and board are."""

    def __init__(self, registry: PolicyRegistry, board: PolicyBoard) -> None:
        self._registry = registry
        self._board = board

    def start(self) -> Release | None:
        """Puts on the board what the registry has: every revocation, and the newest release that is left, if any.

        Raises:
          RegistryError: something there cannot be trusted.
        """
        for revocation in self._registry.revocations():
            self._board.publish_revocation(revocation)
        return self._offer_newest()

    def revoke(self, signed: common_pb2.SignedStatement) -> tuple[Revocation, Release | None]:
        """Takes a revocation; returns it and the release that is offered then, None where none is left.

        The actors are told first: not even a full disk keeps them from dropping it.

        Raises:
          UntrustedError: the statement does not verify; nothing has changed.
          RegistryError: the actors that watch have been told, but it could not be stored.
        """
        revocation = Revocation.verified(signed, self._registry.trust)
        news = self._board.publish_revocation(revocation)
        self._registry.revoke(signed)
        try:
            newest = self._offer_newest()
        except (RegistryError, RevokedArtifact) as error:
            # Revoked it is; that no other can be offered must not look as if it were not.
            _log.error("no release is offered in place of release %d: %s", revocation.release_number, error)
            newest = None
        if news:
            left = f"release {newest.number} is offered" if newest is not None else "no release is left"
            _log.warning("release %d is revoked (%s); %s", revocation.release_number, revocation.why, left)
        return revocation, newest

    def _offer_newest(self) -> Release | None:
        newest = self._registry.newest()
        if newest is not None:
            self._board.publish_release(newest.version, self._registry.artifact(newest.digest), newest.signed_verdict)
        return newest
