"""Snapshots and leases as actors get them: through a real board, renewed in time, silent when refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from learner.publisher import LeaseKeeper, SnapshotPublisher, artifact_bytes
from learner.train_state import initial_state
from policies.artifact import Artifact, artifact_digest
from policies.distribution import PolicyBoard, Seen
from policies.signing import SigningKey
from policies.testing import RUN_ID, SECOND_NS, signed_lease
from protos.common.v1 import common_pb2
from protos.policy.v1 import policy_pb2
from protos.safety.v1 import safety_pb2
from safety.client import LeaseBreached, LeaseRefused, SafetyClient
from tests.learner.test_learner_update import CONFIG, SPEC


class ScriptedSafety(SafetyClient):
    """Grants leases of `lease_s`, or refuses for the reason given; counts the calls. No connection."""

    def __init__(self, lease_s: float) -> None:
        self.key = SigningKey.generate()
        self.lease_s = lease_s
        self.refusal = ""
        self.breached_epoch = 0
        self.calls = 0
        self.rolled_back: list[int] = []
        self.called = threading.Condition()

    def renew_lease(
        self, run_id: str, rolled_back_epoch: int = 0, timeout_s: float = 5.0
    ) -> common_pb2.SignedStatement:
        with self.called:
            self.calls += 1
            self.rolled_back.append(rolled_back_epoch)
            self.called.notify_all()
        if self.refusal:
            raise LeaseRefused(self.refusal)
        if rolled_back_epoch < self.breached_epoch:
            raise LeaseBreached(self.breached_epoch, "too many violations", 3, b"3" * 32)
        now = time.time_ns()
        return signed_lease(
            self.key,
            run_id=run_id,
            lease_number=self.calls,
            issue_time_ns=now,
            expiry_time_ns=now + int(self.lease_s * SECOND_NS),
            epoch=self.breached_epoch + 1,
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

    def renew(run_id: str, rolled_back_epoch: int = 0, timeout_s: float = 5.0) -> common_pb2.SignedStatement:
        if faults:
            raise faults.pop()
        return ScriptedSafety.renew_lease(safety, run_id, rolled_back_epoch, timeout_s)

    monkeypatch.setattr(safety, "renew_lease", renew)
    keeper = LeaseKeeper(safety, board, RUN_ID)
    keeper.start()
    safety.wait_for(1)
    keeper.close()
    assert not faults


def kinds(board: PolicyBoard) -> list[int]:
    return [offer.kind for offer in board.offers_since(Seen())[0]]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_a_breach_withdraws_the_snapshot_until_the_rollback_is_done() -> None:
    safety, board = ScriptedSafety(lease_s=0.3), PolicyBoard()
    state = initial_state(SPEC, CONFIG, seed=1)
    publisher, keeper = SnapshotPublisher(SPEC, board), LeaseKeeper(safety, board, RUN_ID)
    publisher.publish(state)
    keeper.start()
    try:
        until(lambda: kinds(board) == [policy_pb2.PolicyOffer.KIND_SNAPSHOT])
        assert keeper.refusal == ""
        safety.breached_epoch = 1
        until(lambda: keeper.breach is not None)
        breach = keeper.breach
        assert breach is not None
        assert (breach.epoch, breach.release_number, breach.release_digest) == (1, 3, b"3" * 32)
        assert keeper.refusal == "too many violations"
        assert kinds(board) == []
        # What the train loop publishes before it has rolled back is not offered, and what it publishes then stays.
        publisher.publish(state)
        calls = safety.calls
        safety.wait_for(calls + 2)
        assert kinds(board) == []
        publisher.publish(state._replace(updates=state.updates + 5))
        keeper.rolled_back(1)
        assert keeper.breach is None
        until(lambda: kinds(board) == [policy_pb2.PolicyOffer.KIND_SNAPSHOT])
        (offer,) = board.offers_since(Seen())[0]
        assert offer.version == 5
        assert safety_pb2.LeaseStatement.FromString(offer.authority.payload).epoch == 2
        assert keeper.refusal == ""
        assert safety.rolled_back[-1] == 1
    finally:
        keeper.close()


def test_a_breach_that_was_answered_meanwhile_withdraws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rollback ends while a question is on its way that was asked before it."""
    safety, board = ScriptedSafety(lease_s=60), PolicyBoard()
    safety.breached_epoch = 1
    asked, answer = threading.Event(), threading.Event()
    renew = safety.renew_lease

    def slow(run_id: str, rolled_back_epoch: int = 0, timeout_s: float = 5.0) -> common_pb2.SignedStatement:
        asked.set()
        answer.wait(20)
        return renew(run_id, rolled_back_epoch, timeout_s)

    monkeypatch.setattr(safety, "renew_lease", slow)
    keeper = LeaseKeeper(safety, board, RUN_ID)
    keeper.start()
    try:
        assert asked.wait(20)
        SnapshotPublisher(SPEC, board).publish(initial_state(SPEC, CONFIG, seed=1))
        keeper.rolled_back(1)
        answer.set()
        until(lambda: kinds(board) == [policy_pb2.PolicyOffer.KIND_SNAPSHOT])
        assert keeper.breach is None
        assert safety.rolled_back == [0, 1]
    finally:
        keeper.close()


def test_a_rollback_of_an_earlier_start_is_told_from_the_first_renewal_on() -> None:
    safety, board = ScriptedSafety(lease_s=60), PolicyBoard()
    safety.breached_epoch = 2
    keeper = LeaseKeeper(safety, board, RUN_ID, rolled_back_epoch=2)
    keeper.start()
    safety.wait_for(1)
    keeper.close()
    assert safety.rolled_back == [2]
    assert keeper.breach is None


def test_the_lease_statement_is_for_this_run() -> None:
    lease = ScriptedSafety(lease_s=1).renew_lease("some-run")
    assert safety_pb2.LeaseStatement.FromString(lease.payload).run_id == "some-run"
