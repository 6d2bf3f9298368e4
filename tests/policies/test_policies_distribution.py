"""The board and its server over real sockets: what a watcher sees, and what a slow one skips."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from policies.artifact import artifact_digest
from policies.distribution import CHUNK_BYTES, INLINE_BYTES_MAX, RECENT_ARTIFACTS, DistributionServer, PolicyBoard, Seen
from policies.signing import SigningKey
from policies.testing import signed_lease, signed_verdict
from protos import transport
from protos.policy.v1 import policy_pb2, policy_pb2_grpc
from protos.safety.v1 import safety_pb2

SNAPSHOT = policy_pb2.PolicyOffer.KIND_SNAPSHOT
RELEASE = policy_pb2.PolicyOffer.KIND_RELEASE
LEASE = policy_pb2.PolicyOffer.KIND_LEASE
KEY = SigningKey.generate()
WATCH = policy_pb2.WatchRequest(actor_id="actor-1", run_id="start-1")


@pytest.fixture
def board() -> PolicyBoard:
    return PolicyBoard()


@pytest.fixture
def server(board: PolicyBoard) -> Iterator[tuple[DistributionServer, grpc.Channel]]:
    server = DistributionServer(board, "127.0.0.1:0")
    try:
        with transport.channel(server.start()) as channel:
            yield server, channel
    finally:
        server.stop()


@pytest.fixture
def stub(server: tuple[DistributionServer, grpc.Channel]) -> policy_pb2_grpc.PolicyDistributionStub:
    return policy_pb2_grpc.PolicyDistributionStub(server[1])


def _release(board: PolicyBoard, data: bytes) -> None:
    board.publish_release(7, data, signed_verdict(KEY, artifact_digest(data)))


def test_the_board_shows_each_thing_once(board: PolicyBoard) -> None:
    assert board.offers_since(Seen()) == ([], Seen())
    _release(board, b"release")
    offers, seen = board.offers_since(Seen())
    assert [(offer.kind, offer.version, offer.artifact) for offer in offers] == [(RELEASE, 7, b"release")]
    assert board.offers_since(seen) == ([], seen)


def test_what_is_withdrawn_is_not_offered_until_there_is_something_new(board: PolicyBoard) -> None:
    _release(board, b"release")
    board.publish_lease(signed_lease(KEY, lease_number=1))
    digest = board.publish_snapshot(1, b"one")
    _, seen = board.offers_since(Seen())
    board.withdraw_snapshot()
    assert board.artifact(digest) is None
    assert board.offers_since(seen)[0] == []
    assert [offer.kind for offer in board.offers_since(Seen())[0]] == [RELEASE]
    # A snapshot without a lease is not offered either; then both come together.
    board.publish_snapshot(2, b"two")
    assert board.offers_since(seen)[0] == []
    board.publish_lease(signed_lease(KEY, lease_number=2))
    for known in (seen, Seen()):
        snapshot = board.offers_since(known)[0][-1]
        assert (snapshot.kind, snapshot.version, snapshot.artifact) == (SNAPSHOT, 2, b"two")
        assert safety_pb2.LeaseStatement.FromString(snapshot.authority.payload).lease_number == 2


def test_a_snapshot_waits_for_a_lease_and_goes_with_the_newest(board: PolicyBoard) -> None:
    board.publish_snapshot(1, b"one")
    offers, seen = board.offers_since(Seen())
    assert offers == []
    board.publish_lease(signed_lease(KEY, lease_number=1))
    board.publish_lease(newest := signed_lease(KEY, lease_number=2))
    offers, seen = board.offers_since(seen)
    assert [(offer.kind, offer.digest) for offer in offers] == [(SNAPSHOT, artifact_digest(b"one"))]
    assert offers[0].authority == newest
    board.publish_lease(renewed := signed_lease(KEY, lease_number=3))
    offers, seen = board.offers_since(seen)
    assert offers == [policy_pb2.PolicyOffer(kind=LEASE, authority=renewed)]
    board.publish_snapshot(2, b"two")
    offers, _ = board.offers_since(seen)
    assert [(offer.kind, offer.version) for offer in offers] == [(SNAPSHOT, 2)]


def test_the_board_keeps_the_release_and_a_few_snapshots(board: PolicyBoard) -> None:
    _release(board, b"release")
    digests = [board.publish_snapshot(index, b"%d" % index) for index in range(RECENT_ARTIFACTS + 3)]
    assert [board.artifact(digest) is not None for digest in digests] == [False] * 3 + [True] * RECENT_ARTIFACTS
    assert board.artifact(artifact_digest(b"release")) == b"release"


def test_unsubscribed_is_silent(board: PolicyBoard) -> None:
    calls: list[int] = []
    unsubscribe = board.subscribe(lambda: calls.append(1))
    board.publish_snapshot(1, b"one")
    unsubscribe()
    board.publish_snapshot(2, b"two")
    assert calls == [1]


def test_a_watcher_sees_the_newest_at_once_and_then_each_change(
    board: PolicyBoard, stub: policy_pb2_grpc.PolicyDistributionStub
) -> None:
    _release(board, b"release")
    board.publish_snapshot(1, b"one")
    board.publish_lease(signed_lease(KEY))
    call = stub.Watch(WATCH, timeout=20)
    assert [offer.kind for offer in itertools.islice(call, 2)] == [RELEASE, SNAPSHOT]
    board.publish_lease(signed_lease(KEY, lease_number=2))
    assert next(call).kind == LEASE
    board.publish_snapshot(2, b"two")
    offer = next(call)
    assert (offer.kind, offer.version, offer.artifact) == (SNAPSHOT, 2, b"two")
    call.cancel()


def test_a_slow_watcher_skips_to_the_newest(board: PolicyBoard, stub: policy_pb2_grpc.PolicyDistributionStub) -> None:
    board.publish_lease(signed_lease(KEY))
    call = stub.Watch(WATCH, timeout=60)
    assert next(call).kind == LEASE
    published = 100
    for version in range(1, published + 1):
        board.publish_snapshot(version, version.to_bytes(4, "little") * (INLINE_BYTES_MAX // 4))
        time.sleep(0.002)
    versions: list[int] = []
    while not versions or versions[-1] < published:
        versions.append(next(call).version)
    assert versions == sorted(versions)
    assert len(versions) < published / 2
    call.cancel()


def test_a_large_artifact_is_fetched_by_digest(
    board: PolicyBoard, stub: policy_pb2_grpc.PolicyDistributionStub
) -> None:
    data = bytes(range(256)) * (INLINE_BYTES_MAX * 5 // 2 // 256)
    board.publish_lease(signed_lease(KEY))
    digest = board.publish_snapshot(1, data)
    call = stub.Watch(WATCH, timeout=20)
    offer = next(call)
    call.cancel()
    assert (offer.digest, offer.artifact) == (digest, b"")
    chunks = list(stub.Fetch(policy_pb2.FetchRequest(digest=digest), timeout=20))
    assert b"".join(chunk.data for chunk in chunks) == data
    assert {chunk.total_bytes for chunk in chunks} == {len(data)}
    assert max(len(chunk.data) for chunk in chunks) == CHUNK_BYTES


@pytest.mark.parametrize(
    ("digest", "code", "said"),
    [
        (b"", grpc.StatusCode.INVALID_ARGUMENT, "has 0 bytes, it must have 32"),
        (b"\0" * 32, grpc.StatusCode.NOT_FOUND, "00000000 is not offered"),
    ],
)
def test_what_cannot_be_fetched(
    stub: policy_pb2_grpc.PolicyDistributionStub, digest: bytes, code: grpc.StatusCode, said: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Fetch(policy_pb2.FetchRequest(digest=digest), timeout=20))
    assert refused.value.code() is code
    assert said in str(refused.value.details())


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, "line\n"])
def test_a_watcher_without_a_proper_name_is_refused(stub: policy_pb2_grpc.PolicyDistributionStub, name: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        next(stub.Watch(policy_pb2.WatchRequest(actor_id="a", run_id=name), timeout=20))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "run_id" in str(refused.value.details())


def test_watchers_are_counted_while_they_watch(
    server: tuple[DistributionServer, grpc.Channel], board: PolicyBoard, stub: policy_pb2_grpc.PolicyDistributionStub
) -> None:
    _release(board, b"release")
    calls = [stub.Watch(WATCH, timeout=20) for _ in range(3)]
    for call in calls:
        next(call)
    assert server[0].watchers == 3
    for call in calls:
        call.cancel()
    deadline = time.monotonic() + 10
    while server[0].watchers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server[0].watchers == 0


def test_stopping_ends_a_watch_in_order(board: PolicyBoard) -> None:
    _release(board, b"release")
    server = DistributionServer(board, "127.0.0.1:0")
    with transport.channel(server.start()) as channel, contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        call = policy_pb2_grpc.PolicyDistributionStub(channel).Watch(WATCH, timeout=20)
        assert next(call).kind == RELEASE
        server.stop()
        assert list(call) == []
    board.publish_snapshot(1, b"after the end")


def test_health_is_serving(server: tuple[DistributionServer, grpc.Channel]) -> None:
    stub = health_pb2_grpc.HealthStub(server[1])
    for name in ("", "temper.policy.v1.PolicyDistribution"):
        response = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_a_bound_address_is_said_by_start(board: PolicyBoard, socket_directory: Path) -> None:
    address = f"unix:{socket_directory}/policy"
    first, second = DistributionServer(board, address), DistributionServer(board, address)
    try:
        assert first.start() == address
        with pytest.raises(transport.AddressError, match="already bound"):
            second.start()
    finally:
        first.stop()
        second.stop()


def test_a_server_that_never_started_can_be_stopped(board: PolicyBoard) -> None:
    DistributionServer(board, "127.0.0.1:0").stop()
