"""From the gate to an actor and back: a real safety service, the learner's distribution, and a real actor process,
which drops a revoked release and goes on with what is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from policies.artifact import artifact_digest
from policies.distribution import DistributionServer, PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_client import hand_over_revocation
from policies.release_keeper import ReleaseKeeper
from policies.signing import VerifyKey
from policies.trust import TrustPolicy
from protos import transport
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.testing import serving as replay_serving
from safety.client import SafetyClient, SafetyUnavailable
from safety.ledger import read_ledger
from safety.revocations import RevocationRefused, UnknownRelease
from safety.testing import balancing_artifact, cartpole_artifact
from tests.safety.actor_process import WAIT_S, acting
from tests.safety.safety_process import RUN, own_process, running

DATA = [balancing_artifact().to_bytes(), *(cartpole_artifact((0.1 * n, 0.2, 3.0, 1.0)).to_bytes() for n in (1, 2))]
DIGESTS = [artifact_digest(data) for data in DATA]


LANES = 4  # of the actor


class Learner(NamedTuple):
    """What a learner does with releases, without learning."""

    safety: SafetyClient
    registry: PolicyRegistry
    board: PolicyBoard
    address: str

    def release(self, number: int) -> None:
        """Has release `number` judged, registered and offered."""
        data = DATA[number - 1]
        signed = self.safety.evaluate(data, RUN, 10 * number, WAIT_S)
        assert self.registry.promote(data, signed).number == number
        self.board.publish_release(10 * number, data, signed)

    def revoke(self, number: int) -> None:
        signed = self.safety.revoke(RUN, number, "poisoned")
        hand_over_revocation(self.address, signed, WAIT_S)


@contextlib.contextmanager
def learner(directory: Path, safety: SafetyClient) -> Iterator[Learner]:
    trust = TrustPolicy(VerifyKey.load(directory / "safety" / "verify_key.pem"), RUN)
    board, registry = PolicyBoard(), PolicyRegistry(directory / "policies", trust)
    keeper = ReleaseKeeper(registry, board)
    keeper.start()
    server = DistributionServer(board, f"unix:{directory}/policy", keeper)
    try:
        yield Learner(safety, registry, board, server.start())
    finally:
        server.stop()


def spans_from(replay: ReplayClient, position: int) -> list[list[bytes]]:
    """For each record from `position` on, the policies of its steps, in their order."""
    headers = [record.header for record in replay.records(from_position=position)]
    return [[span.digest for span in header.policies] for header in headers]


def digests_from(replay: ReplayClient, position: int) -> set[bytes]:
    """Policies of the steps in the records from `position` on."""
    return {digest for spans in spans_from(replay, position) for digest in spans}


def appended(replay: ReplayClient) -> int:
    return int(replay.stats(WAIT_S).appended_records)


def wait_for_more(replay: ReplayClient, count: int) -> int:
    """Waits until that many more records have come; returns how many there are."""
    wanted, deadline = appended(replay) + count, time.monotonic() + WAIT_S
    while appended(replay) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return wanted


@pytest.mark.robustness
def test_a_real_actor_drops_a_revoked_release_and_goes_on(socket_directory: Path) -> None:
    with (
        running(socket_directory) as safety,
        learner(socket_directory, safety) as learning,
        replay_serving(ReplayConfig(store="memory", fresh_unconsumed_max=100_000)) as replay_address,
        ReplayClient(replay_address) as replay,
        acting(
            socket_directory,
            run_id=RUN,
            replay_address=replay_address,
            policy_address=learning.address,
            trust_key_path=str(socket_directory / "safety" / "verify_key.pem"),
        ) as actor,
    ):
        learning.release(1)
        wait_for_more(replay, 20)
        learning.release(2)
        actor_had_second = time.monotonic() + WAIT_S
        while DIGESTS[1] not in digests_from(replay, 0):
            assert time.monotonic() < actor_had_second
            time.sleep(0.02)

        learning.revoke(2)
        actor.wait_for("release 2 is revoked: poisoned")
        # Records of unrolls that had begun, or were on their way, may still have it; those after them do not.
        wait_for_more(replay, 100)
        position = appended(replay)
        wait_for_more(replay, 50)
        assert digests_from(replay, position) == {DIGESTS[0]}

        learning.revoke(1)
        actor.wait_for("release 1 is revoked: poisoned")
        wait_until_still(replay)

        learning.release(3)
        position = appended(replay)
        wait_for_more(replay, 20)
        # The unroll that was under way when the last policy went is taken up again by the next.
        later = spans_from(replay, position)
        assert {spans[-1] for spans in later} == {DIGESTS[2]}
        taken_up = {digest for spans in later for digest in spans} - {DIGESTS[2]}
        assert taken_up <= {DIGESTS[0]}
        assert [spans for spans in later if spans != [DIGESTS[2]]] == [
            spans for spans in later[:LANES] if len(spans) > 1
        ]
        assert actor.stop() == 0


def wait_until_still(replay: ReplayClient) -> None:
    """Waits until no more records come: the actor waits for a policy."""
    before, deadline = -1, time.monotonic() + WAIT_S
    while (now := appended(replay)) != before:
        assert time.monotonic() < deadline, "the actor goes on without a policy"
        before = now
        time.sleep(1.0)


@pytest.mark.robustness
def test_a_killed_service_keeps_what_it_revoked(socket_directory: Path) -> None:
    with own_process(socket_directory) as (service, client):
        client.evaluate(DATA[0], RUN, 1, WAIT_S)
        signed = client.revoke(RUN, 1, "poisoned")
        service.kill()
    with running(socket_directory) as client:
        assert client.revoke(RUN, 1, "another reason") == signed
        verdict = safety_pb2.VerdictStatement.FromString(client.evaluate(DATA[0], RUN, 1, WAIT_S).payload)
        assert not verdict.approved
        verdict = safety_pb2.VerdictStatement.FromString(client.evaluate(DATA[1], RUN, 2, WAIT_S).payload)
        assert (verdict.release_number, verdict.incumbent_digest) == (2, b"")


def test_refusals_over_the_wire(socket_directory: Path) -> None:
    with running(socket_directory) as client:
        with pytest.raises(UnknownRelease, match="no release 1; releases there are: none"):
            client.revoke(RUN, 1, "why")
        with pytest.raises(RevocationRefused, match="of run 'run-1' only"):
            client.revoke("run-2", 1, "why")
        with pytest.raises(RevocationRefused, match="0 characters"):
            client.revoke(RUN, 1, "")
        with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
            for request, code in (
                (safety_pb2.RevokeRequest(run_id=RUN, release_number=1, why="w"), grpc.StatusCode.NOT_FOUND),
                (safety_pb2.RevokeRequest(), grpc.StatusCode.INVALID_ARGUMENT),
            ):
                with pytest.raises(grpc.RpcError) as refusal:
                    safety_pb2_grpc.SafetyStub(channel).Revoke(request, timeout=WAIT_S)
                assert refusal.value.code() == code
    assert len(read_ledger(socket_directory / "safety")) == 1
    with (
        SafetyClient(f"unix:{socket_directory / 'nobody.sock'}") as nobody,
        pytest.raises(SafetyUnavailable, match=r"nobody\.sock"),
    ):
        nobody.revoke(RUN, 1, "why")
