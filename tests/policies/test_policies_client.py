"""The actor's own judgement: an attacker's offers are refused; what is held follows leases, releases and the clock."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.artifact import artifact_digest
from policies.client import PolicyClient
from policies.distribution import DistributionServer, PolicyBoard
from policies.inference import BackendError
from policies.signing import SigningKey
from policies.testing import RUN_ID, SECOND_NS, make_artifact, make_spec, signed_lease, signed_verdict
from policies.trust import TrustPolicy
from protos.policy.v1 import policy_pb2
from tests.policies.hostile_server import WAIT_S, HostileServer

SNAPSHOT = policy_pb2.PolicyOffer.KIND_SNAPSHOT
RELEASE = policy_pb2.PolicyOffer.KIND_RELEASE
LEASE = policy_pb2.PolicyOffer.KIND_LEASE

KEY = SigningKey.generate()
GOOD, BETTER, OTHER = (make_artifact(seed=seed).to_bytes() for seed in (1, 2, 3))
NOW = time.time_ns()


@dataclasses.dataclass
class Clock:
    now_ns: int = NOW

    def __call__(self) -> int:
        return self.now_ns


@dataclasses.dataclass
class Scene:
    """A client, the attacker it watches, and the clock it goes by. It holds release 5 (GOOD, version 50)."""

    server: HostileServer
    client: PolicyClient
    clock: Clock

    def offer(self, kind: policy_pb2.PolicyOffer.Kind, data: bytes = b"", **fields: Any) -> None:
        offer = {"kind": kind, "artifact": data, "digest": artifact_digest(data) if data else b""} | fields
        self.server.offer(self.client, **offer)

    def held(self) -> tuple[str, int, int] | None:
        acting = self.client.current()
        return None if acting is None else (acting.kind, acting.version, acting.release_number)

    def refused(self) -> dict[str, int]:
        return {reason: count for reason, count in self.client.refused.items() if reason != "unknown_offer"}


@pytest.fixture
def scene(socket_directory: Path) -> Iterator[Scene]:
    server, clock = HostileServer(socket_directory), Clock()
    trust = TrustPolicy(KEY.verify_key, RUN_ID, clock)
    client = PolicyClient(server.address, trust, "numpy", "actor-1", "start-1", expected=make_spec())
    try:
        scene = Scene(server, client, clock)
        scene.offer(RELEASE, GOOD, version=50, authority=verdict(GOOD, version=50, release_number=5))
        assert scene.held() == ("release", 50, 5)
        yield scene
    finally:
        client.close()
        server.close()


def verdict(data: bytes, **fields: Any) -> Any:
    times = {"issue_time_ns": NOW, "expiry_time_ns": NOW + 100 * SECOND_NS}
    return signed_verdict(fields.pop("key", KEY), artifact_digest(data), **(times | fields))


def lease(number: int, seconds: float = 10, **fields: Any) -> Any:
    times = {"issue_time_ns": NOW, "expiry_time_ns": NOW + int(seconds * SECOND_NS)}
    return signed_lease(fields.pop("key", KEY), **({"lease_number": number} | times | fields))


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def with_nan() -> bytes:
    artifact = make_artifact(seed=9)
    artifact.parameters["value/kernel"][0] = np.nan
    return artifact.to_bytes()


def altered_verdict() -> Any:
    statement = verdict(BETTER, release_number=6)
    statement.payload = statement.payload.replace(artifact_digest(BETTER), artifact_digest(OTHER))
    return statement


def with_too_many_dimensions() -> bytes:
    """An artifact with a tensor of more dimensions than NumPy can have."""
    data = make_artifact(seed=9).to_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["value/bias"]["shape"] = [1] * 65
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


MISFIT = make_artifact(make_spec((5,))).to_bytes()
MORE_ACTIONS = make_artifact(make_spec(choices=3)).to_bytes()

BAD_RELEASES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "signed by a stranger": (
        "forged",
        lambda: {"data": BETTER, "authority": verdict(BETTER, release_number=6, key=SigningKey.generate())},
    ),
    "altered to name another artifact": ("forged", lambda: {"data": OTHER, "authority": altered_verdict()}),
    "unsigned": ("forged", lambda: {"data": BETTER}),
    "a lease in place of the verdict": ("forged", lambda: {"data": BETTER, "authority": lease(6)}),
    "expired": (
        "expired",
        lambda: {"data": BETTER, "authority": verdict(BETTER, release_number=6, expiry_time_ns=NOW)},
    ),
    "an older release played back": ("replayed", lambda: {"data": OTHER, "authority": verdict(OTHER)}),
    "the same number for another artifact": (
        "replayed",
        lambda: {"data": OTHER, "authority": verdict(OTHER, release_number=5)},
    ),
    "of another run": (
        "wrong_run",
        lambda: {"data": BETTER, "authority": verdict(BETTER, release_number=6, run_id="another")},
    ),
    "the verdict of another artifact": (
        "wrong_artifact",
        lambda: {"data": OTHER, "authority": verdict(BETTER, release_number=6)},
    ),
    "rejected": (
        "not_approved",
        lambda: {"data": BETTER, "authority": verdict(BETTER, release_number=0, approved=False)},
    ),
    "one flipped bit in the artifact": (
        "altered_artifact",
        lambda: {
            "data": flipped(BETTER),
            "digest": artifact_digest(BETTER),
            "authority": verdict(BETTER, release_number=6),
        },
    ),
    "approved but no artifact": (
        "malformed_artifact",
        lambda: {"data": b"no artifact", "authority": verdict(b"no artifact", release_number=6)},
    ),
    "approved but NaN": (
        "not_finite",
        lambda: {"data": with_nan(), "authority": verdict(with_nan(), release_number=6)},
    ),
    "approved for other observations": (
        "wrong_spec",
        lambda: {"data": MISFIT, "authority": verdict(MISFIT, release_number=6)},
    ),
    "approved for other actions": (
        "wrong_spec",
        lambda: {"data": MORE_ACTIONS, "authority": verdict(MORE_ACTIONS, release_number=6)},
    ),
    "not to be had": (
        "fetch_failed",
        lambda: {"digest": artifact_digest(BETTER), "authority": verdict(BETTER, release_number=6)},
    ),
}


@pytest.mark.parametrize("name", BAD_RELEASES)
def test_a_bad_release_is_refused_and_the_old_one_kept(scene: Scene, name: str) -> None:
    reason, fields = BAD_RELEASES[name]
    before = scene.client.current()
    scene.offer(RELEASE, **fields())
    assert scene.refused() == {reason: 1}
    assert scene.client.current() is before
    # Nothing of the attack is remembered: the honest release is taken.
    scene.offer(RELEASE, BETTER, authority=verdict(BETTER, version=60, release_number=6))
    assert scene.held() == ("release", 60, 6)


BAD_SNAPSHOTS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "lease signed by a stranger": (
        "forged",
        lambda: {"data": BETTER, "authority": lease(9, key=SigningKey.generate())},
    ),
    "a verdict in place of the lease": ("forged", lambda: {"data": BETTER, "authority": verdict(BETTER)}),
    "lease expired": ("expired", lambda: {"data": BETTER, "authority": lease(9, seconds=0)}),
    "older lease played back": ("replayed", lambda: {"data": BETTER, "authority": lease(7)}),
    "lease of another run": ("wrong_run", lambda: {"data": BETTER, "authority": lease(9, run_id="another")}),
    "one flipped bit": (
        "altered_artifact",
        lambda: {"data": flipped(BETTER), "digest": artifact_digest(BETTER), "authority": lease(9)},
    ),
    "NaN": ("not_finite", lambda: {"data": with_nan(), "authority": lease(9)}),
    "other observations": ("wrong_spec", lambda: {"data": MISFIT, "authority": lease(9)}),
    "more dimensions than an array can have": (
        "malformed_artifact",
        lambda: {"data": with_too_many_dimensions(), "authority": lease(9)},
    ),
}


@pytest.mark.parametrize("name", BAD_SNAPSHOTS)
def test_a_bad_snapshot_is_refused_and_the_old_one_kept(scene: Scene, name: str) -> None:
    scene.offer(SNAPSHOT, OTHER, version=70, authority=lease(8))
    reason, fields = BAD_SNAPSHOTS[name]
    before = scene.client.current()
    scene.offer(SNAPSHOT, version=71, **fields())
    assert scene.refused() == {reason: 1}
    assert scene.client.current() is before
    assert scene.held() == ("snapshot", 70, 0)
    # Nothing of the attack stays: the next snapshot is taken.
    scene.offer(SNAPSHOT, GOOD, version=72, authority=lease(9))
    assert scene.held() == ("snapshot", 72, 0)


def test_setting_the_clock_back_does_not_prolong_a_lease(scene: Scene) -> None:
    scene.offer(SNAPSHOT, BETTER, version=70, authority=lease(8, seconds=0.5))
    scene.clock.now_ns = NOW - 4 * SECOND_NS
    # Near enough for the same lease to be believed once more.
    scene.offer(LEASE, authority=lease(8, seconds=0.5))
    assert scene.refused() == {}
    deadline = time.monotonic() + WAIT_S / 2
    while scene.held() != ("release", 50, 5):
        assert time.monotonic() < deadline, "the lease of half a second goes on"
        time.sleep(0.02)


def test_a_forged_lease_does_not_prolong(scene: Scene) -> None:
    scene.offer(SNAPSHOT, BETTER, version=70, authority=lease(8, seconds=10))
    scene.offer(LEASE, authority=lease(9, seconds=1e6, key=SigningKey.generate()))
    scene.clock.now_ns = NOW + 11 * SECOND_NS
    assert scene.held() == ("release", 50, 5)
    assert scene.refused() == {"forged": 1}


def test_a_refusal_is_logged_once_per_reason(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "policies.client"):
        for _ in range(3):
            scene.offer(RELEASE, BETTER, authority=verdict(BETTER, release_number=6, run_id="another"))
        scene.offer(RELEASE, BETTER)
    assert scene.refused() == {"wrong_run": 3, "forged": 1}
    reasons = [reason for reason in ("wrong_run", "forged") for record in caplog.records if reason in record.message]
    assert reasons == ["wrong_run", "forged"]


def test_a_snapshot_acts_while_its_lease_lives_and_not_a_nanosecond_longer(scene: Scene) -> None:
    scene.offer(SNAPSHOT, BETTER, version=70, authority=lease(8, seconds=10))
    assert scene.held() == ("snapshot", 70, 0)
    scene.clock.now_ns = NOW + 10 * SECOND_NS - 1
    assert scene.held() == ("snapshot", 70, 0)
    scene.clock.now_ns = NOW + 10 * SECOND_NS
    assert scene.held() == ("release", 50, 5)
    scene.offer(LEASE, authority=lease(9, seconds=20))
    assert scene.held() == ("snapshot", 70, 0)


def test_a_snapshot_acts_only_under_leases_of_the_epoch_in_which_it_came(scene: Scene) -> None:
    def tag() -> str:
        acting = scene.client.current()
        return "" if acting is None else acting.tag

    assert tag() == "release.5"
    scene.offer(SNAPSHOT, BETTER, version=70, authority=lease(8, epoch=1))
    assert (scene.held(), tag()) == (("snapshot", 70, 0), "lease.1")
    before = scene.client.current()
    scene.offer(LEASE, authority=lease(9, epoch=1))
    assert scene.client.current() is before
    # After a breach: the lease alone brings nothing back.
    scene.offer(LEASE, authority=lease(10, epoch=2))
    assert (scene.held(), tag()) == (("release", 50, 5), "release.5")
    scene.offer(SNAPSHOT, OTHER, version=71, authority=lease(11, epoch=2))
    assert (scene.held(), tag()) == (("snapshot", 71, 0), "lease.2")
    # Not even the weights are other ones, but the learner vouches for them anew.
    scene.offer(LEASE, authority=lease(12, epoch=3))
    assert tag() == "release.5"
    scene.offer(SNAPSHOT, OTHER, version=71, authority=lease(13, epoch=3))
    assert (scene.held(), tag()) == (("snapshot", 71, 0), "lease.3")


def test_a_release_under_a_live_lease_waits_behind_the_snapshot(scene: Scene) -> None:
    scene.offer(SNAPSHOT, BETTER, version=70, authority=lease(8, seconds=10))
    scene.offer(RELEASE, OTHER, authority=verdict(OTHER, version=65, release_number=6))
    assert scene.held() == ("snapshot", 70, 0)
    scene.clock.now_ns = NOW + 10 * SECOND_NS
    assert scene.held() == ("release", 65, 6)


def test_the_version_of_a_release_is_the_signed_one(scene: Scene) -> None:
    scene.offer(RELEASE, BETTER, version=999, authority=verdict(BETTER, version=60, release_number=6))
    assert scene.held() == ("release", 60, 6)


def test_the_same_release_after_its_expiry_is_neither_refused_nor_rebuilt(scene: Scene) -> None:
    before = scene.client.current()
    scene.clock.now_ns = NOW + 1000 * SECOND_NS
    scene.offer(RELEASE, GOOD, version=50, authority=verdict(GOOD, version=50, release_number=5))
    assert scene.refused() == {}
    assert scene.client.current() is before


def test_a_learner_that_resumed_may_offer_an_older_version(scene: Scene) -> None:
    scene.offer(SNAPSHOT, BETTER, version=70, authority=lease(8))
    scene.offer(SNAPSHOT, OTHER, version=60, authority=lease(8))
    assert scene.held() == ("snapshot", 60, 0)


def test_fetched_artifacts_are_checked_like_inline_ones(scene: Scene) -> None:
    digest = artifact_digest(BETTER)
    pieces = [policy_pb2.ArtifactChunk(data=part, total_bytes=len(BETTER)) for part in (BETTER[:99], BETTER[99:])]
    for count, chunks in enumerate((pieces[::-1], pieces[:1], []), start=1):
        scene.server.fetched[digest] = chunks
        scene.offer(RELEASE, digest=digest, authority=verdict(BETTER, release_number=6))
        assert scene.refused() == {"altered_artifact": count}
    scene.server.fetched[digest] = [policy_pb2.ArtifactChunk(data=b"x", total_bytes=1 << 40)]
    scene.offer(RELEASE, digest=digest, authority=verdict(BETTER, release_number=6))
    assert scene.client.refused["malformed_artifact"] == 1
    assert scene.held() == ("release", 50, 5)
    scene.server.fetched[digest] = pieces
    scene.offer(RELEASE, digest=digest, authority=verdict(BETTER, version=60, release_number=6))
    assert scene.held() == ("release", 60, 6)


def test_without_any_authority_nothing_acts(socket_directory: Path) -> None:
    server, clock = HostileServer(socket_directory), Clock()
    client = PolicyClient(server.address, TrustPolicy(KEY.verify_key, RUN_ID, clock), "numpy", "a", "r")
    try:
        assert client.wait(0.05) is None
        server.offer(client, kind=SNAPSHOT, artifact=GOOD, digest=artifact_digest(GOOD), authority=lease(1, seconds=5))
        held = client.wait(5.0)
        assert held is not None
        assert held.digest == artifact_digest(GOOD)
        clock.now_ns = NOW + 5 * SECOND_NS
        assert client.current() is None
    finally:
        client.close()
        server.close()


def test_a_client_outlives_its_server(socket_directory: Path) -> None:
    address = f"unix:{socket_directory}/policy"
    client = PolicyClient(address, TrustPolicy(KEY.verify_key, RUN_ID, Clock()), "numpy", "actor-1", "start-1")
    first = PolicyBoard()
    first.publish_release(50, GOOD, verdict(GOOD, version=50, release_number=5))
    servers = [DistributionServer(first, address)]
    try:
        assert client.current() is None
        servers[0].start()
        held = client.wait(WAIT_S)
        assert held is not None
        assert held.release_number == 5
        servers[0].stop()
        assert client.current() is held

        second = PolicyBoard()
        second.publish_release(50, GOOD, verdict(GOOD, version=50, release_number=5))
        servers.append(DistributionServer(second, address))
        servers[1].start()
        second.publish_snapshot(51, BETTER)
        second.publish_lease(lease(1, seconds=100))
        deadline = time.monotonic() + WAIT_S
        while (acting := client.current()) is held and time.monotonic() < deadline:
            time.sleep(0.01)
        assert acting is not None
        assert (acting.kind, acting.version, acting.digest) == ("snapshot", 51, artifact_digest(BETTER))
        assert not client.refused
    finally:
        client.close()
        for server in servers:
            server.stop()


def test_closing_without_a_server_is_quick_and_may_be_repeated(socket_directory: Path) -> None:
    client = PolicyClient(f"unix:{socket_directory}/none", TrustPolicy(KEY.verify_key, RUN_ID), "numpy", "a", "r")
    started = time.monotonic()
    client.close()
    client.close()
    assert time.monotonic() - started < 4.0


def test_an_unknown_backend_is_said_at_once(socket_directory: Path) -> None:
    trust = TrustPolicy(KEY.verify_key, RUN_ID)
    with pytest.raises(BackendError):
        PolicyClient(f"unix:{socket_directory}/none", trust, "torch", "a", "r")  # type: ignore[arg-type]
