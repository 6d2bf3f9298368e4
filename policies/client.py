"""What an actor acts with now: watches the learner's offers and believes none that it has not verified itself.

Rules, applied at the moment of each `current()`:
  1. a canary, if this actor is in its share: in place of all else;
  2. otherwise the newest verified snapshot, while a verified lease is unexpired by the wall clock, and has not been
     held for longer than it had left when it came: setting that clock back prolongs nothing; and while that lease is
     of the epoch in which the snapshot came: after a breach, weights from before it are not acted with under a new
     lease;
  3. otherwise the newest release whose verdict was valid when it was taken;
  4. otherwise nothing: the actor must not act;
  5. an artifact that a verified revocation names is never acted with again, by whatever right, whatever is offered.
A release whose verdict gives it a share of the actors is a canary until a verified promotion names its number and its
artifact: by whom it is offered, and in which order, makes no difference. An actor outside of the share holds it ready.
A canary ends with its promotion, its revocation, or a newer release.
When the newest release is revoked, the one before it acts if it is still held; an older one acts when it is offered
again. One older than the newest that was accepted and is not revoked is refused, as ever, and so is its promotion; a
canary must be newer than whatever was accepted, and keeps back no release that is none.
An offer that fails any check is refused, counted by its reason and logged once per reason; what was held stays. The
client outlives its server: it keeps what it has, and reconnects.

Reasons in `PolicyClient.refused`: those of `policies.trust` (forged, expired, replayed, wrong_artifact, wrong_run,
not_approved, revoked) and altered_artifact, malformed_artifact, not_finite, wrong_spec, fetch_failed, unusable,
unknown_offer.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import random
import threading
import time
from typing import Literal

import grpc

from policies import canary
from policies.artifact import ARTIFACT_BYTES_MAX, Artifact, ArtifactError, DigestError, NotFiniteError
from policies.config import Backend
from policies.inference import load_backend
from policies.policy import Policy
from policies.promotion import Promotion
from policies.revocation import Revocation
from policies.spec import PolicyInterface, mismatch
from policies.trust import ReplayedStatement, TrustPolicy, UntrustedError
from protos import transport
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2, policy_pb2_grpc
from protos.safety.v1 import safety_pb2

FETCH_TIMEOUT_S = 60.0
RECONNECT_S_MIN = 0.05
RECONNECT_S_MAX = 2.0

RELEASES_HELD = 2
"""Policies of the newest releases that are held: what acts, and what acts at once should that be revoked."""

ACCEPTED_MAX = 1_024
"""Newest releases of which it is remembered that they were accepted, so that no older one is, or promoted."""

_NOT_LET_IN = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ActingPolicy:
    """A policy that may act now. The same object as long as it is the same policy: compare with `is`.

    Attributes:
      policy: draws the actions.
      version: learner update count of its weights.
      digest: its artifact's digest (32 bytes).
      kind: by which right it acts; "served": by the verification of an inference service.
      release_number: number of the release, from 1; 0 for what is no release.
      tag: what the episodes that it acts in are counted for: "lease.E" for a snapshot in epoch E, "release.N" for
        release N; "" where that is not known.
    """

    policy: Policy
    version: int
    digest: bytes
    kind: Literal["snapshot", "release", "served"]
    release_number: int
    tag: str = ""


class _Refused(Exception):
    """An offer fails a check that is not one of trust or of the artifact's form."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PolicyClient:
    """Watches a PolicyDistribution service from a thread of its own, which starts at once: never fork afterwards.

    Args:
      address: of the service ("unix:PATH" or "HOST:PORT"); it need not be up.
      trust: whose statements are believed, for which training run, and the clock that leases are judged by.
      backend: how the policies are computed; raises BackendError when it cannot be.
      actor_id: stable name of this actor; decides in the share of which canaries it is.
      run_id: this start of the actor's process (not the training run).
      expected: the environment's specification; policies that do not fit it are refused. None: any.
    """

    def __init__(
        self,
        address: str,
        trust: TrustPolicy,
        backend: Backend,
        actor_id: str,
        run_id: str,
        *,
        expected: PolicyInterface | None = None,
    ) -> None:
        self.refused: collections.Counter[str] = collections.Counter()
        self._trust = trust
        self._make_policy = load_backend(backend)
        self._request = policy_pb2.WatchRequest(actor_id=actor_id, run_id=run_id)
        self._expected = expected
        self._changed = threading.Condition()
        self._snapshot: ActingPolicy | None = None
        self._actor_id = actor_id
        self._releases: list[ActingPolicy] = []
        # The release that is a canary for now, and whether we are in its share.
        self._canary: ActingPolicy | None = None
        self._in_share = False
        self._promoted: dict[int, bytes] = {}
        self._verdicts: dict[int, common_pb2.SignedStatement] = {}
        self._accepted: dict[int, bytes] = {}
        self._revoked: dict[bytes, Revocation] = {}
        self._lease_number = 0
        self._lease_tag = ""
        self._lease_expiry_ns = 0
        self._lease_end_s = 0.0
        self._closed = threading.Event()
        self._channel = transport.channel(address)
        self._stub = policy_pb2_grpc.PolicyDistributionStub(self._channel)
        self._thread = threading.Thread(target=self._watch, name="policy-client", daemon=True)
        self._thread.start()

    def current(self) -> ActingPolicy | None:
        """What may act at this moment, by the rules above; None: nothing may."""
        with self._changed:
            if self._canary is not None and self._in_share:
                return self._canary
            snapshot = self._snapshot
            if snapshot is not None and snapshot.tag == self._lease_tag and self._lease_lives():
                return snapshot
            return self._releases[-1] if self._releases else None

    def wait(self, timeout_s: float) -> ActingPolicy | None:
        """As `current`, after waiting at most `timeout_s` for there to be one."""
        with self._changed:
            self._changed.wait_for(lambda: self.current() is not None or self._closed.is_set(), timeout_s)
            return self.current()

    def close(self) -> None:
        """Stops to watch. What is held can still be asked for. Safe to call again."""
        self._closed.set()
        self._channel.close()
        self._thread.join(5.0)
        with self._changed:
            self._changed.notify_all()

    def _watch(self) -> None:
        delay_s = RECONNECT_S_MIN
        while not self._closed.is_set():
            try:
                for offer in self._stub.Watch(self._request, wait_for_ready=True):
                    self._take(offer)
                    delay_s = RECONNECT_S_MIN
            except grpc.RpcError as error:
                if not self._closed.is_set():
                    _log.debug("watching for policies broke off: %s", error)
                if error.code() in _NOT_LET_IN:
                    self._refuse("not_let_in", _Refused("not_let_in", error.details() or "no reason given"))
            except ValueError:
                # A closed channel refuses a new call in this way.
                if not self._closed.is_set():
                    raise
            self._closed.wait(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, keeps no secret
            delay_s = min(2 * delay_s, RECONNECT_S_MAX)

    def _take(self, offer: policy_pb2.PolicyOffer) -> None:
        try:
            if offer.kind == policy_pb2.PolicyOffer.KIND_RELEASE:
                self._take_release(offer)
            elif offer.kind == policy_pb2.PolicyOffer.KIND_SNAPSHOT:
                self._take_lease(offer)
                self._take_snapshot(offer)
            elif offer.kind == policy_pb2.PolicyOffer.KIND_LEASE:
                self._take_lease(offer)
            elif offer.kind == policy_pb2.PolicyOffer.KIND_REVOCATION:
                self._take_revocation(offer)
            elif offer.kind == policy_pb2.PolicyOffer.KIND_PROMOTION:
                self._take_promotion(offer)
            else:
                raise _Refused("unknown_offer", f"offers of kind {offer.kind} are not known")
        except (UntrustedError, _Refused) as error:
            self._refuse(error.reason, error)
        except DigestError as error:
            self._refuse("altered_artifact", error)
        except NotFiniteError as error:
            self._refuse("not_finite", error)
        except ArtifactError as error:
            self._refuse("malformed_artifact", error)

    def _take_lease(self, offer: policy_pb2.PolicyOffer) -> None:
        lease = self._trust.check_lease(offer.authority, self._lease_number)
        end_s = time.monotonic() + (lease.expiry_time_ns - self._trust.clock()) / 1e9
        with self._changed:
            if lease.lease_number == self._lease_number:
                end_s = min(end_s, self._lease_end_s)
            self._lease_number, self._lease_expiry_ns = lease.lease_number, lease.expiry_time_ns
            self._lease_end_s, self._lease_tag = end_s, f"lease.{lease.epoch}"
            self._changed.notify_all()

    def _lease_lives(self) -> bool:
        return self._trust.clock() < self._lease_expiry_ns and time.monotonic() < self._lease_end_s

    def _take_snapshot(self, offer: policy_pb2.PolicyOffer) -> None:
        held, tag = self._snapshot, self._lease_tag
        if held is not None and (held.digest, held.version, held.tag) == (offer.digest, offer.version, tag):
            return
        self._check_not_revoked(offer.digest)
        policy = self._build(offer)
        with self._changed:
            self._snapshot = ActingPolicy(policy, offer.version, offer.digest, "snapshot", 0, tag)
            self._changed.notify_all()

    def _take_release(self, offer: policy_pb2.PolicyOffer) -> None:
        for held in [*self._releases[-1:], *self._canaries]:
            if held.digest == offer.digest and self._verdicts[held.release_number] == offer.authority:
                # The same once more after a reconnect; its verdict may have expired since, which takes nothing back.
                return
        self._check_not_revoked(offer.digest)
        verdict = self._check_release(offer)
        policy = self._build(offer)
        number = verdict.release_number
        # The version that was signed, not the one that was offered.
        release = ActingPolicy(policy, verdict.version, offer.digest, "release", number, f"release.{number}")
        with self._changed:
            if self._is_canary(verdict):
                self._canary = release
                self._in_share = canary.in_share(self._actor_id, verdict.canary_share)
            else:
                self._accept(release)
            self._verdicts[number] = offer.authority
            self._changed.notify_all()

    @property
    def _canaries(self) -> list[ActingPolicy]:
        """The canary, if there is one."""
        return [] if self._canary is None else [self._canary]

    def _check_release(self, offer: policy_pb2.PolicyOffer) -> safety_pb2.VerdictStatement:
        """The verdict by which a release is taken now; raises UntrustedError."""
        accepted = dict(self._accepted)
        if self._is_canary(self._trust.check_past_release(offer.authority, offer.digest)):
            accepted |= {each.release_number: each.digest for each in self._canaries}
        number = max(accepted, default=0)
        return self._trust.check_release(offer.authority, offer.digest, number, accepted.get(number, b""))

    def _is_canary(self, verdict: safety_pb2.VerdictStatement) -> bool:
        # Whatever the share: one that is not a number has nobody in it.
        promoted = self._promoted.get(verdict.release_number) == verdict.artifact_digest
        return verdict.canary_share != 0.0 and not promoted

    def _accept(self, release: ActingPolicy) -> None:
        """Takes a release that may act everywhere. Called with the lock held."""
        number = release.release_number
        if self._canary is not None and self._canary.release_number <= number:
            self._canary = None
        self._accepted[number] = release.digest
        while len(self._accepted) > ACCEPTED_MAX:
            del self._accepted[min(self._accepted)]
        self._hold([*(each for each in self._releases if each.release_number != number), release])

    def _take_promotion(self, offer: policy_pb2.PolicyOffer) -> None:
        promotion = Promotion.verified(offer.authority, self._trust)
        number, newest = promotion.release_number, max(self._accepted, default=0)
        if number < newest:
            raise ReplayedStatement(f"the promotion is of release {number}, release {newest} is in use")
        if promotion.digest in self._revoked or self._promoted.get(number) == promotion.digest:
            return
        with self._changed:
            # Those of releases that are still to come, and of the newest: no other is asked for again.
            self._promoted = {each: digest for each, digest in self._promoted.items() if each >= newest}
            self._promoted[number] = promotion.digest
            while len(self._promoted) > ACCEPTED_MAX:
                del self._promoted[min(self._promoted)]
            held = self._canary
            if held is not None and (held.release_number, held.digest) == promotion.release:
                self._accept(held)
            self._changed.notify_all()

    def _take_revocation(self, offer: policy_pb2.PolicyOffer) -> None:
        revocation = Revocation.verified(offer.authority, self._trust)
        digest = revocation.digest
        if digest in self._revoked:
            return
        with self._changed:
            self._revoked[digest] = revocation
            self._accepted = {number: each for number, each in self._accepted.items() if each != digest}
            if self._canary is not None and self._canary.digest == digest:
                self._canary = None
            self._hold([release for release in self._releases if release.digest != digest])
            if self._snapshot is not None and self._snapshot.digest == digest:
                self._snapshot = None
            self._changed.notify_all()
        _log.warning("release %d is revoked: %s", revocation.release_number, revocation.why)

    def _hold(self, releases: list[ActingPolicy]) -> None:
        """Holds the newest of these, ascending by number. Called with the lock held."""
        self._releases = releases[-RELEASES_HELD:]
        held = {release.release_number for release in [*self._releases, *self._canaries]}
        self._verdicts = {number: verdict for number, verdict in self._verdicts.items() if number in held}

    def _check_not_revoked(self, digest: bytes) -> None:
        """Raises RevokedArtifact."""
        if digest in self._revoked:
            raise self._revoked[digest].refusal()

    def _build(self, offer: policy_pb2.PolicyOffer) -> Policy:
        data = offer.artifact or self._fetch(offer.digest)
        try:
            artifact = Artifact.from_bytes(data, offer.digest).check_finite()
            misfit = mismatch(artifact.spec, self._expected) if self._expected is not None else ""
            if misfit:
                raise _Refused("wrong_spec", f"artifact {offer.digest.hex()} does not fit: {misfit}")
            return self._make_policy(artifact)
        except (ArtifactError, _Refused):
            raise
        except Exception as error:  # whatever is raised over it, the next offer must still be heard
            raise _Refused("unusable", f"artifact {offer.digest.hex()} cannot be computed: {error}") from error

    def _fetch(self, digest: bytes) -> bytes:
        data = bytearray()
        try:
            for chunk in self._stub.Fetch(policy_pb2.FetchRequest(digest=digest), timeout=FETCH_TIMEOUT_S):
                data += chunk.data
                if max(len(data), chunk.total_bytes) > ARTIFACT_BYTES_MAX:
                    raise _Refused("malformed_artifact", f"artifact {digest.hex()} exceeds {ARTIFACT_BYTES_MAX} bytes")
        except grpc.RpcError as error:
            raise _Refused("fetch_failed", f"artifact {digest.hex()} could not be fetched: {error}") from error
        return bytes(data)

    def _refuse(self, reason: str, error: Exception) -> None:
        self.refused[reason] += 1
        if self.refused[reason] == 1:
            _log.warning("a policy is refused (%s): %s; further refusals of this kind are only counted", reason, error)
