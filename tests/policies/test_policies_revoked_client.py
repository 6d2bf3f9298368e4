"""Revocations over real sockets: what a client does with them, whoever serves them, and who may hand them in."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from policies.artifact import artifact_digest
from policies.client import PolicyClient
from policies.distribution import DistributionServer, PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_client import DistributionUnavailable, RevocationNotTaken, hand_over_revocation
from policies.release_keeper import ReleaseKeeper
from policies.revocation import Revocation
from policies.served import InferenceUnavailable, ServedPolicy
from policies.testing import RUN_ID, make_artifact, make_spec, signed_lease, signed_revocation
from policies.trust import TrustPolicy
from protos import transport
from protos.policy.v1 import policy_pb2, policy_pb2_grpc
from tests.policies.hostile_server import WAIT_S, HostileServer
from tests.policies.inference_host import KEY as INFERENCE_KEY
from tests.policies.inference_host import inference_of, publish
from tests.policies.test_policies_revocation import FIRST, FORGERIES, KEY, SECOND, THIRD, revocation, verdict

SNAPSHOT = policy_pb2.PolicyOffer.KIND_SNAPSHOT
RELEASE = policy_pb2.PolicyOffer.KIND_RELEASE
REVOCATION = policy_pb2.PolicyOffer.KIND_REVOCATION
TRUST = TrustPolicy(KEY.verify_key, RUN_ID)


class Scene(NamedTuple):
    """A client and the one that it watches, who may say anything. It was offered releases 1 and 2."""

    server: HostileServer
    client: PolicyClient

    def offer(self, kind: policy_pb2.PolicyOffer.Kind, data: bytes = b"", **fields: Any) -> None:
        digest = artifact_digest(data) if data else b""
        self.server.offer(self.client, **({"kind": kind, "artifact": data, "digest": digest} | fields))

    def release(self, data: bytes, number: int) -> None:
        self.offer(RELEASE, data, authority=verdict(data, number))

    def revoke(self, data: bytes, number: int = 1, **fields: Any) -> None:
        self.offer(REVOCATION, authority=revocation(data, number, **fields))

    def acting(self) -> int | str | None:
        """Number of the release that acts, "snapshot", or None."""
        acting = self.client.current()
        return None if acting is None else acting.release_number or acting.kind

    def refused(self) -> dict[str, int]:
        return {reason: count for reason, count in self.client.refused.items() if reason != "unknown_offer"}


@pytest.fixture
def scene(socket_directory: Path) -> Iterator[Scene]:
    server = HostileServer(socket_directory)
    client = PolicyClient(server.address, TRUST, "numpy", "actor-1", "start-1", expected=make_spec())
    try:
        scene = Scene(server, client)
        scene.release(FIRST, 1)
        scene.release(SECOND, 2)
        assert scene.acting() == 2
        yield scene
    finally:
        client.close()
        server.close()


def test_a_revoked_release_is_dropped_and_the_one_before_acts(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scene.revoke(SECOND, release_number=2)
    assert scene.acting() == 1
    assert scene.refused() == {}
    assert "release 2 is revoked: it learnt from poisoned records" in caplog.text


def test_without_another_release_nothing_acts(scene: Scene) -> None:
    scene.revoke(SECOND, 1)
    scene.revoke(FIRST, 2)
    assert scene.acting() is None
    assert scene.client.wait(0.05) is None
    scene.release(THIRD, 3)
    assert scene.acting() == 3


def test_its_old_verdict_does_not_bring_it_back(scene: Scene) -> None:
    scene.revoke(SECOND)
    for number in (2, 4):
        scene.release(SECOND, number)
    scene.offer(SNAPSHOT, SECOND, authority=signed_lease(KEY))
    assert scene.acting() == 1
    assert scene.refused() == {"revoked": 3}


def test_one_that_was_not_held_yet_is_refused_when_it_comes(scene: Scene) -> None:
    scene.revoke(THIRD, release_number=3)
    assert scene.acting() == 2
    scene.release(THIRD, 3)
    assert scene.refused() == {"revoked": 1}
    assert scene.acting() == 2


def test_a_snapshot_of_the_same_weights_is_dropped_too(scene: Scene) -> None:
    scene.offer(SNAPSHOT, SECOND, version=20, authority=signed_lease(KEY))
    assert scene.acting() == "snapshot"
    scene.revoke(SECOND)
    assert scene.acting() == 1
    scene.offer(SNAPSHOT, THIRD, version=21, authority=signed_lease(KEY, lease_number=2))
    assert scene.acting() == "snapshot"


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_not_signed_for_this_run_takes_nothing_back(scene: Scene, name: str) -> None:
    before = scene.client.current()
    kind, make = FORGERIES[name]
    scene.offer(REVOCATION, authority=make(), digest=artifact_digest(SECOND))
    assert scene.client.current() is before
    assert scene.refused() == {kind.reason: 1}  # type: ignore[attr-defined]


def test_what_counts_is_the_artifact_that_was_signed_not_the_one_that_is_offered(scene: Scene) -> None:
    scene.offer(REVOCATION, authority=revocation(FIRST), digest=artifact_digest(SECOND))
    assert scene.acting() == 2
    scene.release(THIRD, 3)
    scene.revoke(THIRD, 2)
    assert scene.acting() == 2


def test_after_it_only_the_newest_that_was_accepted_is_taken_again(scene: Scene) -> None:
    """Three releases have been accepted, two policies are held; whoever serves cannot go back farther than one."""
    scene.release(THIRD, 3)
    scene.revoke(THIRD, 1)
    scene.revoke(SECOND, 2)
    # Release 1 is not held any more: it acts when it is offered again, and nothing else does.
    assert scene.acting() is None
    scene.offer(RELEASE, FIRST, authority=verdict(FIRST, 1, run_id="another"))
    assert scene.acting() is None
    scene.release(FIRST, 1)
    assert scene.acting() == 1
    assert scene.refused() == {"wrong_run": 1}


def test_an_older_release_than_the_newest_that_stands_stays_refused(scene: Scene) -> None:
    scene.release(THIRD, 3)
    scene.revoke(THIRD)
    scene.release(FIRST, 1)
    assert scene.acting() == 2
    assert scene.refused() == {"replayed": 1}


class Learner(NamedTuple):
    """What a learner serves: releases 1 to 3, with a registry."""

    board: PolicyBoard
    server: DistributionServer
    address: str
    registry: PolicyRegistry


@contextlib.contextmanager
def learner_at(directory: Path, socket: Path) -> Iterator[Learner]:
    board, registry = PolicyBoard(), PolicyRegistry(directory, TRUST)
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    server = DistributionServer(board, f"unix:{socket}", keeper)
    try:
        yield Learner(board, server, server.start(), registry)
    finally:
        server.stop()


@pytest.fixture
def learner(tmp_path: Path, socket_directory: Path) -> Iterator[Learner]:
    registry = PolicyRegistry(tmp_path / "policies", TRUST)
    for number, data in enumerate((FIRST, SECOND, THIRD), start=1):
        registry.promote(data, verdict(data, number))
    with learner_at(tmp_path / "policies", socket_directory / "policy") as learner:
        yield learner


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def release_of(client: PolicyClient) -> int:
    acting = client.current()
    return 0 if acting is None else acting.release_number


def test_everybody_who_watches_drops_it_and_who_comes_later_never_has_it(learner: Learner) -> None:
    with contextlib.ExitStack() as stack:

        def watch(name: str) -> PolicyClient:
            client = PolicyClient(learner.address, TRUST, "numpy", name, "start")
            stack.callback(client.close)
            return client

        clients = [watch(f"actor-{number}") for number in range(3)]
        for client in clients:
            eventually(lambda client=client: release_of(client) == 3)  # type: ignore[misc]
        answer = hand_over_revocation(learner.address, revocation(THIRD, 1, release_number=3), WAIT_S)
        assert (answer.release_number, answer.watchers) == (2, 3)
        for client in clients:
            eventually(lambda client=client: release_of(client) == 2)  # type: ignore[misc]
        late = watch("late")
        eventually(lambda: release_of(late) == 2)
        assert not late.refused
        # The next release is taken as ever.
        other = THIRD[:-4] + b"\0\0\0\0"
        learner.registry.promote(other, verdict(other, 4))
        learner.board.publish_release(40, other, verdict(other, 4))
        for client in [*clients, late]:
            eventually(lambda client=client: release_of(client) == 4)  # type: ignore[misc]


def test_handing_it_in_again_changes_nothing(learner: Learner) -> None:
    signed = revocation(THIRD, 1, release_number=3)
    for _ in range(2):
        assert hand_over_revocation(learner.address, signed, WAIT_S).release_number == 2
    assert len(learner.registry.revocations()) == 1


def test_a_restarted_learner_keeps_it_revoked(tmp_path: Path, socket_directory: Path, learner: Learner) -> None:
    client = PolicyClient(learner.address, TRUST, "numpy", "actor-1", "start")
    try:
        eventually(lambda: release_of(client) == 3)
        learner.server.stop()
        # As the command line does for a run whose learner is away.
        learner.registry.revoke(revocation(THIRD, release_number=3))
        with learner_at(tmp_path / "policies", socket_directory / "policy"):
            eventually(lambda: release_of(client) == 2)
    finally:
        client.close()


@pytest.mark.parametrize("name", FORGERIES)
def test_a_learner_believes_nobody_but_the_safety_service(learner: Learner, name: str) -> None:
    with pytest.raises(RevocationNotTaken, match=r"INVALID_ARGUMENT: .*nothing was revoked"):
        hand_over_revocation(learner.address, FORGERIES[name][1](), WAIT_S)
    assert learner.board.release_number == 3
    assert learner.registry.revocations() == []


def test_who_cannot_take_it_says_so(socket_directory: Path) -> None:
    server = DistributionServer(PolicyBoard(), f"unix:{socket_directory}/other")
    try:
        address = server.start()
        with pytest.raises(RevocationNotTaken, match="FAILED_PRECONDITION: no revocations are stored here"):
            hand_over_revocation(address, revocation(FIRST), WAIT_S)
    finally:
        server.stop()
    with pytest.raises(DistributionUnavailable, match="nobody"):
        hand_over_revocation(f"unix:{socket_directory}/nobody", revocation(FIRST), 0.3)


def test_a_full_disk_is_told_after_the_actors_were(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    client = PolicyClient(learner.address, TRUST, "numpy", "actor-1", "start")
    try:
        eventually(lambda: release_of(client) == 3)
        monkeypatch.setattr("policies.registry.replace_file", fail)
        with pytest.raises(DistributionUnavailable, match=r"No space left.*have been told"):
            hand_over_revocation(learner.address, revocation(THIRD, release_number=3), WAIT_S)
        eventually(lambda: release_of(client) == 0)
    finally:
        client.close()


def test_a_watcher_hears_of_revocations_before_any_policy(learner: Learner) -> None:
    for number, data in ((1, THIRD), (2, FIRST)):
        hand_over_revocation(learner.address, revocation(data, number), WAIT_S)
    with transport.channel(learner.address) as channel:
        call = policy_pb2_grpc.PolicyDistributionStub(channel).Watch(
            policy_pb2.WatchRequest(actor_id="a", run_id="r"), timeout=WAIT_S
        )
        offers = [next(call) for _ in range(3)]
        call.cancel()
    assert [offer.kind for offer in offers] == [REVOCATION, REVOCATION, RELEASE]
    assert offers[-1].digest == artifact_digest(SECOND)


def test_served_inference_drops_it_too(socket_directory: Path) -> None:
    first, second = make_artifact(seed=1), make_artifact(seed=2)
    trust = TrustPolicy(INFERENCE_KEY.verify_key, RUN_ID)
    with inference_of(socket_directory, first) as (board, address), contextlib.ExitStack() as stack:
        policy = ServedPolicy(address, first.spec, timeout_s=WAIT_S)
        stack.callback(policy.close)
        digests = [policy.probe(WAIT_S).digest, publish(board, second, 2)]
        eventually(lambda: policy.probe(WAIT_S).digest == digests[1])
        board.publish_revocation(Revocation.verified(signed_revocation(INFERENCE_KEY, digests[1]), trust))
        eventually(lambda: policy.probe(WAIT_S).digest == digests[0])
        last = signed_revocation(INFERENCE_KEY, digests[0], revocation_number=2)
        board.publish_revocation(Revocation.verified(last, trust))
        with pytest.raises(InferenceUnavailable):
            for _ in range(int(WAIT_S / 0.01)):
                policy.probe(0.2)
                time.sleep(0.01)
