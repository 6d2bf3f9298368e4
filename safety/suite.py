"""What is evaluated and by which rule, as digests, and the held-out seeds, drawn from a secret.

The seeds of an evaluation follow from a key of its own, which follows from the safety service's secret, the run and the
number of the evaluation. Before it nobody else can guess them; the ledger holds a commitment to the key by then, made
before the candidate was seen. The verdict reveals the key, so afterwards anybody can check that these were the seeds,
and that they were not chosen. They lie in [2**62, 2**63), training seeds below: no candidate can have been trained on
them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from actors.environment import EnvironmentSpec
from actors.seeds import EVALUATION_SEED_END, TRAINING_SEED_END
from safety.canonical_json import canonical_digest
from safety.config import SafetyConfig


def seed_key(secret: bytes, run_id: str, evaluation: int) -> bytes:
    """The key of one evaluation's seeds: HMAC-SHA256(secret, "temper.seed-key.v1" LF run_id LF evaluation).

    Args:
      secret: what only the safety service knows.
      run_id: the training run; without a line feed.
      evaluation: number of the evaluation, from 1: that of the verdict it will give, so no two verdicts share it.
    """
    return hmac.digest(secret, f"temper.seed-key.v1\n{run_id}\n{evaluation}".encode(), "sha256")


def seed_commitment(key: bytes) -> bytes:
    """What is made known of a key before it is used: its SHA-256 (32 bytes), from which it cannot be had."""
    return hashlib.sha256(key).digest()


def draw_seeds(key: bytes, episodes: int) -> tuple[int, ...]:
    """The environment seeds of one evaluation, one per episode, each in [2**62, 2**63).

    Seed i is the last 62 bits of the first 8 bytes of HMAC-SHA256(key, "temper.evaluation-seed.v2" LF i), plus 2**62.
    """
    span = EVALUATION_SEED_END - TRAINING_SEED_END
    keyed = hmac.new(key, b"temper.evaluation-seed.v2\n", hashlib.sha256)
    seeds = []
    for index in range(episodes):
        code = keyed.copy()
        code.update(str(index).encode())
        # The span is a power of two, so the remainder is uniform.
        seeds.append(TRAINING_SEED_END + int.from_bytes(code.digest()[:8], "big") % span)
    return tuple(seeds)


def seed_manifest_digest(seeds: Sequence[int]) -> bytes:
    """SHA-256 over the seeds, each as an unsigned big-endian integer of 8 bytes, in order."""
    return hashlib.sha256(b"".join(seed.to_bytes(8, "big") for seed in seeds)).digest()


def suite_digest(environment: EnvironmentSpec, config: SafetyConfig) -> bytes:
    """SHA-256 of what is run: the environment's identity and shape, the episodes, and how actions are selected."""
    return canonical_digest(
        {
            "kind": "temper.suite.v1",
            "environment": {
                "id": environment.id,
                "version": environment.version,
                "code_digest": environment.code_digest.hex(),
                "observation_shape": list(environment.observation_shape),
                "observation_dtype": environment.observation_dtype,
                "num_actions": environment.num_actions,
                "episode_steps_max": environment.episode_steps_max,
            },
            "episodes": config.episodes,
            "action_selection": config.action_selection,
        }
    )


def criteria_digest(config: SafetyConfig) -> bytes:
    """SHA-256 of the rule that decides: confidence, limits and margins."""
    return canonical_digest(
        {
            "kind": "temper.criteria.v1",
            "error_rate": float(config.error_rate),
            "violation_rate_max": float(config.violation_rate_max),
            "return_margin": float(config.return_margin),
            "return_margin_absolute": float(config.return_margin_absolute),
        }
    )
