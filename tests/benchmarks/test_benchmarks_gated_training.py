"""Training with and without the gate: its own evaluation, its figures, its table. No training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environments.catalog import make_vector
from actors.seeds import EVALUATION_SEED_END, TRAINING_SEED_END
from benchmarks import policy_evaluation
from benchmarks.gated_results import (
    GATED,
    GATED_LAST,
    UNGATED,
    SeedResult,
    over_seeds,
    pairs,
    rate_interval,
    relative_change,
    summary,
    table,
)
from benchmarks.gated_training import NO_LIMITS
from benchmarks.last_weights import last_artifact
from benchmarks.policy_evaluation import fresh_seeds, run_episodes
from benchmarks.process_group import BenchmarkError
from benchmarks.trained_run import Evaluated, evaluated
from launch.config import check_run
from launch.overrides import apply_overrides
from launch.recipes import make_recipe
from launch.run_directory import RunDirectory
from learner.checkpoint import Checkpointer
from learner.progress import Progress
from learner.publisher import artifact_bytes
from learner.train_state import initial_state
from policies.artifact import Artifact, artifact_digest
from policies.inference import make_policy
from policies.spaces import array_space, discrete
from policies.spec import PolicySpec
from safety.testing import balancing_artifact, constant_artifact, drifting_artifact


def seed_result(seed: int, ungated: int, gated: int | None, returns: tuple[float, float] = (100.0, 90.0)) -> SeedResult:
    arms = {
        UNGATED: Evaluated(1000, ungated, returns[0]),
        GATED: None if gated is None else Evaluated(1000, gated, returns[1]),
        GATED_LAST: Evaluated(1000, ungated, returns[0]),
    }
    return SeedResult(seed, arms, approved=2, rejected=5, last_let_through=True, wall_s=(30.0, 40.0))


RESULTS = [seed_result(1, 100, 5), seed_result(2, 300, 0, (110.0, 105.0)), seed_result(3, 200, 10, (90.0, 93.0))]


def test_an_episode_does_not_depend_on_the_lanes() -> None:
    """Each seed is run once and to its end, whatever lane it comes into; this policy leaves nothing to luck."""
    policy = make_policy(constant_artifact(1, inputs=4), "numpy")
    seeds = fresh_seeds(3, 23)
    found = []
    for lanes in (1, 7, 23):
        environment = make_vector(EnvironmentConfig(name="cartpole"), lanes)
        found.append(run_episodes(policy, environment, seeds, np.random.default_rng(0)))
    for each in found[1:]:
        assert np.array_equal(each.returns, found[0].returns)
    assert len(set(found[0].returns.tolist())) > 1
    assert found[0].returns.min() >= 5


def test_fresh_seeds_are_none_of_training() -> None:
    seeds = fresh_seeds(1, 1000)
    assert len(set(seeds)) == 1000
    assert all(TRAINING_SEED_END <= seed < EVALUATION_SEED_END for seed in seeds)
    assert seeds == fresh_seeds(1, 1000)
    assert not set(seeds) & set(fresh_seeds(2, 1000))


def test_the_evaluation_command_tells_policies_apart(tmp_path: Path) -> None:
    found = {}
    for name, artifact in (("balancing", balancing_artifact()), ("drifting", drifting_artifact())):
        path, out = tmp_path / name, tmp_path / f"{name}.json"
        path.write_bytes(artifact.to_bytes())
        given = {"artifact": str(path), "environment": {"name": "cartpole"}, "episodes": 70, "seed": 1, "out": str(out)}
        assert policy_evaluation.main(json.dumps(given)) == 0
        result = json.loads(out.read_text())
        found[name] = evaluated(result["returns"], result["costs"])
    assert found["balancing"] == Evaluated(70, 0, 500.0)
    assert 0.2 < found["drifting"].violation_rate < 0.8


def test_the_last_weights_are_those_of_the_newest_checkpoint(tmp_path: Path) -> None:
    config = make_recipe("catch")
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(config)
    with pytest.raises(BenchmarkError, match="left no checkpoint"):
        last_artifact(tmp_path / "run")
    spec = PolicySpec(config.network, array_space((10, 5), "<f4"), discrete(3))
    state = initial_state(spec, config.learner, seed=9)
    checkpoints = Checkpointer(tmp_path / "run" / "learner" / "checkpoints", 1)
    checkpoints.save(state, Progress(seed=9))
    checkpoints.wait()
    checkpoints.close()
    data = last_artifact(tmp_path / "run")
    assert data == artifact_bytes(spec, state)
    Artifact.from_bytes(data, artifact_digest(data)).check_finite()


def test_the_limits_that_are_none_are_settings_that_a_run_can_have() -> None:
    check_run(apply_overrides(make_recipe("cartpole-cost"), list(NO_LIMITS)))


def test_intervals() -> None:
    low, high = rate_interval(Evaluated(1000, 0, 1.0))
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 1000), rel=1e-6)
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert estimate.mean == 2.0
    assert estimate.high - estimate.mean == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert np.isnan(over_seeds([1.0]).low)
    assert np.isnan(over_seeds([]).mean)


def test_the_difference_is_of_the_same_seed_and_leaves_out_seeds_without_release() -> None:
    results = [*RESULTS, seed_result(4, 900, None)]
    values = pairs(results, "violation_rate")
    assert values.tolist() == [[0.1, 0.005], [0.3, 0.0], [0.2, 0.01]]
    found = summary(results, {"recipe": "r"})
    assert found["difference"]["violation_rate"]["mean"] == pytest.approx(-0.195)
    assert found["relative_change"]["violation_rate"]["mean"] == pytest.approx(-0.975)
    assert found["relative_change"]["return_mean"]["mean"] == pytest.approx(-0.04)
    assert found["seeds_without_release"] == 1
    assert found["over_seeds"][UNGATED]["violation_rate"]["mean"] == pytest.approx(0.375)
    json.dumps(found, allow_nan=False)


def test_a_change_relative_to_nothing_is_not_known() -> None:
    nothing = summary([seed_result(1, 0, 0)], {})
    assert nothing["relative_change"]["violation_rate"] == {"mean": None, "low": None, "high": None}
    json.dumps(nothing, allow_nan=False)


def test_the_bootstrap_interval_holds_the_estimate_and_narrows_with_seeds() -> None:
    generator = np.random.default_rng(0)
    values = np.column_stack([generator.uniform(0.1, 0.3, 40), generator.uniform(0.0, 0.02, 40)])
    few = relative_change(values[:5], np.random.default_rng(1))
    many = relative_change(values, np.random.default_rng(1))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low


def test_the_table_says_it_to_a_person() -> None:
    lines = table([*RESULTS, seed_result(4, 900, None)]).splitlines()
    assert any(line.split()[:4] == ["1", "without", "the", "gate"] and "0.1000" in line for line in lines)
    assert any("no release" in line for line in lines)
    assert "1 of 4 seeds have no release; they are in no difference" in lines
    assert any(line.startswith("relative (bootstrap)") and "-97.5%" in line for line in lines)
