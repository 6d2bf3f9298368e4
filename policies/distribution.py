"""How the learner hands its policies out: a board that holds the newest of each kind, and the server that shows it.

Releases are of two kinds: the newest that may act everywhere, and a newer one that is a canary, until it is promoted
or revoked. A promotion goes with the release that it made one for everywhere, ahead of it: so it reaches whoever is
offered that release, and there is never more than one to tell.

The board is written by the learner's thread, which must not wait: publishing is a digest, a lock and a notification.
The server lives on a thread and an asyncio loop of its own. It decides nothing about trust: it passes statements on
as they are, and every client verifies them. A watcher that is slower than the learner skips to the newest, but for
revocations: each of them reaches every watcher, before any policy that is offered after it. What is revoked is never
offered again. There are as many as the safety service signs, which bounds them.

Revoke answers INVALID_ARGUMENT for a statement that does not verify, FAILED_PRECONDITION where nothing can be stored,
and INTERNAL where it could not be.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc
import grpc.aio

from policies.artifact import DIGEST_BYTES, artifact_digest
from policies.promotion import Promotion
from policies.registry import RegistryError, Release
from policies.revocation import Revocation
from policies.trust import UntrustedError
from protos import transport
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2, policy_pb2_grpc
from protos.safety.v1 import safety_pb2
from protos.transport_guard import guarded_server

INLINE_BYTES_MAX = 1 << 20
"""A larger artifact is fetched by its digest instead of travelling in the offer."""

CHUNK_BYTES = 1 << 20
RECENT_ARTIFACTS = 4
"""Snapshots kept for clients that are still fetching one that has just been replaced."""

WATCHERS_MAX = 4_096

_SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyDistribution"].full_name
_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one watcher has been sent: the board's revision of each kind, and how many revocations; 0: nothing yet."""

    release: int = 0
    canary: int = 0
    snapshot: int = 0
    lease: int = 0
    revocations: int = 0


class RevocationTaker(Protocol):
    """Who takes the revocations that the server is handed, e.g. a `policies.release_keeper.ReleaseKeeper`."""

    def revoke(self, signed: common_pb2.SignedStatement) -> tuple[Revocation, Release | None]:
        """Verifies, stores and publishes one; returns it and the release that is left.

        Raises UntrustedError where it does not verify, RegistryError where it was published but not stored.
        """


@dataclasses.dataclass(frozen=True)
class _Weights:
    version: int
    digest: bytes
    data: bytes


@dataclasses.dataclass(frozen=True)
class _Released:
    weights: _Weights
    signed: common_pb2.SignedStatement
    verdict: safety_pb2.VerdictStatement

    @property
    def release(self) -> tuple[int, bytes]:
        return self.verdict.release_number, self.weights.digest


