"""The evaluator process, for real: candidates and environments that crash, hang, exit, or write garbage."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported
from actors.environments.catalog import make_vector
from policies.artifact import Artifact, artifact_digest
from policies.inference import make_policy
from policies.testing import make_artifact, make_spec
from safety.config import SafetyConfig
from safety.evaluation import EpisodeOutcomes, evaluate_policy
from safety.evaluator import (
    LOG_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    EvaluationFailed,
    Evaluator,
    EvaluatorClosed,
)
from safety.suite import draw_seeds
from safety.testing import (
    balancing_artifact,
    cartpole_artifact,
    constant_artifact,
    drifting_artifact,
    nan_artifact,
    overflowing_artifact,
)
from safety.worker import environment_from_header, environment_to_header

SEEDS = draw_seeds(bytes(32), 20)
CARTPOLE = EnvironmentConfig(name="cartpole")
CONFIG = SafetyConfig(episodes=20, evaluation_s_max=30.0, worker_memory_bytes_max=768 * 1024**2)

Make = Callable[..., Evaluator]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(environment: EnvironmentConfig = CARTPOLE, **changes: Any) -> Evaluator:
            evaluator = Evaluator(environment, dataclasses.replace(CONFIG, **changes), tmp_path / "evaluator.log")
            stack.callback(evaluator.release)
            stack.callback(evaluator.close)
            return evaluator

        yield make


def run(evaluator: Evaluator, artifact: Artifact | bytes) -> EpisodeOutcomes:
    data = artifact if isinstance(artifact, bytes) else artifact.to_bytes()
    return evaluator.evaluate(data, artifact_digest(data), SEEDS, lambda ended: None)


def misbehaving(name: str) -> EnvironmentConfig:
    return EnvironmentConfig(name=f"gym:tests.safety.misbehaving_environments:{name}-v0")


def worker_of(evaluator: Evaluator) -> psutil.Process:
    (child,) = (
        process
        for process in psutil.Process().children()
        if "safety.worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    )
    return child


def test_outcomes_are_those_of_an_evaluation_here(make: Make) -> None:
    evaluator = make()
    here = evaluate_policy(
        make_policy(drifting_artifact(), "numpy"),
        lambda lanes: make_vector(CARTPOLE, lanes),
        SEEDS,
        action_selection="sample",
        lanes_max=256,
        on_progress=lambda ended: None,
    )
    there = run(evaluator, drifting_artifact())
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    assert evaluator.environment == make_vector(CARTPOLE, 1).spec


def test_the_worker_loads_no_framework(make: Make) -> None:
    evaluator = make(misbehaving("frameworks"))
    with pytest.raises(EvaluationFailed, match=r"frameworks: \[\]"):
        run(evaluator, constant_artifact(1))


def test_the_worker_stays_warm(make: Make) -> None:
    evaluator = make()
    evaluator.start()
    worker = worker_of(evaluator)
    run(evaluator, balancing_artifact())
    run(evaluator, drifting_artifact())
    assert worker_of(evaluator).pid == worker.pid


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (nan_artifact(), "not finite"),
        (overflowing_artifact(), "logits are not finite"),
        (b"", "header"),
        (b"not an artifact at all", "artifact"),
        (balancing_artifact().to_bytes()[:-4], "artifact"),
        (make_artifact(make_spec((3,), 2)), "observation_shape"),
        (make_artifact(make_spec((4,), 3)), "num_actions"),
        (make_artifact(make_spec((4,), 2, "<f8")), "observation_dtype"),
    ],
)
def test_unusable_artifacts_fail_with_the_reason(make: Make, artifact: Artifact | bytes, reason: str) -> None:
    evaluator = make()
    with pytest.raises(EvaluationFailed, match=reason):
        run(evaluator, artifact)
    assert (run(evaluator, balancing_artifact()).returns == 500).all()


def test_a_flipped_byte_fails(make: Make) -> None:
    data = bytearray(balancing_artifact().to_bytes())
    data[-1] ^= 1
    with pytest.raises(EvaluationFailed, match="digest"):
        make().evaluate(bytes(data), artifact_digest(balancing_artifact().to_bytes()), SEEDS, lambda ended: None)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", "RuntimeError: the simulator fell over"),
        ("exits", "exited with status 3"),
        ("killed", "killed by SIGKILL"),
        ("garbage", "did not answer as it must"),
        ("hoards", "more memory"),
        ("nan_reward", "return of an episode is not finite"),
        ("nan_cost", "cost of a step is negative or NaN"),
        ("negative_cost", "cost of a step is negative or NaN"),
        ("bad_observation", "the evaluation raised .*shape"),
    ],
)
def test_whatever_the_environment_does_is_a_reason_and_the_next_candidate_is_judged(
    make: Make, name: str, reason: str
) -> None:
    evaluator = make(misbehaving(name))
    assert (run(evaluator, constant_artifact(0)).returns == 5).all()
    with pytest.raises(EvaluationFailed, match=reason) as failure:
        run(evaluator, constant_artifact(1))
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) <= REASON_CHARACTERS_MAX
    assert (run(evaluator, constant_artifact(0)).returns == 5).all()


@pytest.mark.robustness
@pytest.mark.parametrize("name", ["hangs", "endless"])
def test_an_evaluation_that_takes_too_long_is_stopped(make: Make, name: str) -> None:
    evaluator = make(misbehaving(name), evaluation_s_max=1.0)
    evaluator.start()
    worker, began = worker_of(evaluator), time.monotonic()
    with pytest.raises(EvaluationFailed, match="longer than 1 s"):
        run(evaluator, constant_artifact(1))
    assert 0.9 < time.monotonic() - began < 5.0
    assert not psutil.pid_exists(worker.pid)
    assert (run(evaluator, constant_artifact(0)).returns == 5).all()


@pytest.mark.robustness
def test_a_worker_that_closes_its_pipe_is_replaced(make: Make) -> None:
    evaluator = make(misbehaving("closes"))
    with pytest.raises(EvaluationFailed, match="closed its end"):
        run(evaluator, constant_artifact(1))
    assert (run(evaluator, constant_artifact(0)).returns == 5).all()


@pytest.mark.robustness
def test_a_worker_killed_between_evaluations_costs_one_evaluation(make: Make) -> None:
    evaluator = make()
    evaluator.start()
    worker_of(evaluator).kill()
    with pytest.raises(EvaluationFailed, match="killed by SIGKILL"):
        run(evaluator, balancing_artifact())
    assert (run(evaluator, balancing_artifact()).returns == 500).all()


def test_close_abandons_the_evaluation_in_progress(make: Make) -> None:
    evaluator = make(misbehaving("hangs"))
    evaluator.start()
    timer = threading.Timer(0.3, evaluator.close)
    timer.start()
    try:
        with pytest.raises(EvaluatorClosed):
            run(evaluator, constant_artifact(1))
    finally:
        timer.join()
    with pytest.raises(EvaluatorClosed):
        run(evaluator, constant_artifact(0))


@pytest.mark.parametrize("name", ["nonsense", "gym:Nonsense-v0", "gym:no_such_module:Thing-v0", "gym:Pendulum-v1"])
def test_an_environment_that_cannot_be_made_is_told_at_the_start(make: Make, name: str) -> None:
    with pytest.raises(EnvironmentUnsupported, match=name.rpartition(":")[2].removesuffix("-v0")[:8]):
        make(EnvironmentConfig(name=name)).start()


def test_the_description_needs_a_worker(make: Make) -> None:
    with pytest.raises(EvaluationFailed, match="started"):
        _ = make().environment


def test_the_log_takes_what_environments_print_and_is_emptied(make: Make, tmp_path: Path) -> None:
    evaluator, log = make(misbehaving("raises")), tmp_path / "evaluator.log"
    run(evaluator, constant_artifact(0))
    assert "must not damage the frames" in log.read_text()
    with log.open("ab") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    run(evaluator, constant_artifact(0))
    assert 0 < log.stat().st_size < 100_000
    log.unlink()
    run(evaluator, constant_artifact(0))


def test_the_environment_description_survives_the_way() -> None:
    spec = EnvironmentSpec("id", "1", bytes(range(32)), (4, 4, 2), "|b1", 3, None)
    assert environment_from_header(environment_to_header(spec)) == spec


@pytest.mark.robustness
def test_the_worker_dies_with_the_service(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from actors.config import EnvironmentConfig
from safety.config import SafetyConfig
from safety.evaluator import Evaluator
evaluator = Evaluator(EnvironmentConfig(name="cartpole"), SafetyConfig(), Path(sys.argv[1]))
evaluator.start()
print("ready", flush=True)
time.sleep(60)
"""
    service = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        (worker,) = psutil.Process(service.pid).children()
        service.kill()
        service.wait(10)
        worker.wait(10)
        assert not worker.is_running()
    finally:
        service.kill()
        service.wait(10)
        if service.stdout is not None:
            service.stdout.close()


def test_action_selection_reaches_the_worker(make: Make) -> None:
    undecided = cartpole_artifact((0.001, 0.001, 0.01, 0.01))
    sampled = run(make(), undecided)
    greedy = run(make(action_selection="greedy"), undecided)
    assert greedy.returns.mean() > sampled.returns.mean() + 100
