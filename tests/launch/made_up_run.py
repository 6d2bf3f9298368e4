"""A run directory made up for tests: its files as the real processes would have left them. Not a test."""

from __future__ import annotations

import json
from pathlib import Path

from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from launch.run_paths import RunPaths
from policies.artifact import artifact_digest
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import make_artifact, signed_verdict
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2

METRICS = {"time_s": 3.5, "updates": 40, "env_steps": 9000, "env_steps_per_s": 2500.0, "return_mean": 12.5,
           "policy_lag_mean": 2.0, "policy_lag_p95": 4.0, "wait_data_s": 0.25, "lease_refusal": ""}  # fmt: skip
FINAL = {"env_steps": 10_000, "updates": 50, "wall_s": 4.0, "policy_lag": {"mean": 1.5, "p95": 3.0},
         "stopped_because": "target", "return_mean": 13.0}  # fmt: skip


def begin(root: Path) -> RunPaths:
    """A catch run that has just begun."""
    with RunDirectory(root) as directory:
        directory.begin(make_recipe("catch"))
    return RunPaths(root)


def add_metrics(paths: RunPaths) -> None:
    """Two lines of figures, the second of them METRICS, and the start of a third."""
    paths.metrics.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"time_s": 0.5, "env_steps": 100}), json.dumps(METRICS), '{"time_s": 4.5, "env_st']
    paths.metrics.write_text("\n".join(lines))


def add_final(paths: RunPaths) -> None:
    """The learner's last word, FINAL."""
    paths.final.parent.mkdir(parents=True, exist_ok=True)
    paths.final.write_text(json.dumps(FINAL))


def add_releases(paths: RunPaths, count: int) -> list[common_pb2.SignedStatement]:
    """That many releases, really signed; release n has return 100 n and update 10 n. Returns their verdicts."""
    key = SigningKey.generate()
    paths.safety.mkdir()
    key.verify_key.save(paths.verify_key)
    run_id = paths.run_id.read_text().strip()
    registry = PolicyRegistry(paths.policies, TrustPolicy(key.verify_key, run_id))
    verdicts = []
    for number in range(1, count + 1):
        data = make_artifact(seed=number).to_bytes()
        verdicts.append(
            signed_verdict(
                key,
                artifact_digest(data),
                run_id=run_id,
                verdict_id=f"{number:032x}",
                version=10 * number,
                release_number=number,
                return_mean=100.0 * number,
                return_ci95_low=100.0 * number - 5,
                return_ci95_high=100.0 * number + 5,
            )
        )
        registry.promote(data, verdicts[-1])
    return verdicts


def replay_stats() -> replay_pb2.StatsResponse:
    """Counters of a small replay with two tables."""
    tables = [
        replay_pb2.TableStats(name="fresh", kind="fresh", insert_wait_s=1.5, sample_wait_s=0.25),
        replay_pb2.TableStats(name="uniform", kind="uniform", insert_wait_s=0.5, sample_wait_s=0.5),
    ]
    return replay_pb2.StatsResponse(records=1234, payload_bytes=5_600_000, tables=tables)
