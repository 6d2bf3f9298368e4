"""From the gate to an actor: verdicts of a real safety service, an attacker in between, and a real actor process that
must act with what was let through, and with nothing else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from policies.artifact import artifact_digest
from policies.signing import VERDICT_TYPE, SigningKey, sign
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from protos.safety.v1 import safety_pb2
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.testing import serving as replay_serving
from safety.keys.directory import default_place
from safety.testing import balancing_artifact, cartpole_artifact, drifting_artifact
from tests.policies.hostile_server import HostileServer
from tests.safety.actor_process import WAIT_S, acting
from tests.safety.safety_process import RUN, running

RELEASE = policy_pb2.PolicyOffer.KIND_RELEASE

FIRST, SECOND = balancing_artifact().to_bytes(), cartpole_artifact((0.1, 0.2, 3.0, 1.0)).to_bytes()
UNSAFE = drifting_artifact().to_bytes()

Statement = common_pb2.SignedStatement


class Verdicts(NamedTuple):
    """What the safety service said: FIRST became release 1, SECOND release 2, and UNSAFE none. And its key."""

    first: Statement
    second: Statement
    unsafe: Statement
    key: SigningKey


@pytest.fixture
def verdicts(socket_directory: Path) -> Verdicts:
    with running(socket_directory) as client:
        first, second, unsafe = (client.evaluate(data, RUN, 1, WAIT_S) for data in (FIRST, SECOND, UNSAFE))
    return Verdicts(first, second, unsafe, SigningKey.load(default_place(RUN) / "verdict_key.pem"))


def changed(
    statement: Statement, change: Callable[[safety_pb2.VerdictStatement], object], key: SigningKey
) -> Statement:
    """The statement after `change`, signed by `key`."""
    verdict = safety_pb2.VerdictStatement.FromString(statement.payload)
    change(verdict)
    return sign(key, VERDICT_TYPE, verdict.SerializeToString(deterministic=True))


def approve(verdict: safety_pb2.VerdictStatement) -> None:
    verdict.approved, verdict.release_number, verdict.reason = True, 3, ""


def expire(verdict: safety_pb2.VerdictStatement) -> None:
    verdict.expiry_time_ns = time.time_ns() - 1


def forged(verdicts: Verdicts) -> Statement:
    """Approved by somebody else, in the name of the trusted key."""
    statement = changed(verdicts.unsafe, approve, SigningKey.generate())
    statement.key_id = verdicts.unsafe.key_id
    return statement


def altered(verdicts: Verdicts) -> Statement:
    """A genuine rejection that has been turned into an approval."""
    statement = changed(verdicts.unsafe, approve, verdicts.key)
    statement.signature = verdicts.unsafe.signature
    return statement


def flipped(data: bytes) -> bytes:
    """The same but for one bit of the last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


@contextlib.contextmanager
def hostile(directory: Path) -> Iterator[HostileServer]:
    server = HostileServer(directory)
    try:
        yield server
    finally:
        server.close()


def acted_with(replay: ReplayClient) -> list[bytes]:
    """Digest of the policy of every stretch of steps that the actor has recorded."""
    return [span.digest for record in replay.records() for span in record.header.policies]


def wait_for_records(replay: ReplayClient, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while replay.stats(WAIT_S).appended_records < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.robustness
def test_a_real_actor_acts_only_with_what_the_gate_has_let_through(socket_directory: Path, verdicts: Verdicts) -> None:
    one_bit_off = changed(verdicts.first, lambda verdict: None, verdicts.key)
    one_bit_off.payload = flipped(one_bit_off.payload)
    attacks = [
        (UNSAFE, forged(verdicts), UNSAFE),
        (UNSAFE, altered(verdicts), UNSAFE),
        (FIRST, one_bit_off, FIRST),
        (UNSAFE, verdicts.unsafe, UNSAFE),
        (FIRST, changed(verdicts.first, expire, verdicts.key), FIRST),
        (UNSAFE, verdicts.first, UNSAFE),
        # Last, and the only one of its kind: offers are dealt with in order, so once it is refused, all have been.
        (flipped(FIRST), verdicts.first, FIRST),
    ]
    with (
        replay_serving(ReplayConfig(store="memory", fresh_unconsumed_max=100_000)) as replay_address,
        ReplayClient(replay_address) as replay,
        hostile(socket_directory) as server,
        acting(
            socket_directory,
            run_id=RUN,
            replay_address=replay_address,
            policy_address=server.address,
            trust_key_path=str(socket_directory / "safety" / "verify_key.pem"),
        ) as actor,
    ):
        for data, authority, named in attacks:
            server.send(kind=RELEASE, artifact=data, digest=artifact_digest(named), authority=authority)
        output = actor.wait_for("refused (altered_artifact)")
        for reason in ("forged", "not_approved", "expired", "wrong_artifact"):
            assert f"refused ({reason})" in output
        assert replay.stats(WAIT_S).appended_records == 0

        server.send(kind=RELEASE, artifact=SECOND, digest=artifact_digest(SECOND), authority=verdicts.second)
        wait_for_records(replay, 100)
        # Genuine, unexpired, approved, and older than what is in use.
        server.send(kind=RELEASE, artifact=FIRST, digest=artifact_digest(FIRST), authority=verdicts.first)
        actor.wait_for("refused (replayed)")
        wait_for_records(replay, int(replay.stats(WAIT_S).appended_records) + 100)
        assert actor.stop() == 0
        assert set(acted_with(replay)) == {artifact_digest(SECOND)}
