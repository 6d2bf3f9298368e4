"""Lockstep: so many unrolls by each snapshot, whatever else is offered, and a wait in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from actors.lockstep import Lockstep
from policies.client import ActingPolicy
from policies.inference_numpy import NumpyPolicy
from policies.testing import make_artifact
from protos.common.v1 import common_pb2
from replay.client import ReplayUnavailable

POLICY = NumpyPolicy(make_artifact())


class Offered:
    """Policies as the test offers them, and records as they are taken."""

    def __init__(self) -> None:
        self.policy: ActingPolicy | None = None
        self.taken = 0
        self.is_full = False

    def current(self) -> ActingPolicy | None:
        return self.policy

    def wait(self, timeout_s: float) -> ActingPolicy | None:
        raise AssertionError("it would give what may not act")

    def append(self, headers: Sequence[common_pb2.RecordHeader], payloads: Sequence[bytes], timeout_s: float) -> None:
        if self.is_full:
            raise ReplayUnavailable("no room")
        self.taken += 1


def snapshot(version: int) -> ActingPolicy:
    return ActingPolicy(POLICY, version, bytes([version]) * 32, "snapshot", 0, "lease.1")


def test_each_snapshot_acts_its_unrolls_and_no_more() -> None:
    offered = Offered()
    lockstep = Lockstep(offered, offered, unrolls=3)
    assert lockstep.current() is None
    for version in (1, 2):
        offered.policy = snapshot(version)
        for _ in range(3):
            assert lockstep.current() is offered.policy
            assert lockstep.current() is offered.policy
            lockstep.append([], [], 1.0)
        assert lockstep.current() is None
    assert offered.taken == 6


def test_nothing_but_a_snapshot_acts_and_what_was_begun_goes_on_after_it() -> None:
    offered = Offered()
    lockstep = Lockstep(offered, offered, unrolls=2)
    offered.policy = first = snapshot(1)
    assert lockstep.current() is first
    lockstep.append([], [], 1.0)
    for other in (ActingPolicy(POLICY, 9, bytes(32), "release", 1, "release.1"), None):
        offered.policy = other
        assert lockstep.current() is None
    offered.policy = first
    assert lockstep.current() is first
    lockstep.append([], [], 1.0)
    assert lockstep.current() is None


def test_what_was_not_taken_does_not_count() -> None:
    offered = Offered()
    lockstep = Lockstep(offered, offered, unrolls=1)
    offered.policy, offered.is_full = snapshot(1), True
    assert lockstep.current() is offered.policy
    with pytest.raises(ReplayUnavailable):
        lockstep.append([], [], 1.0)
    assert lockstep.current() is offered.policy


def test_another_snapshot_begins_a_new_count() -> None:
    offered = Offered()
    lockstep = Lockstep(offered, offered, unrolls=2)
    for version in (5, 4):  # as of a learner that could not go on from where it was
        offered.policy = snapshot(version)
        assert lockstep.current() is offered.policy
        lockstep.append([], [], 1.0)
    lockstep.append([], [], 1.0)
    assert lockstep.current() is None


def test_waits_for_the_next_one_and_not_longer() -> None:
    offered = Offered()
    lockstep = Lockstep(offered, offered, unrolls=1)
    start_s = time.monotonic()
    assert lockstep.wait(0.05) is None
    assert time.monotonic() - start_s >= 0.05
    timer = threading.Timer(0.05, lambda: setattr(offered, "policy", snapshot(1)))
    timer.start()
    assert lockstep.wait(20.0) is offered.policy is not None
    timer.join()
