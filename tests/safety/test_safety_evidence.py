"""Evidence: what was written is read again as it was, and whatever is not that is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from safety.canonical_json import canonical_json
from safety.evidence.file import (
    EpisodeEvidence,
    Evidence,
    EvidenceDamaged,
    EvidenceMissing,
    PlantEvidence,
    SliceEvidence,
    evidence_fields,
    evidence_path,
    read_evidence,
    write_evidence,
)
from safety.statistics.combination import Outcome
from safety.statistics.counts import Severity
from safety.statistics.findings import Finding, Kind, Status
from safety.suites.spec import Perturbation, SeverityScale, SliceLimits

LIMITS = SliceLimits(2, 64, 0.1, 0.05, math.inf, 0.05, 0.0)
EPISODES = EpisodeEvidence((1.5, -2.25), (0.0, 3.0), (10, 20), ((0, 0, 0), (0, 1, 2)))
PLANTS = PlantEvidence((7, 8), (Severity.SEVERE, Severity.NONE), (0.1, 1.0 / 3.0), ((0, 0, 1), (0, 0, 0)))
PLAIN = SliceEvidence("plain", EnvironmentConfig(), (), LIMITS, (2**62, 2**63 - 1), EPISODES, None, PLANTS)
NOISY = dataclasses.replace(PLAIN, name="noisy", perturbations=(Perturbation("action_noise", 0.1),), incumbent=EPISODES)
FINDING = Finding(
    "sequential_violation_rate", "plain", Kind.SAFETY, Status.PASSED, 0.0, 0.01, 0.03, 2, "why", {"rate_high": 0.9}
)
EVIDENCE = Evidence(
    run_id="run",
    version=17,
    artifact_digest=b"a" * 32,
    incumbent_digest=b"",
    suite_digest=b"s" * 32,
    criteria_digest=b"c" * 32,
    seed_key=b"k" * 32,
    lifetime_index=3,
    error_level=0.0123,
    lanes=64,
    action_selection="sample",
    severity=SeverityScale(),
    suite="settings",
    slices=(PLAIN, NOISY),
    findings=(FINDING,),
    outcome=Outcome.REJECTED,
    reasons=("one", "two"),
)


def test_what_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    digest = write_evidence(tmp_path, EVIDENCE)
    path = evidence_path(tmp_path, digest)
    assert hashlib.sha256(path.read_bytes()).digest() == digest
    assert read_evidence(tmp_path, digest) == EVIDENCE
    assert write_evidence(tmp_path, EVIDENCE) == digest
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_is_not_finite_is_null_in_the_file(tmp_path: Path) -> None:
    unknown = dataclasses.replace(FINDING, estimate=math.nan, statistic=-math.inf, figures={"a": math.inf})
    digest = write_evidence(tmp_path, dataclasses.replace(EVIDENCE, findings=(unknown,)))
    (read,) = read_evidence(tmp_path, digest).findings
    assert math.isnan(read.estimate) and math.isnan(read.statistic) and math.isnan(read.figures["a"])
    assert read_evidence(tmp_path, digest).slices[0].limits.risk_budget == math.inf


def test_outcomes_are_those_the_statistics_take() -> None:
    outcomes = NOISY.candidate_outcomes
    assert outcomes.worst.tolist() == [Severity.NONE, Severity.SEVERE]
    np.testing.assert_array_equal(outcomes.capability, EPISODES.returns)
    assert NOISY.incumbent_outcomes is not None
    assert PLAIN.incumbent_outcomes is None


def test_evidence_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EvidenceMissing, match="is not there"):
        read_evidence(tmp_path, b"x" * 32)


def test_an_altered_file_is_damaged(tmp_path: Path) -> None:
    digest = write_evidence(tmp_path, EVIDENCE)
    path = evidence_path(tmp_path, digest)
    path.write_bytes(path.read_bytes().replace(b'"version":17', b'"version":18'))
    with pytest.raises(EvidenceDamaged, match="its digest differs"):
        read_evidence(tmp_path, digest)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "temper.evidence.v2"},
        {"slices": [{}]},
        {"outcome": "released"},
        {"severity": {"worst": 1.0}},
        {"findings": 3},
    ],
)
def test_a_file_of_the_right_digest_that_is_no_evidence_is_damaged(tmp_path: Path, change: dict[str, object]) -> None:
    text = canonical_json({**evidence_fields(EVIDENCE), **change})
    digest = hashlib.sha256(text).digest()
    write_evidence(tmp_path, EVIDENCE)
    evidence_path(tmp_path, digest).write_bytes(text)
    with pytest.raises(EvidenceDamaged, match="is not evidence of kind"):
        read_evidence(tmp_path, digest)


def test_columns_of_different_lengths_are_damage(tmp_path: Path) -> None:
    short = dataclasses.replace(PLAIN, seeds=(1,))
    digest = write_evidence(tmp_path, dataclasses.replace(EVIDENCE, slices=(short,)))
    with pytest.raises(EvidenceDamaged, match="one entry per seed"):
        read_evidence(tmp_path, digest)
