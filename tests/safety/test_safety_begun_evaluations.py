"""Evaluations that are begun, and end with a verdict or broken off: numbers, keys and error levels without a gap."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.artifact import artifact_digest
from protos.safety.v1 import safety_pb2
from safety.audit import audit_ledger
from safety.begun_evaluations import BROKEN_OFF, EVALUATION, KnownSchedule
from safety.docket import Docket
from safety.history import VERDICT, DecisionHistory
from safety.keys.history import OPENED
from safety.ledger import Ledger, LedgerEntry, LedgerError, read_ledger
from safety.statistics.combination import Outcome
from safety.statistics.lifetime import recycled_level
from safety.suites.manifest import seed_commitment
from safety.testing import MADE_UP_CONFIG, MADE_UP_RULE, enter_made_up, made_up_assessment, record_made_up
from safety.trials.levels import Schedule
from safety.verdicts import Assessment, Offer

RUN = "run-1"
SCHEDULE = Schedule(0.05, "recycle")
KNOWN = KnownSchedule(MADE_UP_RULE.criteria_digest, SCHEDULE)


class Desk:
    """A docket that can be closed in the middle of an evaluation, and opened again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.docket = Docket(directory, RUN, known=KNOWN)

    def reopen(self) -> None:
        self.docket.close()
        self.docket = Docket(self.directory, RUN, known=KNOWN)

    def decide(self, name: str, outcome: Outcome = Outcome.APPROVED) -> safety_pb2.VerdictStatement:
        signed = record_made_up(self.docket, RUN, 1, name.encode(), made_up_assessment(self.docket, outcome))
        return safety_pb2.VerdictStatement.FromString(signed.payload)

    def begin(self, name: str) -> None:
        self.docket.begin(offer(name), MADE_UP_RULE, self.docket.next_level(SCHEDULE))

    def break_off(self, name: str) -> None:
        self.begin(name)
        self.reopen()

    def kinds(self) -> list[str]:
        return [entry.kind for entry in read_ledger(self.directory)]

    def history(self, entries: list[LedgerEntry] | None = None) -> DecisionHistory:
        entries = list(read_ledger(self.directory)) if entries is None else entries
        return DecisionHistory(entries, self.docket.verify_key, RUN, KNOWN)


def offer(name: str) -> Offer:
    return Offer(RUN, 1, artifact_digest(name.encode()), len(name))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    try:
        yield desk
    finally:
        desk.docket.close()


@pytest.fixture
def entries(desk: Desk) -> list[LedgerEntry]:
    """0 opened; 1, 2 an approval; 3, 4 broken off; 5, 6 a rejection; 7, 8 an approval."""
    desk.decide("first")
    desk.break_off("second")
    desk.decide("third", Outcome.REJECTED)
    desk.decide("fourth")
    found = list(read_ledger(desk.directory))
    assert [entry.kind for entry in found] == [OPENED, EVALUATION, VERDICT, EVALUATION, BROKEN_OFF] + 2 * [
        EVALUATION,
        VERDICT,
    ]
    return found


def test_every_number_key_and_level_is_used_once(desk: Desk, entries: list[LedgerEntry]) -> None:
    begun = [entry.fields for entry in entries if entry.kind == EVALUATION]
    assert [each["evaluation"] for each in begun] == [1, 2, 3, 4]
    assert [each["lifetime_index"] for each in begun] == [1, 2, 3, 4]
    # What was broken off hands no level on, as what was rejected does not.
    approvals = [True, False, False, True]
    assert [each["error_level"] for each in begun] == [recycled_level(0.05, approvals[:count]) for count in range(4)]
    committed = entries[0].fields["seed_commitment"]
    for entry in entries:
        if "seed_key" in entry.fields:
            assert seed_commitment(bytes.fromhex(entry.fields["seed_key"])).hex() == committed
            committed = begun[entry.fields["evaluation"] - 1]["next_seed_commitment"]
    history = desk.history()
    assert (history.approvals, history.evaluations, history.broken_off) == (approvals, 4, 1)
    assert history.counts == (2, 0, 1, 0)
    assert history.seed_commitment.hex() == committed


