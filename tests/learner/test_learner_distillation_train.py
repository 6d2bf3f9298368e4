"""The train loop of a student: what it offers, what it tells, and whom its lineages name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from learner.batches import LearnerBatch
from learner.distillation.config import DistillationConfig
from learner.distillation.term import DIVERGENCE
from learner.lineage_archive import lineage_paths
from learner.lineage_file import read_lineage
from tests.learner.test_learner_update import B, T
from tests.learner.train_bench import Bench, ScriptedBatches

CONFIG = DistillationConfig(teachers=("t",), identities=("run-t@3:00ff",), candidate_divergence_max=5.0)


def nearer_with_every_update(
    parameters: Any, output: Any, batch: Any, updates: jax.Array
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Of divergence 10 at first, and of 0 after ten updates; no loss."""
    return jnp.zeros(()), {DIVERGENCE: jnp.maximum(10.0 - updates, 0.0)}


class LeftBatches(ScriptedBatches):
    """As of records that another run has left: nobody says how they came out."""

    def next(self) -> LearnerBatch | None:
        batch = super().next()
        if batch is None:
            return None
        return replace(batch, positions=batch.positions[:0], headers=(), origins=(), fresh_headers=())


def bench_of(directory: Path, config: DistillationConfig, **limits: Any) -> Bench:
    bench = Bench(directory, distillation=config, env_steps_max=20 * T * B, **limits)
    bench.terms = (nearer_with_every_update,)
    return bench


@pytest.mark.parametrize("mode", ["on_policy", "offline"])
def test_a_student_is_offered_once_it_is_near_its_teacher(tmp_path: Path, mode: str) -> None:
    bench = bench_of(tmp_path, replace(CONFIG, mode=mode))
    if mode == "offline":
        bench.batches = LeftBatches()
    reason, progress = bench.run()
    assert reason == "env_steps"
    # The figure is of the update before: 10 - 5 is the first that is not above 5.
    assert bench.desk.offered[0] == 6
    assert len(bench.desk.offered) > 5
    assert (progress.recent_return is None) == (mode == "offline")
    assert len(progress.consumed) == (0 if mode == "offline" else 20 * B)
    bench.checkpoints.close()
    heads = [read_lineage(path).head for path in lineage_paths(tmp_path / "lineage")]
    assert {head.teachers for head in heads} == {("run-t@3:00ff",)}


def test_on_policy_the_training_return_counts_as_well(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, CONFIG)
    bench.job = replace(bench.job, learner=replace(bench.job.learner, candidate_return_min=1e6))
    bench.run()
    # At the limit what there is is still put to the gate.
    assert bench.desk.offered == [20]
    bench.checkpoints.close()
