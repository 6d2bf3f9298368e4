"""What becomes of candidates at the gate besides approval: deferred, void, failed half way; alarms; and repetition."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.config import EnvironmentConfig
from policies.artifact import artifact_digest
from policies.trust import NotApproved, TrustPolicy
from protos.safety.v1 import safety_pb2
from safety.audit import audit_ledger
from safety.begun_evaluations import KnownSchedule
from safety.config import SafetyConfig
from safety.evidence.file import read_evidence
from safety.gate import Gate
from safety.history import VERDICT
from safety.ledger import LedgerError, read_ledger
from safety.statistics.combination import Outcome
from safety.suites.manifest import criteria_digest
from safety.suites.spec import suite_from_settings
from safety.trials.levels import Schedule
from safety.verdicts import Offer
from tests.safety.made_up_trials import MadeUpPolicy
from tests.safety.scripted_pool import BETTER, BROKEN, GOOD, UNSAFE, WORSE, ScriptedPool

RUN = "run-1"
CONFIG = SafetyConfig(patience=2)


class Bench:
    """A gate whose candidates come to what a test says."""

    def __init__(self, directory: Path, config: SafetyConfig = CONFIG) -> None:
        self.directory = directory
        self.gate = Gate(config, EnvironmentConfig(), directory, RUN)
        self.gate.start()

    @property
    def pool(self) -> ScriptedPool:
        pool = self.gate._pool
        assert isinstance(pool, ScriptedPool)
        return pool

    def offer(self, artifact: bytes, policy: MadeUpPolicy | None = None) -> safety_pb2.VerdictStatement:
        if policy is not None:
            self.pool.policies[artifact] = policy
        offer = Offer(RUN, 1, artifact_digest(artifact), len(artifact))
        signed = self.gate.submit(offer, artifact, lambda ended, total: None).result(30)
        return safety_pb2.VerdictStatement.FromString(signed.payload)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    bench = Bench(tmp_path / "safety")
    try:
        yield bench
    finally:
        bench.gate.close()


def test_a_dip_is_deferred_while_there_is_patience_and_releases_nothing(bench: Bench) -> None:
    bench.offer(GOOD)
    dips = [bench.offer(f"dip {number}".encode(), MadeUpPolicy(300.0)) for number in range(3)]
    assert [dip.outcome for dip in dips] == [
        safety_pb2.OUTCOME_DEFERRED,
        safety_pb2.OUTCOME_DEFERRED,
        safety_pb2.OUTCOME_REJECTED,
    ]
    assert [dip.deferred_in_a_row for dip in dips] == [1, 2, 0]
    assert [(dip.approved, dip.release_number) for dip in dips] == [(False, 0)] * 3
    assert dips[0].reason.startswith("capability_non_inferiority on held-out:")
    trust = TrustPolicy(bench.gate.verify_key, RUN)
    with pytest.raises(NotApproved):
        trust.check_release(bench.gate.newest_verdicts(2)[1], artifact_digest(b"dip 1"))
    # The next one is compared with what was released, not with the dip.
    verdict = bench.offer(BETTER)
    assert (verdict.incumbent_digest, verdict.release_number, verdict.lifetime_index) == (artifact_digest(GOOD), 2, 5)


def test_an_evaluation_that_missed_a_severe_plant_is_void_and_may_be_repeated(bench: Bench) -> None:
    bench.pool.missed = [4]
    void = bench.offer(GOOD)
    assert (void.outcome, void.approved, void.lifetime_index) == (safety_pb2.OUTCOME_VOID, False, 1)
    assert void.criteria[0].void
    assert (void.detector.severe, void.detector.severe_found, void.episodes) == (60, 59, 0)
    assert "went unseen" in void.reason
    assert bench.pool.asked == []
    bench.pool.missed = ()
    verdict = bench.offer(GOOD)
    # It has used up a share of the error rate all the same.
    assert (verdict.approved, verdict.lifetime_index) == (True, 2)


def test_a_candidate_that_fails_half_way_has_been_tested(bench: Bench) -> None:
    bench.offer(GOOD)
    bench.pool.failing[BROKEN] = 64
    verdict = bench.offer(BROKEN)
    assert (verdict.outcome, verdict.reason) == (
        safety_pb2.OUTCOME_REJECTED,
        "the evaluator process exited with status 3",
    )
    assert (verdict.lifetime_index, verdict.episodes, len(verdict.criteria)) == (2, 64, 0)
    evidence = read_evidence(bench.directory, verdict.evidence_digest)
    assert (evidence.outcome, evidence.findings) == (Outcome.REJECTED, ())
    assert len(evidence.slices[0].seeds) == 64


def test_capability_and_risk_that_rise_together_raise_an_alarm(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    verdicts = []
    with caplog.at_level(logging.WARNING, "safety.docket"):
        for number in range(6):
            # Each a little better and, late in the evaluation, a little riskier than the one before.
            severe = range(99, 99 - number, -1)
            verdicts.append(bench.offer(f"sly {number}".encode(), MadeUpPolicy(400.0 + 5 * number, severe=severe)))
    assert list(verdicts[2].alarms) == []
    (alarm,) = verdicts[-1].alarms
    assert alarm.startswith("divergence on held-out: over the last 6 evaluations: capability rises")
    assert f"alarm: {alarm}" in caplog.messages
    assert read_ledger(bench.directory)[-1].fields["alarms"] == [alarm]


def test_an_approval_begins_with_the_share_of_the_canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    bench = Bench(tmp_path / "safety", dataclasses.replace(CONFIG, canary_share=0.25))
    try:
        assert [bench.offer(artifact).canary_share for artifact in (UNSAFE, GOOD)] == [0.0, 0.25]
    finally:
        bench.gate.close()


def same(verdict: safety_pb2.VerdictStatement) -> safety_pb2.VerdictStatement:
    """A verdict without times, and without its place in the chain."""
    plain = safety_pb2.VerdictStatement()
    plain.CopyFrom(verdict)
    for name in ("verdict_id", "issue_time_ns", "expiry_time_ns", "previous_entry_digest"):
        plain.ClearField(name)
    return plain


def test_the_same_offer_on_the_same_state_gets_the_same_verdict(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for artifact in (GOOD, UNSAFE, WORSE):
        bench.offer(artifact)
    bench.gate.close()
    verdicts, entries = [], []
    for name, workers in (("one", 1), ("two", 4)):
        shutil.copytree(bench.directory, tmp_path / name)
        other = Bench(tmp_path / name, dataclasses.replace(CONFIG, workers=workers))
        verdicts.append([other.offer(artifact) for artifact in (BETTER, BROKEN)])
        other.gate.close()
        given = [entry.fields for entry in read_ledger(tmp_path / name) if entry.kind == VERDICT]
        entries.append(given[-2:])
    first, second = verdicts
    assert [same(verdict) for verdict in first] == [same(verdict) for verdict in second]
    assert first[0].approved
    # Times are not in it: the evidence is the same file.
    assert [each["evidence_digest"] for each in entries[0]] == [each["evidence_digest"] for each in entries[1]]


def test_an_audit_finds_everything_as_the_gate_wrote_it(bench: Bench) -> None:
    bench.pool.failing[BROKEN] = 64
    for artifact in (GOOD, UNSAFE, WORSE, BROKEN, BETTER):
        bench.offer(artifact)
    bench.pool.missed = [2]
    bench.offer(b"void", MadeUpPolicy(480.0))
    entries = read_ledger(bench.directory)
    known = KnownSchedule(criteria_digest(suite_from_settings(CONFIG, EnvironmentConfig())), Schedule(0.05, "recycle"))
    audit = audit_ledger(entries, bench.gate.verify_key, RUN, directory=bench.directory, known=known)
    assert (audit.approved, audit.deferred, audit.rejected, audit.void) == (2, 1, 2, 1)
    assert (audit.broken_off, audit.under_way, audit.rule_changes) == (0, 0, ())
    assert (audit.evaluations_checked, audit.evidence_checked, audit.evidence_absent) == (5, 6, 0)
    assert audit.levels_checked == 6
    other = KnownSchedule(known.criteria_digest, Schedule(0.05, "spend"))
    with pytest.raises(LedgerError, match="the schedule gives it"):
        audit_ledger(entries, bench.gate.verify_key, RUN, known=other)


def test_without_any_room_verdicts_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    bench = Bench(tmp_path / "safety", dataclasses.replace(CONFIG, evidence_bytes_max=0))
    try:
        verdicts = [bench.offer(artifact) for artifact in (GOOD, UNSAFE, BETTER)]
        assert [verdict.approved for verdict in verdicts] == [True, False, True]
        # Of the releases that stand it is kept all the same.
        assert len(list((bench.directory / "evidence").iterdir())) == 2
        assert list((bench.directory / "candidates").iterdir()) == []
    finally:
        bench.gate.close()
    Bench(tmp_path / "safety", CONFIG).gate.close()