def test_opening_the_directory_enters_what_was_broken_off_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.begin("first")
    with caplog.at_level(logging.WARNING, "safety.docket"):
        desk.reopen()
    assert "evaluation 1, of artifact" in caplog.text
    desk.reopen()
    assert desk.kinds() == [OPENED, EVALUATION, BROKEN_OFF]
    assert (desk.docket.evaluations, desk.docket.broken_off, desk.docket.counts) == (1, 1, (0, 0, 0, 0))


def test_a_row_of_deferrals_is_not_ended_by_what_was_broken_off(desk: Desk) -> None:
    desk.decide("first", Outcome.DEFERRED)
    desk.break_off("second")
    assert desk.decide("third", Outcome.DEFERRED).deferred_in_a_row == 2


def test_no_second_evaluation_beside_one_and_no_verdict_without(desk: Desk) -> None:
    assessment = made_up_assessment(desk.docket)
    before = desk.kinds()
    with pytest.raises(LedgerError, match=r"no evaluation is under way: .* nothing was decided"):
        desk.docket.record(offer("first"), b"first", assessment, MADE_UP_RULE, MADE_UP_CONFIG)
    assert desk.kinds() == before
    desk.begin("first")
    with pytest.raises(LedgerError, match="evaluation 1 has not ended: no other can begin"):
        desk.begin("second")
    for name, other in (("second", assessment), ("first", Assessment("it is too large"))):
        with pytest.raises(LedgerError, match="evaluation 1 has not ended: a verdict on"):
            desk.docket.record(offer(name), name.encode(), other, MADE_UP_RULE, MADE_UP_CONFIG)
    assert desk.kinds() == [*before, EVALUATION]
    desk.docket.record(offer("first"), b"first", assessment, MADE_UP_RULE, MADE_UP_CONFIG)
    desk.reopen()
    assert desk.kinds() == [*before, EVALUATION, VERDICT]


def with_fields(entry: LedgerEntry, **fields: Any) -> LedgerEntry:
    return dataclasses.replace(entry, fields={**entry.fields, **fields})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all: all.pop(1), "entry 2 is a verdict on candidate 1, whose evaluation was never begun"),
        (lambda all: all.pop(3), "entry 4 breaks off evaluation 2, under way there is none"),
        (lambda all: all.pop(4), "entry 5 begins evaluation 3 .*: what can begin there is none before evaluation 2"),
        (lambda all: all.__delitem__(slice(3, 5)), "entry 5 begins evaluation 3 .* is evaluation 2 of run 'run-1'"),
        (lambda all: all.__delitem__(slice(1, 3)), "entry 3 begins evaluation 2 .* is evaluation 1 of run 'run-1'"),
        (lambda all: all.insert(6, all[5]), "entry 5 begins evaluation 3 .* none before evaluation 3 has ended"),
        (lambda all: all.insert(7, all[5]), "entry 5 begins evaluation 3 .* is evaluation 4 of run"),
        (lambda all: all.insert(7, all[6]), "entry 6 does not say what its verdict says, or stands out of place"),
        (lambda all: all.insert(5, all[4]), "entry 4 breaks off evaluation 2, under way there is none"),
        (lambda all: all.insert(6, all[4]), "entry 4 breaks off evaluation 2, under way there is 3"),
        (lambda all: all.__setitem__(5, with_fields(all[5], evaluation=5)), "begins evaluation 5"),
        (lambda all: all.__setitem__(5, with_fields(all[5], run_id="run-2")), "of run 'run-2'"),
        (lambda all: all.__setitem__(5, with_fields(all[5], lifetime_index=2)), "candidate 2"),
        (lambda all: all.__setitem__(5, with_fields(all[5], error_level=1.0)), "error rate 1"),
        (lambda all: all.__setitem__(5, with_fields(all[5], error_level=0.02)), "the schedule gives it"),
        (lambda all: all.__setitem__(5, with_fields(all[5], note="x")), "and that alone"),
        (lambda all: all.__setitem__(5, with_fields(all[5], suite_digest=7)), "does not say what evaluation"),
        (lambda all: all.__setitem__(5, with_fields(all[5], version=9)), "entry 6 is not the verdict of evaluation 3"),
        (lambda all: all.__setitem__(5, with_fields(all[5], artifact_digest="00")), "entry 6 is not the verdict of"),
        (lambda all: all.__setitem__(5, with_fields(all[5], criteria_digest="00")), "entry 6 is not the verdict of"),
        (lambda all: all.__setitem__(5, with_fields(all[5], suite_digest="00")), "entry 6 is not the verdict of"),
        (lambda all: all.__setitem__(5, with_fields(all[5], next_seed_commitment="00")), "entry 6 is not the verdict"),
        (lambda all: all.__setitem__(4, with_fields(all[4], seed_key="00" * 32)), "entry 4 reveals another key"),
        (lambda all: all.__setitem__(4, with_fields(all[4], seed_key=None)), "entry 4 reveals no key"),
        (lambda all: all.__setitem__(4, with_fields(all[4], note="x")), "entry 4 breaks off evaluation 2"),
        (lambda all: all.__setitem__(3, with_fields(all[3], next_seed_commitment="00")), "entry 6 reveals another key"),
    ],
)
def test_what_was_taken_out_doubled_or_edited_is_refused(
    desk: Desk, entries: list[LedgerEntry], change: Callable[[list[LedgerEntry]], object], message: str
) -> None:
    """Also where the digests of all entries were computed anew: they are not looked at here."""
    change(entries)
    with pytest.raises(LedgerError, match=message):
        desk.history(entries)


