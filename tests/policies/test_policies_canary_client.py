"""What an actor does with a canary, whoever serves it: in its share or not, until a signed statement ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from policies.artifact import artifact_digest
from policies.client import PolicyClient
from policies.promotion import Promotion
from policies.served import ServedPolicy
from policies.testing import RUN_ID, make_artifact, make_spec, signed_lease, signed_promotion, signed_verdict
from policies.trust import TrustPolicy
from protos.policy.v1 import policy_pb2
from tests.policies.hostile_server import WAIT_S, HostileServer
from tests.policies.inference_host import KEY as INFERENCE_KEY
from tests.policies.inference_host import inference_of
from tests.policies.test_policies_canary import (
    FIRST,
    FORGERIES,
    FOURTH,
    INSIDE,
    KEY,
    OUTSIDE,
    PROMOTION,
    RELEASE,
    REVOCATION,
    SECOND,
    SHARE,
    THIRD,
    TRUST,
    promotion,
    revocation,
    verdict,
)

SNAPSHOT = policy_pb2.PolicyOffer.KIND_SNAPSHOT
LEASE = policy_pb2.PolicyOffer.KIND_LEASE
FIFTH = make_artifact(seed=5).to_bytes()


class Actor(NamedTuple):
    """A client and the one that it watches, who may say anything. It was offered release 2 and a snapshot."""

    server: HostileServer
    client: PolicyClient

    def offer(self, kind: policy_pb2.PolicyOffer.Kind, data: bytes = b"", **fields: Any) -> None:
        digest = artifact_digest(data) if data else b""
        self.server.offer(self.client, **({"kind": kind, "artifact": data, "digest": digest} | fields))

    def release(self, data: bytes, number: int, share: float = 0.0) -> None:
        self.offer(RELEASE, data, authority=verdict(data, number, share))

    def promote(self, data: bytes, release: int) -> None:
        self.offer(PROMOTION, authority=promotion(data, release))

    def revoke(self, data: bytes, release: int, number: int = 1) -> None:
        self.offer(REVOCATION, authority=revocation(data, release, number))

    def tag(self) -> str:
        """Of what acts; "" where nothing does."""
        acting = self.client.current()
        return "" if acting is None else acting.tag

    def refused(self) -> dict[str, int]:
        return {reason: count for reason, count in self.client.refused.items() if reason != "unknown_offer"}


@contextlib.contextmanager
def actor(directory: Path, name: str) -> Iterator[Actor]:
    server = HostileServer(directory)
    client = PolicyClient(server.address, TRUST, "numpy", name, "start-1", expected=make_spec())
    try:
        actor = Actor(server, client)
        actor.release(SECOND, 2)
        actor.offer(SNAPSHOT, FIFTH, version=50, authority=signed_lease(KEY, epoch=7))
        assert actor.tag() == "lease.7"
        yield actor
    finally:
        client.close()
        server.close()


@pytest.fixture
def inside(socket_directory: Path) -> Iterator[Actor]:
    with actor(socket_directory, INSIDE) as inside:
        yield inside


@pytest.fixture
def outside(socket_directory: Path) -> Iterator[Actor]:
    with actor(socket_directory, OUTSIDE) as outside:
        yield outside


def without_snapshots(actor: Actor) -> None:
    """From now on the lease is of another epoch than the snapshot."""
    actor.offer(LEASE, authority=signed_lease(KEY, lease_number=2, epoch=8))


def test_who_is_in_the_share_acts_with_it_in_place_of_all_else_until_it_is_promoted(inside: Actor) -> None:
    inside.release(THIRD, 3, SHARE)
    acting = inside.client.current()
    assert acting is not None
    assert (acting.kind, acting.release_number, acting.version, acting.tag) == ("release", 3, 30, "release.3")
    inside.promote(THIRD, 3)
    # An ordinary release now: snapshots come first, and without them it is what acts.
    assert inside.tag() == "lease.7"
    without_snapshots(inside)
    assert inside.client.current() is acting
    assert inside.refused() == {}


def test_who_is_outside_holds_it_until_it_is_promoted(outside: Actor) -> None:
    outside.release(THIRD, 3, SHARE)
    assert outside.tag() == "lease.7"
    without_snapshots(outside)
    assert outside.tag() == "release.2"
    outside.promote(THIRD, 3)
    # Without having been offered its bytes again.
    assert outside.tag() == "release.3"
    assert outside.refused() == {}


@pytest.mark.parametrize("share", [0.0181, 0.0182])
def test_the_share_that_counts_is_the_one_that_was_signed(inside: Actor, share: float) -> None:
    """actor-0001 has its place at 0.01812."""
    inside.release(THIRD, 3, share)
    assert inside.tag() == ("release.3" if share == 0.0182 else "lease.7")


@pytest.mark.parametrize("share", [float("nan"), -1.0])
def test_a_share_that_makes_no_sense_is_nobodys(inside: Actor, share: float) -> None:
    inside.release(THIRD, 3, share)
    without_snapshots(inside)
    assert inside.tag() == "release.2"


@pytest.mark.parametrize("name", [INSIDE, OUTSIDE])
def test_a_revoked_canary_is_dropped_and_all_is_as_before(socket_directory: Path, name: str) -> None:
    with actor(socket_directory, name) as watching:
        watching.release(THIRD, 3, SHARE)
        watching.revoke(THIRD, 3)
        assert watching.tag() == "lease.7"
        without_snapshots(watching)
        assert watching.tag() == "release.2"
        # Neither its verdict nor a promotion brings it back.
        watching.promote(THIRD, 3)
        watching.release(THIRD, 3, SHARE)
        assert watching.tag() == "release.2"
        assert watching.refused() == {"revoked": 1}
        watching.release(FOURTH, 4)
        assert watching.tag() == "release.4"


def test_a_promotion_may_come_before_the_release(outside: Actor) -> None:
    without_snapshots(outside)
    outside.promote(THIRD, 3)
    assert outside.tag() == "release.2"
    outside.release(THIRD, 3, SHARE)
    assert outside.tag() == "release.3"


def test_a_second_promotion_and_a_second_offer_change_nothing(inside: Actor) -> None:
    without_snapshots(inside)
    signed = verdict(THIRD, 3, SHARE)
    inside.offer(RELEASE, THIRD, authority=signed)
    acting = inside.client.current()
    assert acting is not None
    for _ in range(2):
        inside.offer(RELEASE, THIRD, authority=signed)
        assert inside.client.current() is acting
    for _ in range(2):
        inside.promote(THIRD, 3)
        inside.offer(RELEASE, THIRD, authority=signed)
        assert inside.client.current() is acting
    assert inside.refused() == {}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_not_signed_for_this_run_promotes_nothing(outside: Actor, name: str) -> None:
    without_snapshots(outside)
    outside.release(THIRD, 3, SHARE)
    kind, make = FORGERIES[name]
    outside.offer(PROMOTION, authority=make(), digest=artifact_digest(THIRD))
    assert outside.tag() == "release.2"
    assert outside.refused() == {kind.reason: 1}  # type: ignore[attr-defined]


def test_a_promotion_of_another_artifact_or_number_is_not_this_ones(outside: Actor) -> None:
    without_snapshots(outside)
    outside.release(THIRD, 3, SHARE)
    outside.promote(FOURTH, 3)
    outside.promote(THIRD, 4)
    assert outside.tag() == "release.2"
    # What it holds stays as it was: promoted by the right one.
    outside.promote(THIRD, 3)
    assert outside.tag() == "release.3"


def test_nor_is_it_of_one_that_comes_later(outside: Actor) -> None:
    without_snapshots(outside)
    outside.promote(FOURTH, 3)
    outside.promote(THIRD, 4)
    outside.release(THIRD, 3, SHARE)
    assert outside.tag() == "release.2"


def test_an_older_release_than_the_newest_is_not_promoted(outside: Actor) -> None:
    """Played back: release 3 was a canary of which nothing came, release 4 has been accepted since."""
    without_snapshots(outside)
    outside.release(THIRD, 3, SHARE)
    outside.release(FOURTH, 4)
    assert outside.tag() == "release.4"
    outside.promote(THIRD, 3)
    outside.release(THIRD, 3, SHARE)
    assert outside.tag() == "release.4"
    assert outside.refused() == {"replayed": 2}


def test_an_older_canary_is_refused(inside: Actor) -> None:
    inside.release(FOURTH, 4, SHARE)
    inside.release(THIRD, 3, SHARE)
    inside.release(FIRST, 1, SHARE)
    assert inside.tag() == "release.4"
    assert inside.refused() == {"replayed": 2}
    inside.revoke(FOURTH, 4)
    # As with any release: nothing newer stands that was accepted.
    inside.release(THIRD, 3, SHARE)
    assert inside.tag() == "release.3"


def test_a_newer_release_for_everywhere_ends_a_canary(inside: Actor) -> None:
    without_snapshots(inside)
    inside.release(THIRD, 3, SHARE)
    inside.release(FOURTH, 4)
    assert inside.tag() == "release.4"


def test_a_canary_keeps_back_no_release_that_is_left(outside: Actor) -> None:
    """Release 2 is revoked while 3 is a canary: 1, which this actor never had, is what is left for everywhere."""
    without_snapshots(outside)
    outside.release(THIRD, 3, SHARE)
    outside.revoke(SECOND, 2)
    assert outside.tag() == ""
    outside.release(FIRST, 1)
    assert outside.tag() == "release.1"
    outside.promote(THIRD, 3)
    assert outside.tag() == "release.3"
    assert outside.refused() == {}


def test_the_promoted_release_that_is_left_is_taken_with_its_promotion(outside: Actor) -> None:
    """An actor that never had release 1, which was a canary once: without its promotion it is no release for it."""
    without_snapshots(outside)
    outside.release(THIRD, 3, SHARE)
    outside.revoke(SECOND, 2)
    outside.release(FIRST, 1, SHARE)
    assert outside.refused() == {"replayed": 1}
    outside.promote(FIRST, 1)
    outside.release(FIRST, 1, SHARE)
    assert outside.tag() == "release.1"


def test_with_nothing_else_a_canary_is_waited_for_by_its_share_only(socket_directory: Path) -> None:
    for name in (INSIDE, OUTSIDE):
        (socket_directory / name).mkdir()
        server = HostileServer(socket_directory / name)
        client = PolicyClient(server.address, TRUST, "numpy", name, "start-1")
        try:
            scene = Actor(server, client)
            scene.release(THIRD, 3, SHARE)
            acting = client.wait(0.05)
            assert (acting is None) == (name == OUTSIDE)
            scene.promote(THIRD, 3)
            acting = client.wait(WAIT_S)
            assert acting is not None
            assert acting.tag == "release.3"
        finally:
            client.close()
            server.close()


@pytest.mark.parametrize(("share", "included"), [(0.82, False), (0.83, True)])
def test_an_inference_service_is_one_actor_by_its_own_name(
    socket_directory: Path, share: float, included: bool
) -> None:
    """Named "inference", it has its place at 0.8282; whoever it serves acts with what it acts with."""
    first, second = make_artifact(seed=1), make_artifact(seed=2)
    trust = TrustPolicy(INFERENCE_KEY.verify_key, RUN_ID)
    with (
        inference_of(socket_directory, first) as (board, address),
        contextlib.closing(ServedPolicy(address, first.spec, timeout_s=WAIT_S)) as policy,
    ):
        before, data = policy.probe(WAIT_S).digest, second.to_bytes()
        signed = signed_verdict(INFERENCE_KEY, artifact_digest(data), release_number=2, version=20, canary_share=share)
        canary = board.publish_release(20, data, signed)
        if included:
            until(lambda: policy.probe(WAIT_S).digest == canary)
        else:
            assert {policy.probe(WAIT_S).digest for _ in range(50)} == {before}
        statement = signed_promotion(INFERENCE_KEY, canary, release_number=2)
        board.publish_promotion(Promotion.verified(statement, trust))
        until(lambda: policy.probe(WAIT_S).digest == canary)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
