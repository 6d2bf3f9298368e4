"""Snapshots and leases as actors get them: through a real board, renewed in time, silent when refused."""

from __future__ import annotations

import threading
import time

import pytest

from learner.publisher import LeaseKeeper, SnapshotPublisher, artifact_bytes
from learner.update import initial_state
from policies.artifact import Artifact, artifact_digest
from policies.distribution import PolicyBoard, Seen
from policies.signing import SigningKey
from policies.testing import RUN_ID, SECOND_NS, signed_lease
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from protos.safety.v1 import safety_pb2
from safety.client import LeaseRefused, SafetyClient
from tests.learner.test_learner_update import CONFIG, SPEC


class ScriptedSafety(SafetyClient):
    """Grants leases of `lease_s`, or refuses for the reason given; counts the calls. No connection."""

    def __init__(self, lease_s: float) -> None:
        self.key = SigningKey.generate()
        self.lease_s = lease_s
        self.refusal = ""
        self.calls = 0
        self.called = threading.Condition()

    def renew_lease(self, run_id: str, timeout_s: float = 5.0) -> common_pb2.SignedStatement:
        with self.called:
            self.calls += 1
            self.called.notify_all()
        if self.refusal:
            raise LeaseRefused(self.refusal)
        now = time.time_ns()
        return signed_lease(
            self.key,
            run_id=run_id,
            lease_number=self.calls,
            issue_time_ns=now,
            expiry_time_ns=now + int(self.lease_s * SECOND_NS),
        )

    def wait_for(self, calls: int) -> None:
        with self.called:
            assert self.called.wait_for(lambda: self.calls >= calls, 20), self.calls


def test_a_snapshot_is_the_state_s_policy() -> None:
    board, state = PolicyBoard(), initial_state(SPEC, CONFIG, seed=1)
    board.publish_lease(signed_lease(SigningKey.generate()))
    SnapshotPublisher(SPEC, board).publish(state)
    offers, _ = board.offers_since(Seen())
    snapshot = next(offer for offer in offers if offer.kind == policy_pb2.PolicyOffer.KIND_SNAPSHOT)
    assert snapshot.version == 0
    data = board.artifact(snapshot.digest)
    assert data == artifact_bytes(SPEC, state)
    assert artifact_digest(data) == snapshot.digest
    artifact = Artifact.from_bytes(data, snapshot.digest)
    assert artifact.spec == SPEC
    for name, array in state.parameters.items():
        assert (artifact.parameters[name] == array).all()


def test_the_lease_is_renewed_before_it_ends_and_not_much_more_often() -> None:
    safety, board = ScriptedSafety(lease_s=0.9), PolicyBoard()
    keeper = LeaseKeeper(safety, board, RUN_ID)
    start_s = time.monotonic()
    keeper.start()
    safety.wait_for(4)
    elapsed_s = time.monotonic() - start_s
    keeper.close()
    assert elapsed_s >= 0.85  # three pauses of a third of the lease
    assert keeper.refusal == ""


def test_a_refusal_is_told_and_asked_about_again() -> None:
    safety, board = ScriptedSafety(lease_s=60), PolicyBoard()
    safety.refusal = "too many violations"
    keeper = LeaseKeeper(safety, board, RUN_ID)
    keeper.start()
    safety.wait_for(3)
    assert keeper.refusal == "too many violations"
    assert board.offers_since(Seen())[0] == []
    safety.refusal = ""
    deadline = time.monotonic() + 20
    while keeper.refusal and time.monotonic() < deadline:
        time.sleep(0.01)
    assert keeper.refusal == ""
    keeper.close()


@pytest.mark.parametrize("fault", [RuntimeError("broken"), ValueError("odd")])
def test_no_fault_ends_the_renewing(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    safety, board = ScriptedSafety(lease_s=60), PolicyBoard()
    faults = [fault]

    def renew(run_id: str, timeout_s: float = 5.0) -> common_pb2.SignedStatement:
        if faults:
            raise faults.pop()
        return ScriptedSafety.renew_lease(safety, run_id, timeout_s)

    monkeypatch.setattr(safety, "renew_lease", renew)
    keeper = LeaseKeeper(safety, board, RUN_ID)
    keeper.start()
    safety.wait_for(1)
    keeper.close()
    assert not faults


def test_the_lease_statement_is_for_this_run() -> None:
    lease = ScriptedSafety(lease_s=1).renew_lease("some-run")
    assert safety_pb2.LeaseStatement.FromString(lease.payload).run_id == "some-run"
