"""Held-out seeds and digests: documented formulas, and what each depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math

import pytest

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec
from actors.seeds import training_seed
from policies.spaces import array_space, discrete
from safety.statistics.risk_budget import SeverityWeights
from safety.suites.manifest import (
    criteria_digest,
    draw_seeds,
    seed_commitment,
    seed_key,
    seed_manifest_digest,
    suite_digest,
)
from safety.suites.spec import Perturbation, SeverityScale, SliceSpec, SuiteSpec
from tests.safety.suites import LIMITS, slice_of, suite_of

SECRET = bytes(range(32))
SPEC = EnvironmentSpec("cartpole", "gymnasium 1.4.0", bytes(32), array_space((4,), "<f4"), discrete(2), 500)
SUITE = suite_of(slice_of(name="a"), slice_of(name="b"))
ENVIRONMENTS = {"a": SPEC, "b": SPEC}


def with_slice(change: SliceSpec) -> SuiteSpec:
    return dataclasses.replace(SUITE, slices=(change, SUITE.slices[1]))


def with_limits(**changes: float) -> SuiteSpec:
    return with_slice(dataclasses.replace(SUITE.slices[0], limits=dataclasses.replace(LIMITS, **changes)))  # type: ignore[arg-type]


def test_seeds_follow_the_documented_formula() -> None:
    key = hmac.new(SECRET, b"temper.seed-key.v1\nrun\n7", hashlib.sha256).digest()
    assert seed_key(SECRET, "run", 7) == key
    assert seed_commitment(key) == hashlib.sha256(key).digest()
    code = hmac.new(key, b"temper.evaluation-seed.v3\nheld-out\n2", hashlib.sha256).digest()
    expected = 2**62 + (int.from_bytes(code[:8], "big") & (2**62 - 1))
    assert draw_seeds(key, "held-out", 3)[2] == expected


def test_seeds_are_never_training_seeds() -> None:
    evaluation = draw_seeds(SECRET, "a", 2000)
    assert all(2**62 <= seed < 2**63 for seed in evaluation)
    assert all(0 <= training_seed(1, "actor", "run", 0, episode) < 2**62 for episode in range(2000))
    assert len(set(evaluation)) == 2000
    # Spread over the whole range, not just its low end.
    assert max(evaluation) > 2**62 + 2**61


def test_seeds_depend_on_secret_run_evaluation_and_slice_and_on_nothing_else() -> None:
    key = seed_key(SECRET, "run", 1)
    seeds = draw_seeds(key, "a", 10)
    assert seeds == draw_seeds(key, "a", 10) == draw_seeds(key, "a", 20)[:10]
    for other in (seed_key(bytes(32), "run", 1), seed_key(SECRET, "r", 1), seed_key(SECRET, "run", 2)):
        assert not set(seeds) & set(draw_seeds(other, "a", 10))
    assert not set(seeds) & set(draw_seeds(key, "b", 10))


def test_manifest_digest_commits_to_slices_seeds_and_order() -> None:
    text = b"a\n" + bytes([0, 0, 0, 0, 0, 0, 0, 1]) + bytes([0x40, 0, 0, 0, 0, 0, 0, 0]) + b"b\n" + bytes(8)
    assert seed_manifest_digest({"b": [], "a": [2**62]}) == hashlib.sha256(text).digest()
    different = [{"a": [1, 2]}, {"a": [2, 1]}, {"b": [1, 2]}, {"a": [1], "b": [2]}, {"a": [1, 2], "b": []}]
    assert len({seed_manifest_digest(each) for each in different}) == len(different)


@pytest.mark.parametrize(
    "spec",
    [
        dataclasses.replace(SPEC, id="other"),
        dataclasses.replace(SPEC, version="gymnasium 2"),
        dataclasses.replace(SPEC, code_digest=b"\1" * 32),
        dataclasses.replace(SPEC, episode_steps_max=None),
    ],
)
def test_suite_digest_depends_on_the_environment_of_each_slice(spec: EnvironmentSpec) -> None:
    digests = {suite_digest(SUITE, {"a": a, "b": b}) for a in (SPEC, spec) for b in (SPEC, spec)}
    assert len(digests) == 4


@pytest.mark.parametrize(
    "suite",
    [
        with_limits(episodes=50),
        with_limits(episodes_max=500),
        with_slice(dataclasses.replace(SUITE.slices[0], perturbations=(Perturbation("action_noise", 0.1),))),
        with_slice(dataclasses.replace(SUITE.slices[0], perturbations=(Perturbation("action_noise", 0.2),))),
        with_slice(dataclasses.replace(SUITE.slices[0], perturbations=(Perturbation("observation_dropout", 0.1),))),
        dataclasses.replace(SUITE, severity=SeverityScale()),
        dataclasses.replace(SUITE, action_selection="greedy"),
        dataclasses.replace(SUITE, planted_violations=61),
        dataclasses.replace(SUITE, planted_clean=21),
        dataclasses.replace(SUITE, slices=SUITE.slices[::-1]),
        dataclasses.replace(SUITE, slices=SUITE.slices[:1]),
    ],
)
def test_suite_digest_depends_on_what_is_run(suite: SuiteSpec) -> None:
    assert suite_digest(suite, ENVIRONMENTS) != suite_digest(SUITE, ENVIRONMENTS)


@pytest.mark.parametrize(
    "suite",
    [
        dataclasses.replace(SUITE, error_rate=0.1),
        dataclasses.replace(SUITE, error_schedule="spend"),
        dataclasses.replace(SUITE, patience=0),
        dataclasses.replace(SUITE, sensitivity_min=0.5),
        dataclasses.replace(SUITE, weights=SeverityWeights(0.0, 0.0, 1.0)),
        with_limits(episodes=50),
        with_limits(episodes_max=500),
        with_limits(violation_rate_max=0.2),
        with_limits(risk_margin=0.2),
        with_limits(risk_budget=math.inf),
        with_limits(return_margin=0.1),
        with_limits(return_margin_absolute=1.0),
    ],
)
def test_criteria_digest_depends_on_every_limit(suite: SuiteSpec) -> None:
    assert criteria_digest(suite) != criteria_digest(SUITE)


def test_digests_do_not_depend_on_how_a_number_is_written() -> None:
    whole, real = with_limits(return_margin_absolute=1), with_limits(return_margin_absolute=1.0)
    assert criteria_digest(whole) == criteria_digest(real)
    late = dataclasses.replace(SUITE.slices[0], perturbations=(Perturbation("action_delay", 2),))
    also = dataclasses.replace(SUITE.slices[0], perturbations=(Perturbation("action_delay", 2.0),))
    assert suite_digest(with_slice(late), ENVIRONMENTS) == suite_digest(with_slice(also), ENVIRONMENTS)


def test_the_environment_is_known_by_what_it_is_not_by_how_it_is_asked_for() -> None:
    """A limit that equals the environment's own makes the same environment."""
    asked = with_slice(dataclasses.replace(SUITE.slices[0], environment=EnvironmentConfig(episode_steps_max=500)))
    assert suite_digest(asked, ENVIRONMENTS) == suite_digest(SUITE, ENVIRONMENTS)