class PolicyBoard:
    """The newest snapshot, lease, release and canary, and every revocation. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = Seen()
        self._snapshot: _Weights | None = None
        self._lease: common_pb2.SignedStatement | None = None
        self._release: _Released | None = None
        self._canary: _Released | None = None
        # By artifact, in the order in which they came.
        self._revoked: dict[bytes, Revocation] = {}
        # By number and artifact of the release.
        self._promoted: dict[tuple[int, bytes], Promotion] = {}
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._subscribers: tuple[Callable[[], None], ...] = ()

    def publish_snapshot(self, version: int, data: bytes) -> bytes:
        """Replaces the snapshot by the artifact `data` of learner update count `version`; returns its digest.

        It is offered once there is a lease. An artifact that has been revoked is passed over: the next update brings
        another one.
        """
        weights = _Weights(version, artifact_digest(data), data)
        with self._lock:
            if weights.digest in self._revoked:
                return weights.digest
            self._snapshot = weights
            self._recent[weights.digest] = data
            self._recent.move_to_end(weights.digest)
            while len(self._recent) > RECENT_ARTIFACTS:
                self._recent.popitem(last=False)
            self._newest = dataclasses.replace(self._newest, snapshot=self._newest.snapshot + 1)
            subscribers = self._subscribers
        _notify(subscribers)
        return weights.digest

    def publish_lease(self, lease: common_pb2.SignedStatement) -> None:
        """Replaces the lease that accompanies the snapshots."""
        with self._lock:
            self._lease = lease
            self._newest = dataclasses.replace(self._newest, lease=self._newest.lease + 1)
            subscribers = self._subscribers
        _notify(subscribers)

    def withdraw_snapshot(self) -> None:
        """Offers no snapshot and no lease until new ones are published. Who has them acts on until his lease ends."""
        with self._lock:
            self._snapshot, self._lease = None, None
            self._recent.clear()

    def publish_release(self, version: int, data: bytes, verdict: common_pb2.SignedStatement) -> bytes:
        """Replaces the release by the artifact `data` under its signed verdict; returns its digest.

        It replaces the canary where the verdict makes it one, and no promotion is known. The release that is offered
        already, or an older one of its kind, changes nothing. Raises RevokedArtifact.
        """
        weights = _Weights(version, artifact_digest(data), data)
        new = _Released(weights, verdict, safety_pb2.VerdictStatement.FromString(verdict.payload))
        with self._lock:
            if weights.digest in self._revoked:
                raise self._revoked[weights.digest].refusal()
            canary = new.verdict.canary_share != 0.0 and new.release not in self._promoted
            # A canary must be newer than both of them; what may act everywhere, than what acts everywhere.
            for old in (self._release, self._canary) if canary else (self._release,):
                number, digest = (0, b"") if old is None else old.release
                if new.release == (number, digest) or new.verdict.release_number < number:
                    return weights.digest
            if canary:
                self._canary = new
                self._newest = dataclasses.replace(self._newest, canary=self._newest.canary + 1)
            else:
                self._let_act_everywhere(new)
            subscribers = self._subscribers
        _notify(subscribers)
        return weights.digest

    def publish_promotion(self, promotion: Promotion) -> bool:
        """Makes the canary that it names the release; False where it was known, or comes after its revocation.

        It is remembered, should the release that it is about come later.
        """
        with self._lock:
            if promotion.release in self._promoted or promotion.digest in self._revoked:
                return False
            self._promoted[promotion.release] = promotion
            if self._canary is None or self._canary.release != promotion.release:
                return True
            self._let_act_everywhere(self._canary)
            subscribers = self._subscribers
        _notify(subscribers)
        return True

    def _let_act_everywhere(self, released: _Released) -> None:
        """Called with the lock held."""
        self._release = released
        if self._canary is not None and self._canary.release[0] <= released.release[0]:
            self._canary = None
        self._newest = dataclasses.replace(self._newest, release=self._newest.release + 1)

    def publish_revocation(self, revocation: Revocation) -> bool:
        """Tells every watcher, and takes the artifact off the board; False where it was known to be revoked already."""
        with self._lock:
            if revocation.digest in self._revoked:
                return False
            self._revoked[revocation.digest] = revocation
            if self._release is not None and self._release.weights.digest == revocation.digest:
                self._release = None
            if self._canary is not None and self._canary.weights.digest == revocation.digest:
                self._canary = None
            if self._snapshot is not None and self._snapshot.digest == revocation.digest:
                self._snapshot = None
            self._recent.pop(revocation.digest, None)
            self._newest = dataclasses.replace(self._newest, revocations=len(self._revoked))
            subscribers = self._subscribers
        _notify(subscribers)
        return True

    @property
    def release_number(self) -> int:
        """Number of the release that is offered for everywhere; 0: none is."""
        verdict = self.verdict
        return 0 if verdict is None else verdict.release_number

    @property
    def verdict(self) -> safety_pb2.VerdictStatement | None:
        """What is said of the release that is offered for everywhere; None: none is."""
        with self._lock:
            return None if self._release is None else self._release.verdict

    @property
    def canary_number(self) -> int:
        """Number of the release that is offered as a canary; 0: none is."""
        with self._lock:
            return 0 if self._canary is None else self._canary.verdict.release_number

    @property
    def revocations(self) -> tuple[Revocation, ...]:
        """Every revocation, in the order in which it came."""
        with self._lock:
            return tuple(self._revoked.values())

    def offers_since(self, seen: Seen) -> tuple[list[policy_pb2.PolicyOffer], Seen]:
        """The newest offer of each kind that `seen` has not, and what has been seen with them.

        All revocations come first, then the release, after its promotion if it has one, then the canary. A snapshot
        always goes with the newest lease, and not at all while there is none.
        """
        offers = []
        with self._lock:
            newest = self._newest
            offers += [
                policy_pb2.PolicyOffer(
                    kind=policy_pb2.PolicyOffer.KIND_REVOCATION, digest=each.digest, authority=each.signed
                )
                for each in itertools.islice(self._revoked.values(), seen.revocations, None)
            ]
            if newest.release > seen.release and self._release is not None:
                offers += self._release_offers(self._release)
            if newest.canary > seen.canary and self._canary is not None:
                offers += self._release_offers(self._canary)
            if self._lease is None:
                return offers, dataclasses.replace(newest, snapshot=seen.snapshot)
            if newest.snapshot > seen.snapshot and self._snapshot is not None:
                offers.append(_offer(policy_pb2.PolicyOffer.KIND_SNAPSHOT, self._snapshot, self._lease))
            elif newest.lease > seen.lease:
                kind = policy_pb2.PolicyOffer.KIND_LEASE
                offers.append(policy_pb2.PolicyOffer(kind=kind, authority=self._lease))
        return offers, newest

    def _release_offers(self, released: _Released) -> list[policy_pb2.PolicyOffer]:
        """Called with the lock held."""
        release = _offer(policy_pb2.PolicyOffer.KIND_RELEASE, released.weights, released.signed)
        promotion = self._promoted.get(released.release)
        if promotion is None:
            return [release]
        kind = policy_pb2.PolicyOffer.KIND_PROMOTION
        return [policy_pb2.PolicyOffer(kind=kind, digest=promotion.digest, authority=promotion.signed), release]

    def artifact(self, digest: bytes) -> bytes | None:
        """The bytes of the release, the canary, the snapshot or a recent snapshot; None when it is none of these."""
        with self._lock:
            for released in (self._release, self._canary):
                if released is not None and released.weights.digest == digest:
                    return released.weights.data
            return self._recent.get(digest)

    def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls `on_change` in the publisher's thread after each change; it must return at once. Returns the undo."""
        with self._lock:
            self._subscribers = (*self._subscribers, on_change)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(each for each in self._subscribers if each is not on_change)

        return unsubscribe


