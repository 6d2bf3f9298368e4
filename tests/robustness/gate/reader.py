"""Those who must not be taken in: a policy registry on disk and an actor's policy client, behind an attacker's server.

Both trust one key and one run, and both have accepted release 5.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from policies.artifact import ArtifactError, artifact_digest
from policies.client import PolicyClient
from policies.distribution import DistributionServer, PolicyBoard, Seen
from policies.registry import PolicyRegistry, RegistryError
from policies.signing import SigningKey
from policies.testing import (
    RUN_ID,
    SECOND_NS,
    make_artifact,
    make_spec,
    signed_lease,
    signed_revocation,
    signed_verdict,
)
from policies.trust import TrustPolicy, UntrustedError
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from tests.robustness.gate.ways import got_through

WAIT_S = 20.0
HELD_NUMBER, HONEST_NUMBER = 5, 99
HELD, OTHER, ANOTHER, HONEST = (make_artifact(seed=seed).to_bytes() for seed in range(4))

Statement = common_pb2.SignedStatement
OfferKind = Any
"""A kind of `PolicyOffer`, or a number that is none."""

_Kind = policy_pb2.PolicyOffer


class Clock:
    """The present, which a way may move."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()

    def __call__(self) -> int:
        return self.now_ns


class HostileBoard(PolicyBoard):
    """Offers what it is told to, in order, whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self._forced: list[policy_pb2.PolicyOffer] = []

    def force(self, *offers: policy_pb2.PolicyOffer) -> None:
        """Offers these after those before them."""
        self._forced.extend(offers)
        for on_change in self._subscribers:
            on_change()

    def offers_since(self, seen: Seen) -> tuple[list[policy_pb2.PolicyOffer], Seen]:
        """As the board it takes the place of."""
        offers = self._forced[seen.release :]
        return offers, Seen(release=seen.release + len(offers))


class Reader:
    """Registry and actor, the key they trust, and their clock."""

    def __init__(self, directory: Path) -> None:
        self.key, self.clock = SigningKey.generate(), Clock()
        self.trust = TrustPolicy(self.key.verify_key, RUN_ID, self.clock)
        self.registry_directory = directory / "registry"
        self.registry = PolicyRegistry(self.registry_directory, self.trust)
        self.board = HostileBoard()
        self.server = DistributionServer(self.board, f"unix:{directory}/policy")
        self.client = PolicyClient(self.server.start(), self.trust, "numpy", "actor-1", "start-1", expected=make_spec())
        self.held_verdict = self.verdict(HELD, release_number=HELD_NUMBER)
        self.take_release(HELD, self.held_verdict)

    def verdict(self, data: bytes, key: SigningKey | None = None, **fields: Any) -> Statement:
        """A verdict that approves `data` as release 6, for an hour from now, but for `fields`."""
        times = {"issue_time_ns": self.clock.now_ns, "expiry_time_ns": self.clock.now_ns + 3600 * SECOND_NS}
        return signed_verdict(key or self.key, artifact_digest(data), **{"release_number": 6, **times, **fields})

    def lease(self, number: int, key: SigningKey | None = None, seconds: float = 60.0, **fields: Any) -> Statement:
        """A lease for that time from now, but for `fields`."""
        now = self.clock.now_ns
        times = {"issue_time_ns": now, "expiry_time_ns": now + round(seconds * SECOND_NS)}
        return signed_lease(key or self.key, **{"lease_number": number, **times, **fields})

    def revocation(self, data: bytes, key: SigningKey | None = None, **fields: Any) -> Statement:
        """The revocation of an artifact."""
        return signed_revocation(key or self.key, artifact_digest(data), **fields)

    def take_release(self, data: bytes, verdict: Statement) -> None:
        """What is honest must get through, or nothing is shown by what does not."""
        number = self.registry.promote(data, verdict).number
        self.offer(_Kind.KIND_RELEASE, data, verdict)
        acting = self.client.current()
        if acting is None or acting.digest != artifact_digest(data) or acting.release_number != number:
            raise RuntimeError(f"an honest release was not taken: {self.client.refused}")

    def take_snapshot(self, data: bytes, lease: Statement) -> None:
        """Likewise."""
        self.offer(_Kind.KIND_SNAPSHOT, data, lease)
        acting = self.client.current()
        if acting is None or (acting.kind, acting.digest) != ("snapshot", artifact_digest(data)):
            raise RuntimeError(f"an honest snapshot was not taken: {self.client.refused}")

    def revoke(self, data: bytes) -> None:
        """Takes a release back, everywhere."""
        signed = self.revocation(data)
        self.registry.revoke(signed)
        self.offer(_Kind.KIND_REVOCATION, b"", signed)

    def refuse_release(self, data: bytes, verdict: Statement, digest: bytes | None = None) -> str:
        """Why neither registry nor actor takes a release."""
        before = [(release.number, release.digest) for release in self.registry.releases()]
        by_registry = self.refused_by_registry(lambda: self.registry.promote(data, verdict))
        if [(release.number, release.digest) for release in self.registry.releases()] != before:
            got_through("the registry has another release")
        return f"registry: {by_registry}; actor: {self.refuse_offer(_Kind.KIND_RELEASE, data, verdict, digest)}"

    def refuse_snapshot(self, data: bytes, lease: Statement, digest: bytes | None = None) -> str:
        """Why the actor does not act with a snapshot."""
        return f"actor: {self.refuse_offer(_Kind.KIND_SNAPSHOT, data, lease, digest)}"

    def refuse_offer(self, kind: OfferKind, data: bytes, authority: Statement, digest: bytes | None = None) -> str:
        """The reason for which the actor refuses an offer; it must act as it did before."""
        before, counted = self.client.current(), self._refusals()
        self.offer(kind, data, authority, digest)
        if self.client.current() is not before:
            got_through(f"the actor acts with {self.client.current()}")
        reasons = [reason for reason, count in self._refusals().items() if count != counted.get(reason, 0)]
        return ", ".join(reasons) or got_through("the actor has refused nothing")

    def refused_by_registry(self, attempt: Callable[[], object]) -> str:
        """Why the registry refuses something."""
        try:
            found = attempt()
        except (UntrustedError, ArtifactError, RegistryError) as error:
            return f"{type(error).__name__}: {error}"
        return got_through(f"the registry gives {found}")

    def offer(self, kind: OfferKind, data: bytes, authority: Statement, digest: bytes | None = None) -> None:
        """Offers something, and returns when the actor has dealt with it."""
        dealt_with = self.client.refused["unknown_offer"] + 1
        named = digest if digest is not None else artifact_digest(data) if data else b""
        offer = policy_pb2.PolicyOffer(kind=kind, artifact=data, digest=named, version=1, authority=authority)
        # Offers are dealt with in order: once the one of no kind is counted, the one before it is done.
        self.board.force(offer, policy_pb2.PolicyOffer())
        deadline = time.monotonic() + WAIT_S
        while self.client.refused["unknown_offer"] < dealt_with:
            if time.monotonic() > deadline:
                raise TimeoutError("the actor did not take an offer")
            time.sleep(0.002)

    def close(self) -> None:
        """Ends client and server."""
        self.client.close()
        self.server.stop()

    def _refusals(self) -> dict[str, int]:
        return {reason: count for reason, count in self.client.refused.items() if reason != "unknown_offer"}


class Readers:
    """Opens a fresh reader for each way."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader]:
        """A reader; afterwards the next honest release must get through, so nothing was refused for good."""
        directory = self.directory / str(next(self._numbers))
        directory.mkdir()
        reader = Reader(directory)
        try:
            yield reader
            reader.clock.now_ns = time.time_ns() + 2 * 3600 * SECOND_NS
            reader.take_release(HONEST, reader.verdict(HONEST, release_number=HONEST_NUMBER))
        finally:
            reader.close()


@contextlib.contextmanager
def readers(directory: Path) -> Iterator[Readers]:
    """A scene."""
    yield Readers(directory)
