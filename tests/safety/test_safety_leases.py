"""Leases: their time, their numbers and epochs, and what the ledger says when they stop."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.artifact import artifact_digest
from policies.trust import ExpiredStatement, ReplayedStatement, TrustPolicy, WrongRun
from protos.safety.v1 import safety_pb2
from safety.begun_evaluations import EVALUATION
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.history import VERDICT
from safety.leases.authority import (
    BREACH,
    RESUMED,
    WITHHELD,
    EpochOver,
    LeaseAuthority,
    LeaseWithheld,
    newest_breach,
)
from safety.leases.monitor import Breach, Refusal
from safety.leases.training_totals import CountsUnreadable
from safety.ledger import LedgerError, read_ledger
from safety.statistics.combination import Outcome
from safety.testing import made_up_assessment, record_made_up

CONFIG = SafetyConfig(lease_s=10.0)
RUN = "run-1"


@dataclasses.dataclass
class FixedMonitor:
    answer: Refusal | None = None
    found: Breach | None = None
    calls: list[str] = dataclasses.field(default_factory=list)
    unreadable: str = ""

    def refusal(self) -> Refusal | None:
        return self.answer

    def breach(self) -> Breach | None:
        return self.found

    def end(self, epoch: int) -> None:
        self.calls.append(f"end {epoch}")
        self.found = None

    def begin(self, epoch: int) -> None:
        if self.unreadable:
            raise CountsUnreadable(self.unreadable)
        self.calls.append(f"begin {epoch}")


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ns = 1_700_000_000_000_000_000
        self.monitor = FixedMonitor()
        self.docket = Docket(directory, RUN, lambda: self.now_ns)
        self.authority = self.open()

    def open(self) -> LeaseAuthority:
        return LeaseAuthority(self.docket, CONFIG, RUN, monitor=self.monitor, clock=lambda: self.now_ns)

    @property
    def trust(self) -> TrustPolicy:
        return TrustPolicy(self.docket.verify_key, RUN, lambda: self.now_ns)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in read_ledger(self.directory)][1:]

    def epoch(self, rolled_back_epoch: int) -> int:
        """Epoch of the lease that is granted."""
        return self.trust.check_lease(self.authority.renew(RUN, rolled_back_epoch)).epoch

    def refused(self, rolled_back_epoch: int) -> safety_pb2.LeaseBreach:
        """The breach that there is in place of a lease."""
        with pytest.raises(EpochOver) as over:
            self.authority.renew(RUN, rolled_back_epoch)
        return over.value.breach

    def release(self, data: bytes, canary_share: float = 0.0) -> None:
        """Puts an approved verdict into the ledger."""
        record_made_up(self.docket, RUN, 1, data, canary_share=canary_share)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        bench.docket.close()


def test_a_lease_holds_for_its_time_and_no_longer(bench: Bench) -> None:
    signed = bench.authority.renew(RUN)
    lease = bench.trust.check_lease(signed)
    assert (lease.run_id, lease.lease_number, lease.issue_time_ns) == (RUN, 1, bench.now_ns)
    bench.now_ns += 10 * 10**9 - 1
    bench.trust.check_lease(signed)
    bench.now_ns += 1
    with pytest.raises(ExpiredStatement):
        bench.trust.check_lease(signed)


def test_numbers_ascend_so_that_older_leases_are_replays(bench: Bench) -> None:
    old, new = bench.authority.renew(RUN), bench.authority.renew(RUN)
    number = bench.trust.check_lease(new).lease_number
    with pytest.raises(ReplayedStatement):
        bench.trust.check_lease(old, number)
    bench.docket.close()
    bench.docket = Docket(bench.directory, RUN, lambda: bench.now_ns)
    assert bench.trust.check_lease(bench.open().renew(RUN), number).lease_number > number


def test_threads_get_different_numbers(bench: Bench) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: numbers.extend(
                bench.trust.check_lease(bench.authority.renew(RUN)).lease_number for _ in range(20)
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 81))


def test_other_runs_get_none(bench: Bench) -> None:
    with pytest.raises(LeaseWithheld, match="serves run 'run-1' only"):
        bench.authority.renew("run-2")
    with pytest.raises(WrongRun):
        TrustPolicy(bench.docket.verify_key, "run-2", lambda: bench.now_ns).check_lease(bench.authority.renew(RUN))


def test_what_the_monitor_objects_to_is_withheld_and_noted_once(bench: Bench) -> None:
    bench.authority.renew(RUN)
    bench.monitor.answer = Refusal("unknown", "replay does not tell")
    for _ in range(3):
        with pytest.raises(LeaseWithheld, match="does not tell"):
            bench.authority.renew(RUN)
    bench.monitor.answer = Refusal("stale", "unknown for 40 s")
    with pytest.raises(LeaseWithheld, match="for 40 s"):
        bench.authority.renew(RUN)
    bench.monitor.answer = None
    bench.authority.renew(RUN)
    bench.authority.renew(RUN)
    assert bench.kinds() == [WITHHELD, WITHHELD, RESUMED]
    entry = read_ledger(bench.directory)[1]
    assert entry.fields == {"run_id": RUN, "code": "unknown", "reason": "replay does not tell"}


def test_a_restart_does_not_note_the_same_again(bench: Bench) -> None:
    bench.monitor.answer = Refusal("stale", "too old")
    with pytest.raises(LeaseWithheld):
        bench.authority.renew(RUN)
    again = bench.open()
    with pytest.raises(LeaseWithheld):
        again.renew(RUN)
    assert bench.kinds() == [WITHHELD]
    bench.monitor.answer = None
    again.renew(RUN)
    assert bench.kinds() == [WITHHELD, RESUMED]


def test_a_change_that_cannot_be_noted_grants_nothing(bench: Bench) -> None:
    bench.monitor.answer = Refusal("stale", "too old")
    with pytest.raises(LeaseWithheld):
        bench.authority.renew(RUN)
    bench.monitor.answer = None
    bench.docket.close()
    with pytest.raises(LedgerError):
        bench.authority.renew(RUN)


def test_without_a_monitor_leases_are_granted(bench: Bench) -> None:
    authority = LeaseAuthority(bench.docket, CONFIG, RUN, monitor=None, clock=lambda: bench.now_ns)
    assert bench.trust.check_lease(authority.renew(RUN)).run_id == RUN


FOUND = Breach(epoch=1, episodes=200, violating=80, evidence=7.5, limit=0.1, level=0.006)


def test_a_breach_ends_an_epoch_until_the_learner_has_rolled_back(bench: Bench) -> None:
    bench.release(b"one")
    bench.release(b"two")
    assert bench.epoch(0) == 1
    bench.monitor.found = FOUND
    for _ in range(3):
        breach = bench.refused(0)
        assert (breach.epoch, breach.release_number, breach.release_digest) == (1, 2, artifact_digest(b"two"))
        assert "80 of 200 training episodes" in breach.reason
    assert bench.epoch(1) == 2
    assert bench.epoch(1) == 2
    assert bench.kinds() == [EVALUATION, VERDICT, EVALUATION, VERDICT, BREACH, RESUMED]
    assert read_ledger(bench.directory)[5].fields == {
        "run_id": RUN,
        "epoch": 1,
        "reason": FOUND.reason,
        "episodes": 200,
        "violating": 80,
        "evidence": 7.5,
        "limit": 0.1,
        "level": 0.006,
        "release_number": 2,
        "release_digest": artifact_digest(b"two").hex(),
    }
    assert bench.monitor.calls == ["begin 1", "end 1", "begin 2", "begin 2"]
    # A learner that was set back to before its rollback must do it again.
    assert bench.refused(0) == breach


def test_a_breach_is_one_after_a_restart_and_in_the_next_epoch(bench: Bench) -> None:
    bench.monitor.found = FOUND
    bench.refused(0)
    bench.authority = bench.open()
    assert bench.refused(0).epoch == 1
    assert bench.epoch(1) == 2
    bench.monitor.found = dataclasses.replace(FOUND, epoch=2)
    assert bench.refused(1).epoch == 2
    bench.authority = bench.open()
    assert bench.refused(1).epoch == 2
    assert bench.epoch(2) == 3
    assert bench.kinds() == [BREACH, RESUMED, BREACH, RESUMED]
    newest = newest_breach(bench.docket.ledger.entries())
    assert newest is not None
    assert newest.epoch == 2


def test_a_breach_that_is_on_record_is_not_recorded_again(bench: Bench) -> None:
    bench.monitor.found = FOUND
    bench.refused(0)
    # Killed before the monitor's file said so: the monitor finds it once more.
    bench.monitor.found = FOUND
    bench.authority = bench.open()
    bench.refused(0)
    assert bench.kinds() == [BREACH]
    assert bench.monitor.calls == ["end 1", "end 1"]


def test_a_breach_that_cannot_be_noted_grants_nothing(bench: Bench) -> None:
    bench.monitor.found = FOUND
    bench.docket.close()
    with pytest.raises(LedgerError):
        bench.authority.renew(RUN)
    assert bench.monitor.found is FOUND


def test_after_a_rollback_the_monitor_must_still_know_something(bench: Bench) -> None:
    bench.monitor.found = FOUND
    bench.refused(0)
    bench.monitor.answer = Refusal("stale", "unknown for 40 s")
    assert bench.refused(0).epoch == 1
    with pytest.raises(LeaseWithheld, match="40 s"):
        bench.authority.renew(RUN, 1)
    bench.monitor.answer = None
    assert bench.epoch(1) == 2
    assert bench.kinds() == [BREACH, WITHHELD, RESUMED]


def test_a_breach_that_is_still_to_come_cannot_be_answered(bench: Bench) -> None:
    for answered in (1, 2**40):
        with pytest.raises(LeaseWithheld, match=rf"answered the breach of epoch {answered}, .*: none;"):
            bench.authority.renew(RUN, answered)
    bench.monitor.found = FOUND
    assert bench.refused(0).epoch == 1
    # Whoever says so beforehand would never have to roll back.
    with pytest.raises(LeaseWithheld, match=r"answered the breach of epoch 7, .* epoch 1;"):
        bench.authority.renew(RUN, 7)
    assert bench.epoch(1) == 2
    assert bench.kinds() == [BREACH, RESUMED]


def test_an_epoch_that_cannot_begin_grants_nothing(bench: Bench) -> None:
    bench.monitor.found = FOUND
    bench.refused(0)
    bench.monitor.unreadable = "-100 of -50 episodes"
    for _ in range(3):
        with pytest.raises(LeaseWithheld, match="epoch 2 cannot begin: -100 of -50 episodes"):
            bench.authority.renew(RUN, 1)
    assert bench.kinds() == [BREACH, WITHHELD]
    bench.monitor.unreadable = ""
    assert bench.epoch(1) == 2


def test_other_runs_hear_of_no_breach(bench: Bench) -> None:
    bench.monitor.found = FOUND
    with pytest.raises(LeaseWithheld, match="serves run"):
        bench.authority.renew("run-2", 5)
    assert bench.kinds() == []


def test_the_release_to_go_back_to_is_the_newest_that_stands_for_all(bench: Bench) -> None:
    def stands(number: int, data: bytes = b"") -> None:
        expected = number, artifact_digest(data) if number else b""
        assert bench.docket.last_release() == expected
        # And so it is for whoever reads the ledger anew.
        bench.docket.close()
        bench.docket = Docket(bench.directory, RUN, lambda: bench.now_ns)
        assert bench.docket.last_release() == expected

    stands(0)
    record_made_up(bench.docket, RUN, 1, b"no", made_up_assessment(bench.docket, Outcome.REJECTED))
    stands(0)
    for data in (b"one", b"two", b"three"):
        bench.release(data)
    stands(3, b"three")
    bench.docket.revoke(RUN, 3, "why")
    stands(2, b"two")
    bench.release(b"four", canary_share=0.2)
    stands(2, b"two")
    # What acts everywhere is offered once more, and becomes a canary: that one is not the release to go back to.
    bench.docket.promote(4, episodes=9, violating_episodes=0, why="why")
    stands(4, b"four")
    bench.release(b"four", canary_share=0.2)
    stands(4, b"four")
    for number in (4, 2, 1):
        bench.docket.revoke(RUN, number, "why")
    stands(0)


@pytest.mark.parametrize("fields", [{}, {"epoch": "one"}, {"epoch": 1, "reason": "", "release_number": 0}])
def test_a_breach_that_is_none_is_a_damaged_ledger(bench: Bench, fields: dict[str, object]) -> None:
    bench.docket.ledger.append(BREACH, lambda _: fields)
    with pytest.raises(LedgerError, match="no breach of a lease"):
        bench.open()
