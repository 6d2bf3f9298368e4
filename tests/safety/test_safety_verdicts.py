"""Assessments and statements: what counts as approved, and that text for people never lies about the statement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest

from policies.signing import VERDICT_TYPE, SigningKey, sign
from protos.safety.v1 import safety_pb2
from safety.canonical_json import canonical_digest, canonical_json
from safety.evidence.audit import contradiction
from safety.evidence.file import EpisodeEvidence, SliceEvidence
from safety.statistics.combination import Combination, Outcome
from safety.statistics.counts import Severity
from safety.statistics.findings import Finding, Kind, Status
from safety.suites.manifest import draw_seeds, seed_manifest_digest
from safety.trials.levels import Level
from safety.trials.trial import Trial
from safety.verdicts import (
    Assessment,
    Offer,
    Rule,
    SeedDisclosure,
    compose_evidence,
    compose_statement,
    ledger_fields,
    outcome_name,
    statement_in,
)
from tests.safety.made_up_trials import KEY, SUITE, MadeUpPolicy, hold, level_of

OFFER = Offer("run-1", 7, bytes(range(32)), 100, b"l" * 32)
RULE = Rule(b"c" * 32, b"s" * 32, SUITE)
LEVEL = Level(3, 0.004, 1.5)
PASSED = Finding("rate", "held-out", Kind.SAFETY, Status.PASSED, 0.0, 0.0, 0.0, 1, "fine")
FAILED = Finding("other", "held-out", Kind.SAFETY, Status.FAILED, math.nan, -math.inf, 0.0, 1, "too much")
APPROVED = Combination(Outcome.APPROVED, (), (PASSED,), 0)


def compose(assessment: Assessment, previous: bytes = b"p" * 32) -> safety_pb2.VerdictStatement:
    return compose_statement(
        OFFER,
        assessment,
        RULE,
        seeds=SeedDisclosure(KEY, b"n" * 32),
        evidence_digest=b"e" * 32,
        alarms=["look here"],
        release_number=4,
        previous_entry_digest=previous,
        issue_time_ns=1000,
        validity_s=2.0,
        canary_share=0.25,
    )


def tried(candidate: MadeUpPolicy, incumbent: MadeUpPolicy | None = None) -> Assessment:
    level = level_of()
    trial = Trial(SUITE, level, KEY, lanes=64, incumbent=incumbent is not None)
    hold(trial, candidate, incumbent)
    return Assessment("", level, trial.conclude(deferred_in_a_row=0), trial.evidence(), b"i" * 32 if incumbent else b"")


@pytest.mark.parametrize(
    ("assessment", "outcome", "reason"),
    [
        (Assessment("", LEVEL, APPROVED), Outcome.APPROVED, ""),
        (Assessment("it crashed"), Outcome.REJECTED, "it crashed"),
        (Assessment("it crashed", LEVEL, APPROVED), Outcome.REJECTED, "it crashed"),
        (Assessment("", LEVEL, Combination(Outcome.REJECTED, ("a", "b"), (FAILED,), 0)), Outcome.REJECTED, "a; b"),
        (Assessment("", LEVEL, Combination(Outcome.VOID, ("a",), (FAILED,), 0)), Outcome.VOID, "a"),
        (Assessment("", LEVEL, Combination(Outcome.DEFERRED, ("a",), (FAILED,), 2)), Outcome.DEFERRED, "a"),
        # Nothing asked is nothing shown, nor is what was not tested; and no claim goes beyond the findings.
        (Assessment("", LEVEL), Outcome.REJECTED, "nothing was found out"),
        (Assessment("", None, APPROVED), Outcome.REJECTED, "not every criterion passed"),
        (
            Assessment("", LEVEL, Combination(Outcome.APPROVED, (), (), 0)),
            Outcome.REJECTED,
            "not every criterion passed",
        ),
        (
            Assessment("", LEVEL, Combination(Outcome.APPROVED, (), (PASSED, FAILED), 0)),
            Outcome.REJECTED,
            "not every criterion passed",
        ),
    ],
)
def test_only_a_full_set_of_passed_criteria_approves(assessment: Assessment, outcome: Outcome, reason: str) -> None:
    statement = compose(assessment)
    assert (assessment.outcome, outcome_name(statement), statement.reason) == (outcome, outcome.value, reason)
    approved = outcome is Outcome.APPROVED
    assert (statement.approved, statement.release_number) == (approved, 4 if approved else 0)
    assert statement.canary_share == (0.25 if approved else 0.0)
    assert statement.deferred_in_a_row == (2 if outcome is Outcome.DEFERRED else 0)


def test_a_statement_binds_offer_rule_figures_and_place() -> None:
    assessment = tried(MadeUpPolicy(480.0, severe=[3]), MadeUpPolicy(470.0))
    statement = compose(assessment)
    assert (statement.run_id, statement.version, statement.artifact_digest) == ("run-1", 7, OFFER.digest)
    assert (statement.criteria_digest, statement.suite_digest) == (RULE.criteria_digest, RULE.suite_digest)
    assert (statement.lineage_digest, statement.evidence_digest) == (b"l" * 32, b"e" * 32)
    seeds = {"held-out": draw_seeds(KEY, "held-out", statement.episodes)}
    assert statement.seed_manifest_digest == seed_manifest_digest(seeds)
    assert (statement.seed_key, statement.next_seed_commitment) == (KEY, b"n" * 32)
    assert (statement.violating_episodes, statement.return_mean) == (1, 480.0)
    assert (statement.return_ci95_low, statement.return_ci95_high) == (480.0, 480.0)
    (counts,) = statement.slices
    assert (counts.episodes, counts.severe, counts.minor, counts.return_mean) == (statement.episodes, 1, 0, 480.0)
    assert (counts.incumbent_episodes, counts.incumbent_severe, counts.incumbent_return_mean) == (
        counts.episodes,
        0,
        470.0,
    )
    assert (statement.lifetime_index, statement.error_level) == (1, level_of().alpha)
    assert (statement.issue_time_ns, statement.expiry_time_ns) == (1000, 2_000_001_000)
    assert (statement.previous_entry_digest, statement.incumbent_digest) == (b"p" * 32, b"i" * 32)
    assert list(statement.alarms) == ["look here"]


def test_nothing_run_is_no_test() -> None:
    statement = compose(Assessment("the artifact is too large"))
    assert (statement.lifetime_index, statement.error_level, statement.episodes) == (0, 0.0, 0)
    assert not statement.HasField("detector")


def test_ids_differ_by_place_in_the_ledger() -> None:
    assessment = Assessment("it crashed")
    assert compose(assessment).verdict_id != compose(assessment, b"q" * 32).verdict_id


def test_ledger_fields_hold_the_statement_and_can_always_be_written() -> None:
    combination = Combination(Outcome.REJECTED, ("too much",), (PASSED, FAILED), 0)
    statement = compose(Assessment("", LEVEL, combination))
    signed = sign(SigningKey.generate(), VERDICT_TYPE, statement.SerializeToString(deterministic=True))
    fields = ledger_fields(signed, statement, 3)
    assert statement_in(fields) == signed
    assert fields["criteria"][1]["statistic"] is None
    assert b'"evaluation":3' in canonical_json(fields)


def test_canonical_json_is_one_text_per_value() -> None:
    assert canonical_json({"b": [1, 2.5, "ü"], "a": None}) == '{"a":null,"b":[1,2.5,"ü"]}'.encode()
    assert canonical_digest({"a": 1, "b": 2}) == canonical_digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": math.nan})


def test_evidence_that_says_what_the_verdict_says_contradicts_it_nowhere() -> None:
    for assessment in (
        tried(MadeUpPolicy(480.0, severe=[3]), MadeUpPolicy(470.0)),
        tried(MadeUpPolicy(1.0, severe=0.5)),
    ):
        assert assessment.level is not None
        evidence = compose_evidence(OFFER, assessment, assessment.level, RULE, lanes=64, seed_key=KEY)
        assert contradiction(evidence, compose(assessment)) == ""


def without_events(run: SliceEvidence) -> SliceEvidence:
    clean = tuple((0, 0, 0) for _ in run.seeds)
    return dataclasses.replace(run, candidate=run.candidate._replace(events=clean))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_events, "do not add up to the counts"),
        (lambda run: dataclasses.replace(run, seeds=tuple(reversed(run.seeds))), "the seeds are others"),
        (
            lambda run: dataclasses.replace(
                run, plants=run.plants._replace(severities=(Severity.NONE, *run.plants.severities[1:]))
            ),
            "planted episodes of slice held-out do not follow from the key",
        ),
        (
            lambda run: dataclasses.replace(
                run, candidate=EpisodeEvidence(*run.candidate)._replace(costs=(0.0,) * len(run.seeds))
            ),
            "0 episodes have a cost",
        ),
    ],
)
def test_evidence_that_was_made_up_afterwards_contradicts_the_verdict(
    change: Callable[[SliceEvidence], SliceEvidence], message: str
) -> None:
    assessment = tried(MadeUpPolicy(480.0, severe=[3]))
    assert assessment.level is not None
    evidence = compose_evidence(OFFER, assessment, assessment.level, RULE, lanes=64, seed_key=KEY)
    altered = dataclasses.replace(evidence, slices=tuple(change(run) for run in evidence.slices))
    assert message in contradiction(altered, compose(assessment))


@pytest.mark.parametrize(
    "change",
    [{"version": 8}, {"error_level": 0.5}, {"outcome": Outcome.DEFERRED}, {"reasons": ("x",)}, {"findings": ()}],
)
def test_evidence_about_something_else_contradicts_the_verdict(change: dict[str, object]) -> None:
    assessment = tried(MadeUpPolicy(480.0))
    assert assessment.level is not None
    evidence = compose_evidence(OFFER, assessment, assessment.level, RULE, lanes=64, seed_key=KEY)
    assert contradiction(dataclasses.replace(evidence, **change), compose(assessment))  # type: ignore[arg-type]
