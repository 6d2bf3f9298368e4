"""Keeps what is offered the newest release that may act everywhere, and the canary after it: between the registry, on
disk, and the board, which the actors watch. Decides nothing: what is not signed by the safety service is refused.

The actors hear of a revocation first, and of a promotion only once it is stored: one that is lost makes a release a
canary again, until the safety service is asked.

Exceptions: those of `policies.trust` and `policies.registry`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from policies.distribution import PolicyBoard
from policies.promotion import Promotion
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
        # Likewise of promotions: number and artifact of each release.
        self._promoted: set[tuple[int, bytes]] = set()
        self._offered: Release | None = None

    @property
    def offered(self) -> Release | None:
        """The newest release that may act everywhere, as of when it was last looked for; None: there was none."""
        return self._offered

    @property
    def canary_number(self) -> int:
        """Number of the release that is offered as a canary; 0: none is."""
        return self._board.canary_number

    def start(self) -> Release | None:
        """Puts on the board what the registry has: all that was revoked or promoted, the newest release, the canary.

        Returns the newest release that may act everywhere, None where there is none.

        Raises:
          RegistryError: something there cannot be trusted.
        """
        for revocation in self._registry.revocations():
            self._board.publish_revocation(revocation)
            self._stored.add(revocation.digest)
        for promotion in self._registry.promotions():
            self._board.publish_promotion(promotion)
            self._promoted.add(promotion.release)
        newest = self._offer_newest()
        self._offer_canary()
        return newest

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

    def promote(self, listed: Iterable[common_pb2.SignedStatement]) -> list[str]:
        """Takes the promotions in a list, of which some are known; what is wrong with one keeps out no other.

        Returns:
          What was refused, and what could not be stored, one line each; of neither are the actors told.
        """
        problems = []
        for signed in listed:
            try:
                promotion = Promotion.verified(signed, self._registry.trust)
                if promotion.release in self._promoted:
                    continue
                self._registry.promote_canary(signed)
                self._promoted.add(promotion.release)
                if self._board.publish_promotion(promotion):
                    _log.info("release %d is promoted: %s", promotion.release_number, promotion.why)
                self._offer_newest()
            except UntrustedError as error:
                problems.append(f"a promotion is refused: {error}")
            except RegistryError as error:
                problems.append(f"the promotion of release {promotion.release_number} is not in effect yet: {error}")
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
            newest = self._offer_newest()
        except (RegistryError, RevokedArtifact) as error:
            # Revoked they are; that no other can be offered must not look as if they were not.
            numbers = ", ".join(str(revocation.release_number) for revocation in revoked)
            _log.error("no release is offered in place of release %s: %s", numbers, error)
            self._offered = None
            return None
        try:
            self._offer_canary()
        except (RegistryError, RevokedArtifact) as error:
            _log.error("no canary is offered: %s", error)
        return newest

    def _offer_newest(self) -> Release | None:
        # Also what the board alone knows to be revoked, because it could not be stored.
        newest = self._registry.newest([revocation.digest for revocation in self._board.revocations])
        self._publish(newest)
        self._offered = newest
        return newest

    def _offer_canary(self) -> None:
        self._publish(self._registry.canary([revocation.digest for revocation in self._board.revocations]))

    def _publish(self, release: Release | None) -> None:
        if release is not None:
            artifact = self._registry.artifact(release.digest)
            self._board.publish_release(release.version, artifact, release.signed_verdict)


def _log_revoked(revocation: Revocation, newest: Release | None) -> None:
    left = f"release {newest.number} is offered" if newest is not None else "no release is left"
    _log.warning("release %d is revoked (%s); %s", revocation.release_number, revocation.why, left)
