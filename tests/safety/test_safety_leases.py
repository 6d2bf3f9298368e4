"""Leases: their time, their numbers, and what the ledger says when they stop."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.trust import ExpiredStatement, ReplayedStatement, TrustPolicy, WrongRun
from safety.config import SafetyConfig
from safety.custody import Custody
from safety.key_history import OPENED
from safety.leases import RESUMED, WITHHELD, LeaseAuthority, LeaseWithheld
from safety.ledger import Ledger, LedgerError, read_ledger
from safety.monitor import Refusal

CONFIG = SafetyConfig(lease_s=10.0)
RUN = "run-1"


@dataclasses.dataclass
class FixedMonitor:
    answer: Refusal | None = None

    def refusal(self) -> Refusal | None:
        return self.answer


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ns = 1_700_000_000_000_000_000
        self.monitor = FixedMonitor()
        self.ledger = Ledger(directory, lambda: self.now_ns)
        self.custody = Custody(directory, RUN, ())
        identity = {"run_id": RUN, **self.custody.opening(self.now_ns)}
        self.custody.follow(self.ledger.append(OPENED, lambda _: identity))
        self.authority = self.open()

    def open(self) -> LeaseAuthority:
        return LeaseAuthority(self.custody, self.ledger, CONFIG, RUN, monitor=self.monitor, clock=lambda: self.now_ns)

    @property
    def trust(self) -> TrustPolicy:
        return TrustPolicy(self.custody.verify_key, RUN, lambda: self.now_ns)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in read_ledger(self.directory)][1:]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        bench.ledger.close()


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
    bench.custody = Custody(bench.directory, RUN, bench.ledger.entries())
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
        TrustPolicy(bench.custody.verify_key, "run-2", lambda: bench.now_ns).check_lease(bench.authority.renew(RUN))


def test_what_the_monitor_objects_to_is_withheld_and_noted_once(bench: Bench) -> None:
    bench.authority.renew(RUN)
    bench.monitor.answer = Refusal("risk", "90 of 100 episodes had a cost")
    for _ in range(3):
        with pytest.raises(LeaseWithheld, match="90 of 100"):
            bench.authority.renew(RUN)
    bench.monitor.answer = Refusal("stale", "unknown for 40 s")
    with pytest.raises(LeaseWithheld, match="unknown"):
        bench.authority.renew(RUN)
    bench.monitor.answer = None
    bench.authority.renew(RUN)
    bench.authority.renew(RUN)
    assert bench.kinds() == [WITHHELD, WITHHELD, RESUMED]
    entry = read_ledger(bench.directory)[1]
    assert entry.fields == {"run_id": RUN, "code": "risk", "reason": "90 of 100 episodes had a cost"}


def test_a_restart_does_not_note_the_same_again(bench: Bench) -> None:
    bench.monitor.answer = Refusal("risk", "too many")
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
    bench.monitor.answer = Refusal("risk", "too many")
    with pytest.raises(LeaseWithheld):
        bench.authority.renew(RUN)
    bench.monitor.answer = None
    bench.ledger.close()
    with pytest.raises(LedgerError):
        bench.authority.renew(RUN)


def test_without_a_monitor_leases_are_granted(bench: Bench) -> None:
    authority = LeaseAuthority(bench.custody, bench.ledger, CONFIG, RUN, monitor=None, clock=lambda: bench.now_ns)
    assert bench.trust.check_lease(authority.renew(RUN)).run_id == RUN