class DistributionServer:
    """Serves a board at an address ("unix:PATH" or "HOST:PORT", port 0: any) from a daemon thread of its own.

    Without a `taker` it takes no revocations.
    """

    def __init__(self, board: PolicyBoard, address: str, taker: RevocationTaker | None = None) -> None:
        self._board = board
        self._address = address
        self._taker = taker
        self._started: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._servicer: _Distribution | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="policy-distribution", daemon=True)

    @property
    def watchers(self) -> int:
        """Clients that watch now."""
        return 0 if self._servicer is None else self._servicer.watchers

    def start(self, timeout_s: float = 30.0) -> str:
        """Starts to serve and returns the bound address. Raises AddressError, or TimeoutError."""
        self._thread.start()
        return self._started.result(timeout_s)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends every watch and stops serving. Safe to call again, or when it never started."""
        if self._loop is not None and self._servicer is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._servicer.close)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # raised in the thread that waits in `start`
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        servicer = _Distribution(self._board, self._taker)
        server = guarded_server(calls_max=WATCHERS_MAX)
        policy_pb2_grpc.add_PolicyDistributionServicer_to_server(servicer, server)
        health = transport.add_health_and_reflection(server, [_SERVICE])
        bound = transport.bind(server, self._address)
        await server.start()
        await transport.set_serving(health, [_SERVICE])

        def on_change() -> None:
            # A publisher may hold this callback for a moment longer than the loop lives.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(servicer.wake)

        unsubscribe = self._board.subscribe(on_change)
        try:
            self._loop, self._servicer = loop, servicer
            self._started.set_result(bound)
            await servicer.closed.wait()
        finally:
            unsubscribe()
            await server.stop(1.0)


class _Distribution(policy_pb2_grpc.PolicyDistributionServicer):
    """The gRPC side; lives on the server's loop."""

    def __init__(self, board: PolicyBoard, taker: RevocationTaker | None) -> None:
        self._board = board
        self._taker = taker
        self._changed = asyncio.Event()
        self.closed = asyncio.Event()
        self.watchers = 0

    def wake(self) -> None:
        # Everybody who waits has this event; who comes later gets the next one.
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        self.closed.set()
        self.wake()

    async def Watch(
        self,
        request: policy_pb2.WatchRequest,
        context: grpc.aio.ServicerContext[policy_pb2.WatchRequest, policy_pb2.PolicyOffer],
    ) -> AsyncIterator[policy_pb2.PolicyOffer]:
        """Yields the newest offers at once and then each change, skipping what a slow client has missed."""
        for name, value in (("actor_id", request.actor_id), ("run_id", request.run_id)):
            if not _IDENTIFIER.fullmatch(value):
                limit = "must be 1 to 128 characters of [A-Za-z0-9._-]; nothing is offered"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{name} = {value[:200]!r} {limit}")
        seen = Seen()
        self.watchers += 1
        try:
            while not self.closed.is_set():
                # The event before the board: a change in between is then not missed.
                changed = self._changed
                offers, seen = self._board.offers_since(seen)
                for offer in offers:
                    yield offer
                await changed.wait()
        finally:
            self.watchers -= 1

    async def Fetch(
        self,
        request: policy_pb2.FetchRequest,
        context: grpc.aio.ServicerContext[policy_pb2.FetchRequest, policy_pb2.ArtifactChunk],
    ) -> AsyncIterator[policy_pb2.ArtifactChunk]:
        """Yields an artifact's bytes in order."""
        if len(request.digest) != DIGEST_BYTES:
            message = f"the digest has {len(request.digest)} bytes, it must have {DIGEST_BYTES}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        data = self._board.artifact(request.digest)
        if data is None:
            message = f"artifact {request.digest.hex()} is not offered (any more): take the newest offer"
            await context.abort(grpc.StatusCode.NOT_FOUND, message)
        for start in range(0, len(data), CHUNK_BYTES):
            yield policy_pb2.ArtifactChunk(data=data[start : start + CHUNK_BYTES], total_bytes=len(data))

    async def Revoke(
        self,
        request: policy_pb2.RevokeRequest,
        context: grpc.aio.ServicerContext[policy_pb2.RevokeRequest, policy_pb2.RevokeResponse],
    ) -> policy_pb2.RevokeResponse:
        """Hands the statement to whoever verifies and stores it; the board then tells the watchers."""
        if self._taker is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no revocations are stored here: ask the learner")
        try:
            # In a thread: it waits for the disk.
            await asyncio.to_thread(self._taker.revoke, request.revocation)
        except UntrustedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{error}; nothing was revoked")
        except RegistryError as error:
            await context.abort(grpc.StatusCode.INTERNAL, f"{error}; the actors that watch have been told")
        return policy_pb2.RevokeResponse(release_number=self._board.release_number, watchers=self.watchers)


def _offer(
    kind: policy_pb2.PolicyOffer.Kind, weights: _Weights, authority: common_pb2.SignedStatement
) -> policy_pb2.PolicyOffer:
    inline = weights.data if len(weights.data) <= INLINE_BYTES_MAX else b""
    return policy_pb2.PolicyOffer(
        kind=kind, version=weights.version, digest=weights.digest, authority=authority, artifact=inline
    )


def _notify(subscribers: tuple[Callable[[], None], ...]) -> None:
    for on_change in subscribers:
        on_change()
