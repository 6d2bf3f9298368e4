"""Held-out seeds and digests: documented formulas, and what each depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac

import pytest

from actors.environment import EnvironmentSpec
from actors.seeds import training_seed
from safety.config import SafetyConfig
from safety.suite import criteria_digest, draw_seeds, seed_commitment, seed_key, seed_manifest_digest, suite_digest

SECRET = bytes(range(32))
SPEC = EnvironmentSpec("cartpole", "gymnasium 1.4.0", bytes(32), (4,), "<f4", 2, 500)


def test_seeds_follow_the_documented_formula() -> None:
    key = hmac.new(SECRET, b"temper.seed-key.v1\nrun\n7", hashlib.sha256).digest()
    assert seed_key(SECRET, "run", 7) == key
    assert seed_commitment(key) == hashlib.sha256(key).digest()
    code = hmac.new(key, b"temper.evaluation-seed.v2\n2", hashlib.sha256).digest()
    expected = 2**62 + (int.from_bytes(code[:8], "big") & (2**62 - 1))
    assert draw_seeds(key, 3)[2] == expected


def test_seeds_are_never_training_seeds() -> None:
    evaluation = draw_seeds(SECRET, 2000)
    assert all(2**62 <= seed < 2**63 for seed in evaluation)
    assert all(0 <= training_seed(1, "actor", "run", 0, episode) < 2**62 for episode in range(2000))
    assert len(set(evaluation)) == 2000
    # Spread over the whole range, not just its low end.
    assert max(evaluation) > 2**62 + 2**61


def test_seeds_depend_on_secret_run_and_evaluation_and_on_nothing_else() -> None:
    key = seed_key(SECRET, "run", 1)
    seeds = draw_seeds(key, 10)
    assert seeds == draw_seeds(key, 10) == draw_seeds(key, 20)[:10]
    for other in (seed_key(bytes(32), "run", 1), seed_key(SECRET, "r", 1), seed_key(SECRET, "run", 2)):
        assert not set(seeds) & set(draw_seeds(other, 10))


def test_manifest_digest_commits_to_seeds_and_order() -> None:
    assert seed_manifest_digest([2**62]) == hashlib.sha256(bytes([0x40, 0, 0, 0, 0, 0, 0, 0])).digest()
    assert seed_manifest_digest([1, 2]) != seed_manifest_digest([2, 1])


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        (dataclasses.replace(SPEC, id="other"), SafetyConfig()),
        (dataclasses.replace(SPEC, version="gymnasium 2"), SafetyConfig()),
        (dataclasses.replace(SPEC, code_digest=b"\1" * 32), SafetyConfig()),
        (dataclasses.replace(SPEC, episode_steps_max=None), SafetyConfig()),
        (SPEC, SafetyConfig(episodes=50)),
        (SPEC, SafetyConfig(action_selection="greedy")),
    ],
)
def test_suite_digest_depends_on_what_is_run(spec: EnvironmentSpec, config: SafetyConfig) -> None:
    assert suite_digest(spec, config) != suite_digest(SPEC, SafetyConfig())


@pytest.mark.parametrize(
    "change",
    [{"confidence": 0.9}, {"violation_rate_max": 0.2}, {"return_margin": 0.1}, {"return_margin_absolute": 1.0}],
)
def test_criteria_digest_depends_on_every_limit(change: dict[str, float]) -> None:
    config = SafetyConfig(**change)  # type: ignore[arg-type]
    assert criteria_digest(config) != criteria_digest(SafetyConfig())


def test_digests_do_not_depend_on_operational_settings() -> None:
    config = SafetyConfig(evaluation_s_max=1.0, lease_s=1.0, queue_max=1)
    assert suite_digest(SPEC, config) == suite_digest(SPEC, SafetyConfig())
    assert criteria_digest(config) == criteria_digest(SafetyConfig())
    # A limit given as a whole number is the same limit.
    assert criteria_digest(SafetyConfig(violation_rate_max=1)) == criteria_digest(SafetyConfig(violation_rate_max=1.0))