def test_a_commitment_to_a_key_that_is_not_ours_is_refused_before_anything_rests_on_it(tmp_path: Path) -> None:
    """By somebody who can write every file, at the end of the ledger, where no verdict comes after it yet."""
    desk = Desk(tmp_path)
    desk.begin("first")
    desk.docket.close()
    fields = with_fields(read_ledger(tmp_path)[-1], next_seed_commitment="11" * 32).fields
    (tmp_path / "ledger.jsonl").write_bytes((tmp_path / "ledger.jsonl").read_bytes().splitlines(keepends=True)[0])
    (tmp_path / "ledger.head").unlink()
    ledger = Ledger(tmp_path)
    ledger.append(EVALUATION, lambda _: fields)
    ledger.close()
    for _ in range(2):
        with pytest.raises(LedgerError, match="commits to another key for evaluation 2 than follows from the secret"):
            Docket(tmp_path, RUN)


def test_an_audit_counts_what_was_broken_off_and_lists_changes_of_rule_and_suite(desk: Desk) -> None:
    desk.decide("first")
    desk.break_off("second")
    others = dataclasses.replace(MADE_UP_RULE, criteria_digest=b"c" * 32, suite_digest=b"s" * 32)
    again = dataclasses.replace(others, suite_digest=MADE_UP_RULE.suite_digest)
    for number, rule in enumerate((others, others, again)):
        name = f"other {number}"
        enter_made_up(desk.docket, offer(name), name.encode(), made_up_assessment(desk.docket), rule=rule)
    desk.begin("last")
    audit = audit_ledger(read_ledger(desk.directory), desk.docket.verify_key, RUN, directory=desk.directory)
    assert (audit.approved, audit.broken_off, audit.under_way, audit.evaluations_checked) == (4, 1, 1, 4)
    old, criteria, suite = MADE_UP_RULE.criteria_digest, others.criteria_digest, others.suite_digest
    assert [tuple(change) for change in audit.rule_changes] == [
        (5, 3, "criteria", old, criteria),
        (5, 3, "suite", MADE_UP_RULE.suite_digest, suite),
        (9, 5, "suite", suite, MADE_UP_RULE.suite_digest),
        (11, 6, "criteria", criteria, old),
    ]
