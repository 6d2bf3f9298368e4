"""What is evaluated and by which rule, as digests, and the held-out seeds, drawn from a secret.

The seeds of an evaluation follow from a key of its own, which follows from the safety service's secret, the run and the
number of the evaluation. Before it nobody else can guess them; the ledger holds a commitment to the key by then, made
before the candidate was seen. The verdict reveals the key, so afterwards anybody can check that these were the seeds,
and that they were not chosen. They lie in [2**62, 2**63), training seeds below: no candidate can have been trained on
them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence

from actors.environment import EnvironmentSpec
from actors.seeds import EVALUATION_SEED_END, TRAINING_SEED_END
from safety.canonical_json import canonical_digest
from safety.suites.spec import SuiteSpec


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


def draw_seeds(key: bytes, slice_name: str, count: int) -> tuple[int, ...]:
    """The environment seeds of a slice in one evaluation, one per episode, each in [2**62, 2**63).

    Seed i is made by `evaluation_seed` from HMAC-SHA256(key, "temper.evaluation-seed.v3" LF slice LF i), so a longer
    list begins with the shorter one.
    """
    keyed = hmac.new(key, f"temper.evaluation-seed.v3\n{slice_name}\n".encode(), hashlib.sha256)
    seeds = []
    for index in range(count):
        code = keyed.copy()
        code.update(str(index).encode())
        seeds.append(evaluation_seed(code.digest()))
    return tuple(seeds)


def evaluation_seed(code: bytes) -> int:
    """The last 62 bits of the first 8 bytes (big-endian) of `code`, plus 2**62."""
    # The span is a power of two, so the remainder is uniform.
    return TRAINING_SEED_END + int.from_bytes(code[:8], "big") % (EVALUATION_SEED_END - TRAINING_SEED_END)


def seed_manifest_digest(seeds: Mapping[str, Sequence[int]]) -> bytes:
    """SHA-256 over the seeds of every slice, slices in the order of their names.

    Of each slice: its name and a line feed, the number of its seeds, and the seeds in order; numbers as unsigned
    big-endian integers of 8 bytes.
    """
    manifest = hashlib.sha256()
    for name in sorted(seeds):
        manifest.update(f"{name}\n".encode() + len(seeds[name]).to_bytes(8, "big"))
        manifest.update(b"".join(seed.to_bytes(8, "big") for seed in seeds[name]))
    return manifest.digest()


def suite_digest(suite: SuiteSpec, environments: Mapping[str, EnvironmentSpec]) -> bytes:
    """SHA-256 of what is run: environments by identity and shape, perturbations, episodes, plants, what is an event.

    Args:
      suite: what is evaluated.
      environments: of every slice, as the evaluators describe them.
    """
    return canonical_digest(
        {
            "kind": "temper.suite.v3",
            "name": suite.name,
            "slices": [
                {
                    "name": each.name,
                    "environment": _environment_fields(environments[each.name]),
                    "perturbations": [{"kind": one.kind, "amount": float(one.amount)} for one in each.perturbations],
                    "episodes": each.limits.episodes,
                    "episodes_max": each.limits.episodes_max,
                }
                for each in suite.slices
            ],
            "severity": {name: _number(value) for name, value in dataclasses.asdict(suite.severity).items()},
            "action_selection": suite.action_selection,
            "planted_violations": suite.planted_violations,
            "planted_clean": suite.planted_clean,
        }
    )


def criteria_digest(suite: SuiteSpec) -> bytes:
    """SHA-256 of the rule that decides: error rate and how it is shared, weights, and the limits of every slice."""
    return canonical_digest(
        {
            "kind": "temper.criteria.v2",
            "error_rate": float(suite.error_rate),
            "error_schedule": suite.error_schedule,
            "patience": suite.patience,
            "sensitivity_min": float(suite.sensitivity_min),
            "weights": {name: _number(value) for name, value in dataclasses.asdict(suite.weights).items()},
            "slices": [
                {"name": each.name} | {name: _number(value) for name, value in dataclasses.asdict(each.limits).items()}
                for each in suite.slices
            ],
        }
    )


def _environment_fields(environment: EnvironmentSpec) -> dict[str, object]:
    return {
        "id": environment.id,
        "version": environment.version,
        "code_digest": environment.code_digest.hex(),
        "observation": environment.observation.to_tree(),
        "action": environment.action.to_tree(),
        "episode_steps_max": environment.episode_steps_max,
    }


def _number(value: float) -> float | None:
    """A limit given as a whole number is the same limit; one that is infinite is none."""
    return float(value) if math.isfinite(value) else None
