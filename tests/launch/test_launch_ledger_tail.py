"""What is shown of a gate's ledger: one that was really written, one that grows, and ones that cannot be read."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest

from launch.ledger_tail import GateRecord, LedgerTail
from launch.verdicts import BreachedEpoch, Counts, describe_breach, describe_promotion
from safety.config import SafetyConfig
from safety.docket import Docket
from safety.leases.authority import EpochOver, LeaseAuthority
from safety.leases.monitor import Breach, Refusal
from safety.statistics.e_values import e_value_text
from tests.launch import lineage_run


def add(path: Path, **fields: object) -> None:
    with path.open("a") as file:
        file.write(json.dumps(fields) + "\n")


def test_the_verdicts_of_a_real_ledger(tmp_path: Path) -> None:
    paths = lineage_run.begin(tmp_path / "run")
    assert LedgerTail(paths.ledger).read() == GateRecord(Counts(approved=2, rejected=1))


def test_each_outcome_is_counted_apart_and_each_entry_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    tail = LedgerTail(path)
    assert tail.read().counts is None
    add(path, kind="opened")
    assert tail.read().counts == Counts()
    for outcome in ("deferred", "void", "deferred", "rejected"):
        add(path, kind="verdict", outcome=outcome)
    assert tail.read().counts == tail.read().counts == Counts(0, 1, 2, 1)
    with path.open("a") as file:
        file.write('{"kind": "verdict", "outco')
    assert tail.read().counts == Counts(0, 1, 2, 1)


def test_what_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for fields in ({}, {"kind": "verdict"}, {"kind": "lease_breach", "epoch": "first"}, {"kind": "promotion"}):
        add(path, **fields)
    add(path, kind="verdict", outcome="approved")
    assert LedgerTail(path).read() == GateRecord(Counts(1))


def test_a_ledger_that_is_not_for_us_tells_nothing(tmp_path: Path) -> None:
    """A directory in its place cannot be read by anybody, not even by root."""
    path = tmp_path / "ledger.jsonl"
    path.mkdir()
    assert LedgerTail(path).read() == GateRecord()


class Objecting:
    """A monitor that ends the first epoch."""

    def refusal(self) -> Refusal | None:
        return None

    def breach(self) -> Breach | None:
        return Breach(1, 1_595, 270, 895.904, 0.01, 0.03)

    def end(self, epoch: int) -> None:
        pass

    def begin(self, epoch: int) -> None:
        pass


def test_a_breach_as_the_lease_authority_writes_it(tmp_path: Path) -> None:
    with contextlib.closing(Docket(tmp_path, "run-1")) as docket:
        authority = LeaseAuthority(docket, SafetyConfig(), "run-1", monitor=Objecting())
        with pytest.raises(EpochOver) as over:
            authority.renew("run-1")
    (breach,) = LedgerTail(tmp_path / "ledger.jsonl").read().breaches
    assert (breach.epoch, breach.reason) == (1, over.value.breach.reason)
    assert describe_breach(breach) == (
        "leases breached (epoch 1): 270 of 1,595 training episodes of snapshots had a cost, at most 0.01 of them may: "
        "e-value 1.219e+389, 33.33 is enough; the learner is to go back to the first weights"
    )
    assert breach.time_ns > 0


def test_an_epoch_with_a_release_to_go_back_to() -> None:
    breach = BreachedEpoch(2, 10, 9, 3.0, 0.1, 0.05, 4, "", 1)
    assert describe_breach(breach).endswith("e-value 20.09, 20 is enough; the learner is to go back to release 4")


def test_a_promotion(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    add(path, kind="promotion", release_number=3, why="canary: 0 of 90 episodes had a cost; mean loss 0", time_ns=5)
    (promoted,) = LedgerTail(path).read().promoted
    assert describe_promotion(promoted) == (
        "release 3 is promoted, to act everywhere: canary: 0 of 90 episodes had a cost"
    )


def test_e_values_however_great() -> None:
    assert [e_value_text(math.log(value)) for value in (0.5, 20.0, 1e6)] == ["0.5", "20", "1e+06"]
    assert e_value_text(1_000.0 * math.log(10.0)) == "1.000e+1000"
