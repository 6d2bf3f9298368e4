"""The order of candidates in a ledger: numbers, error rates, deferrals; and what a docket keeps of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.artifact import artifact_digest
from protos.safety.v1 import safety_pb2
from safety.begun_evaluations import EVALUATION, KnownSchedule
from safety.docket import Docket
from safety.evidence.file import evidence_path
from safety.evidence.store import EvidenceStore, Kept
from safety.history import DecisionHistory
from safety.keys.custody import CustodyError
from safety.keys.history import OPENED
from safety.ledger import LedgerError, read_ledger
from safety.statistics.combination import Outcome
from safety.statistics.lifetime import recycled_level
from safety.testing import MADE_UP_CONFIG, MADE_UP_RULE, enter_made_up, made_up_assessment, record_made_up
from safety.trials.levels import Level, Schedule
from safety.verdicts import Assessment, Offer

RUN = "run-1"
KNOWN = KnownSchedule(MADE_UP_RULE.criteria_digest, Schedule(0.05, "recycle"))


@pytest.fixture
def docket(tmp_path: Path) -> Iterator[Docket]:
    docket = Docket(tmp_path, RUN, known=KNOWN)
    try:
        yield docket
    finally:
        docket.close()


def decide(docket: Docket, name: str, outcome: Outcome = Outcome.APPROVED) -> safety_pb2.VerdictStatement:
    signed = record_made_up(docket, RUN, 1, name.encode(), made_up_assessment(docket, outcome))
    return safety_pb2.VerdictStatement.FromString(signed.payload)


def test_every_candidate_that_was_tested_counts_and_no_other(docket: Docket, tmp_path: Path) -> None:
    outcomes = [Outcome.REJECTED, Outcome.APPROVED, Outcome.VOID, Outcome.DEFERRED, Outcome.APPROVED]
    verdicts = [decide(docket, f"{number}", outcome) for number, outcome in enumerate(outcomes)]
    record_made_up(docket, RUN, 1, b"huge", Assessment("it is too large"))
    verdicts.append(decide(docket, "last"))
    assert [verdict.lifetime_index for verdict in verdicts] == [1, 2, 3, 4, 5, 6]
    approvals = [outcome is Outcome.APPROVED for outcome in outcomes]
    assert [verdict.error_level for verdict in verdicts] == [
        recycled_level(0.05, approvals[:count]) for count in range(6)
    ]
    history = DecisionHistory(read_ledger(tmp_path), docket.verify_key, RUN, KNOWN)
    assert history.approvals == [*approvals, True]
    assert history.counts == (3, 1, 2, 1)


def test_deferrals_are_counted_until_one_is_not(docket: Docket) -> None:
    outcomes = [Outcome.DEFERRED, Outcome.DEFERRED, Outcome.REJECTED, Outcome.DEFERRED, Outcome.APPROVED]
    counted = []
    for number, outcome in enumerate(outcomes):
        verdict = decide(docket, f"{number}", outcome)
        counted.append((verdict.deferred_in_a_row, docket.deferred_in_a_row))
    assert counted == [(1, 1), (2, 2), (0, 0), (1, 1), (0, 0)]


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (Level(1, 0.0304, 1.0), "is not what can come after 1 tested candidates"),
        (Level(3, 0.0304, 1.0), "candidate 3"),
        (Level(2, 0.04, 1.0), "at the error rate 0.04, the schedule gives it"),
        (Level(2, 1.0, 1.0), "error rate 1"),
        (Level(0, 0.01, 1.0), "candidate 0"),
    ],
)
def test_a_level_that_is_not_the_next_ones_is_refused_also_where_it_is_signed(
    docket: Docket, tmp_path: Path, level: Level, message: str
) -> None:
    """As by a gate that would give a candidate more of the error rate than is left: what it signed tells."""
    decide(docket, "first", Outcome.REJECTED)
    assessment = dataclasses.replace(made_up_assessment(docket), level=level)
    with pytest.raises(LedgerError, match=message):
        record_made_up(docket, RUN, 1, b"lucky", assessment)
    docket.close()
    with pytest.raises(LedgerError, match=message):
        Docket(tmp_path, RUN, known=KNOWN)


def test_levels_of_other_criteria_are_not_known_but_counted(docket: Docket) -> None:
    rule = dataclasses.replace(MADE_UP_RULE, criteria_digest=b"other" + bytes(27))
    assessment = dataclasses.replace(made_up_assessment(docket), level=Level(1, 0.3, 1.0))
    enter_made_up(docket, Offer(RUN, 1, artifact_digest(b"a"), 1), b"a", assessment, rule=rule)
    assert decide(docket, "next").lifetime_index == 2


def test_a_void_or_failed_candidate_may_be_offered_again_a_deferred_one_not(docket: Docket) -> None:
    def recorded(name: bytes) -> bool:
        found = docket.recorded(artifact_digest(name), MADE_UP_RULE.criteria_digest, MADE_UP_RULE.suite_digest)
        return found is not None

    for outcome in Outcome:
        decide(docket, outcome.value, outcome)
    failed = dataclasses.replace(made_up_assessment(docket), failure="it crashed half way")
    record_made_up(docket, RUN, 1, b"failed", failed)
    assert {name: recorded(name.encode()) for name in ("approved", "deferred", "rejected", "void", "failed")} == {
        "approved": True,
        "deferred": True,
        "rejected": True,
        "void": False,
        "failed": False,
    }


def test_evidence_and_artifacts_are_kept_with_the_verdicts(docket: Docket, tmp_path: Path) -> None:
    approved, rejected = decide(docket, "good"), decide(docket, "bad", Outcome.REJECTED)
    for verdict in (approved, rejected):
        assert evidence_path(tmp_path, verdict.evidence_digest).is_file()
    assert (tmp_path / "candidates" / artifact_digest(b"bad").hex()).read_bytes() == b"bad"
    assert not (tmp_path / "candidates" / artifact_digest(b"good").hex()).exists()
    assert (tmp_path / "incumbents" / artifact_digest(b"good").hex()).read_bytes() == b"good"


def test_what_a_crash_left_is_removed_at_the_next_start(docket: Docket, tmp_path: Path) -> None:
    verdict = decide(docket, "good")
    kept = evidence_path(tmp_path, verdict.evidence_digest)
    left = [tmp_path / "evidence" / f"{'0' * 64}.json", tmp_path / "evidence" / ".half.json.7"]
    left.append(tmp_path / "candidates" / ("1" * 64))
    for path in left:
        path.write_bytes(b"{")
    docket.forget_what_no_verdict_needs(MADE_UP_CONFIG.evidence_bytes_max)
    assert [path.exists() for path in left] == [False, False, False]
    assert kept.is_file()


def test_the_oldest_evidence_goes_first_and_that_of_standing_releases_stays(docket: Docket, tmp_path: Path) -> None:
    names = ["release", "old", "revoked", "new"]
    outcomes = [Outcome.APPROVED, Outcome.REJECTED, Outcome.APPROVED, Outcome.REJECTED]
    verdicts = [decide(docket, name, outcome) for name, outcome in zip(names, outcomes, strict=True)]
    docket.revoke(RUN, 2, "poisoned")

    def left(bytes_max: int) -> list[str]:
        docket.forget_what_no_verdict_needs(bytes_max)
        return [
            name
            for name, verdict in zip(names, verdicts, strict=True)
            if evidence_path(tmp_path, verdict.evidence_digest).exists()
        ]

    each = evidence_path(tmp_path, verdicts[0].evidence_digest).stat().st_size
    assert left(10 * each) == names
    assert left(round(3.5 * each)) == ["release", "revoked", "new"]
    assert left(round(2.5 * each)) == ["release", "new"]
    assert [path.name for path in (tmp_path / "candidates").iterdir()] == [artifact_digest(b"new").hex()]
    assert left(0) == ["release"]
    assert list((tmp_path / "candidates").iterdir()) == []


def test_no_verdict_without_its_evidence(docket: Docket, tmp_path: Path) -> None:
    (tmp_path / "evidence").rmdir()
    (tmp_path / "evidence").write_bytes(b"")
    with pytest.raises(CustodyError, match="evidence cannot be written"):
        decide(docket, "good")
    assert docket.counts == (0, 0, 0, 0)
    assert [entry.kind for entry in read_ledger(tmp_path)] == [OPENED, EVALUATION]


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_bytes(b"")
    with pytest.raises(CustodyError, match="evidence cannot be kept"):
        EvidenceStore(tmp_path)


def test_a_store_keeps_nothing_that_nobody_names(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    store.keep_candidate(b"one")
    store.keep_candidate(b"two")
    store.forget([Kept(b"", candidate=artifact_digest(b"two"), released=b"")], bytes_max=100)
    assert [path.read_bytes() for path in (tmp_path / "candidates").iterdir()] == [b"two"]
