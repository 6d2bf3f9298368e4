"""Keeps the release that is offered the newest one that is not revoked: between the registry, on disk, and the board,
which the actors watch. Decides nothing: what is not signed by the safety service is refused.

Exceptions: those of `policies.trust` and `policies.registry`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry, RegistryError, Release
from policies.revocation import Revocation
from policies.trust import RevokedArtifact, UntrustedError
from protos.common.v1 import common_pb2

_log = logging.getLogger(__name__)


class ReleaseKeeper:
    """For any number of threads, since registry and board are."""

    def __init__(self, registry: PolicyRegistry, board: PolicyBoard) -> None:
        self._registry = registry
        self._board = board
        # Digests of what the registry has, so that a list of all revocations costs no disk once they are known.
        self._stored: set[bytes] = set()
        self._offered: Release | None = None

    @property
    def offered(self) -> Release | None:
        """The newest release that is not revoked, as of when it was last looked for; None: there was none."""
        return self._offered

    def start(self) -> Release | None:
        """Puts on the board what the registry has: every revocation, and the newest release that is left, if any.

        Raises:
          RegistryError: something there cannot be trusted.
        """
        for revocation in self._registry.revocations():
            self._board.publish_revocation(revocation)
            self._stored.add(revocation.digest)
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
        self._store(revocation)
        newest = self._offer_in_place_of([revocation])
        if news:
            _log_revoked(revocation, newest)
        return revocation, newest

    def catch_up(self, listed: Iterable[common_pb2.SignedStatement]) -> list[str]:
        """Takes the revocations in a list, of which some are known; what is wrong with one keeps out no other.

        Returns:
          What was refused, and what the actors were told of but could not be stored, one line each.
        """
        taken, problems = self._verified(listed)
        # As in `revoke`, the actors first.
        news = [revocation for revocation in taken if self._board.publish_revocation(revocation)]
        for revocation in taken:
            try:
                self._store(revocation)
            except RegistryError as error:
                problems.append(f"release {revocation.release_number} is revoked, but that is not stored: {error}")
        if taken:
            newest = self._offer_in_place_of(taken)
            for revocation in news:
                _log_revoked(revocation, newest)
        return problems

    def _verified(self, listed: Iterable[common_pb2.SignedStatement]) -> tuple[list[Revocation], list[str]]:
        """Those in a list that the registry lacks, and what is wrong with the others that it lacks."""
        lacking, problems = [], []
        for signed in listed:
            try:
                revocation = Revocation.verified(signed, self._registry.trust)
            except UntrustedError as error:
                problems.append(f"a revocation is refused: {error}")
                continue
            if revocation.digest not in self._stored:
                lacking.append(revocation)
        return lacking, problems

    def _store(self, revocation: Revocation) -> None:
        self._registry.revoke(revocation.signed)
        self._stored.add(revocation.digest)

    def _offer_in_place_of(self, revoked: Iterable[Revocation]) -> Release | None:
        try:
            return self._offer_newest()
        except (RegistryError, RevokedArtifact) as error:
            # Revoked they are; that no other can be offered must not look as if they were not.
            numbers = ", ".join(str(revocation.release_number) for revocation in revoked)
            _log.error("no release is offered in place of release %s: %s", numbers, error)
            self._offered = None
            return None

    def _offer_newest(self) -> Release | None:
        # Also what the board alone knows to be revoked, because it could not be stored.
        newest = self._registry.newest([revocation.digest for revocation in self._board.revocations])
        if newest is not None:
            self._board.publish_release(newest.version, self._registry.artifact(newest.digest), newest.signed_verdict)
        self._offered = newest
        return newest


def _log_revoked(revocation: Revocation, newest: Release | None) -> None:
    left = f"release {newest.number} is offered" if newest is not None else "no release is left"
    _log.warning("release %d is revoked (%s); %s", revocation.release_number, revocation.why, left)
