"""Assessments and statements: what counts as approved, and that text for people never lies about the statement."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.signing import VERDICT_TYPE, SigningKey, sign
from protos.safety.v1 import safety_pb2
from safety.canonical_json import canonical_digest, canonical_json
from safety.evaluation import EpisodeOutcomes
from safety.verdicts import Assessment, Offer, Rule, SeedDisclosure, compose_statement, ledger_fields, statement_in

OFFER = Offer("run-1", 7, bytes(range(32)), 100)
RULE = Rule(b"c" * 32, b"s" * 32, b"m" * 32)
PASSED = safety_pb2.CriterionResult(name="violation_rate", passed=True)
FAILED = safety_pb2.CriterionResult(name="other", passed=False, explanation="too much", statistic=-math.inf)
OUTCOMES = EpisodeOutcomes(np.array([1.0, 3.0]), np.array([0.0, 2.0]), np.array([5, 5]))


def compose(assessment: Assessment, previous: bytes = b"p" * 32) -> safety_pb2.VerdictStatement:
    return compose_statement(
        OFFER,
        assessment,
        RULE,
        seeds=SeedDisclosure(b"k" * 32, b"n" * 32),
        release_number=4,
        previous_entry_digest=previous,
        issue_time_ns=1000,
        validity_s=2.0,
    )


@pytest.mark.parametrize(
    ("assessment", "approved", "reason"),
    [
        (Assessment("", (PASSED, PASSED), OUTCOMES), True, ""),
        (Assessment("", (PASSED, FAILED), OUTCOMES), False, "other: too much"),
        (Assessment("", (FAILED, FAILED), OUTCOMES), False, "other: too much; other: too much"),
        (Assessment("it crashed"), False, "it crashed"),
        (Assessment("it crashed", (PASSED,), OUTCOMES), False, "it crashed"),
        # Nothing asked is nothing shown.
        (Assessment("", (), OUTCOMES), False, ""),
    ],
)
def test_only_a_full_set_of_passed_criteria_approves(assessment: Assessment, approved: bool, reason: str) -> None:
    statement = compose(assessment)
    assert (assessment.approved, assessment.reason) == (approved, reason)
    assert (statement.approved, statement.reason) == (approved, reason)
    assert statement.release_number == (4 if approved else 0)


def test_a_statement_binds_offer_rule_figures_and_place() -> None:
    statement = compose(Assessment("", (PASSED,), OUTCOMES, b"i" * 32))
    assert (statement.run_id, statement.version, statement.artifact_digest) == ("run-1", 7, OFFER.digest)
    assert (statement.criteria_digest, statement.suite_digest) == (RULE.criteria_digest, RULE.suite_digest)
    assert (statement.seed_manifest_digest, statement.incumbent_digest) == (RULE.seed_manifest_digest, b"i" * 32)
    assert (statement.seed_key, statement.next_seed_commitment) == (b"k" * 32, b"n" * 32)
    assert (statement.episodes, statement.violating_episodes, statement.return_mean) == (2, 1, 2.0)
    assert statement.return_ci95_low < 2.0 < statement.return_ci95_high
    assert (statement.issue_time_ns, statement.expiry_time_ns) == (1000, 2_000_001_000)
    assert statement.previous_entry_digest == b"p" * 32


def test_ids_differ_by_place_in_the_ledger() -> None:
    assessment = Assessment("it crashed")
    assert compose(assessment).verdict_id != compose(assessment, b"q" * 32).verdict_id


def test_ledger_fields_hold_the_statement_and_can_always_be_written() -> None:
    statement = compose(Assessment("", (PASSED, FAILED), OUTCOMES))
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
