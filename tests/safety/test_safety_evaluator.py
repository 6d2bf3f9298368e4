"""The evaluator process, for real: candidates and environments that crash, hang, exit, or write garbage."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
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
from actors.environment import EnvironmentUnsupported
from actors.environments.catalog import make_vector
from policies.artifact import Artifact, artifact_digest
from policies.inference import make_policy
from policies.testing import make_artifact, make_spec
from safety.config import SafetyConfig
from safety.confinement.confine import KEPT_VARIABLES
from safety.evaluation.blank_policy import blank_artifact
from safety.evaluation.episodes import EpisodeOutcomes, evaluate_policy
from safety.evaluation.evaluator import (
    LOG_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    EvaluationFailed,
    Evaluator,
    EvaluatorClosed,
    EvaluatorKilled,
)
from safety.evaluation.plants import count_plants, draw_plants
from safety.suites.manifest import draw_seeds
from safety.suites.spec import Perturbation, SuiteSpec
from safety.testing import (
    balancing_artifact,
    cartpole_artifact,
    constant_artifact,
    drifting_artifact,
    nan_artifact,
    overflowing_artifact,
)
from tests.safety import misbehaving_environments
from tests.safety.suites import CARTPOLE, CLASSES, slice_of, suite_of

SEEDS = draw_seeds(bytes(32), "held-out", 20)
CONFIG = SafetyConfig(lanes=20, evaluation_s_max=30.0, worker_memory_bytes_max=768 * 1024**2)

Make = Callable[..., Evaluator]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(environment: EnvironmentConfig | SuiteSpec = CARTPOLE, **changes: Any) -> Evaluator:
            suite = suite_of(slice_of(environment)) if isinstance(environment, EnvironmentConfig) else environment
            evaluator = Evaluator(suite, dataclasses.replace(CONFIG, **changes), tmp_path / "evaluator.log")
            stack.callback(evaluator.release)
            stack.callback(evaluator.close)
            return evaluator

        yield make


def run(
    evaluator: Evaluator,
    artifact: Artifact | bytes,
    *,
    digest: bytes | None = None,
    slice_index: int = 0,
    time_s: float = 30.0,
    on_progress: Callable[[int], None] = lambda ended: None,
) -> EpisodeOutcomes:
    data = artifact if isinstance(artifact, bytes) else artifact.to_bytes()
    return evaluator.evaluate(
        data,
        digest or artifact_digest(data),
        slice_index,
        SEEDS,
        deadline=time.monotonic() + time_s,
        on_progress=on_progress,
    )


def misbehaving(name: str) -> EnvironmentConfig:
    return EnvironmentConfig(name=f"gym:tests.safety.misbehaving_environments:{name}-v0")


def worker_of(evaluator: Evaluator) -> psutil.Process:
    (child,) = (
        process
        for process in psutil.Process().children()
        if "safety.evaluation.worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    )
    return child


def test_outcomes_are_those_of_an_evaluation_here(make: Make) -> None:
    evaluator = make()
    here = evaluate_policy(
        make_policy(drifting_artifact(), "numpy"),
        lambda lanes: make_vector(CARTPOLE, lanes),
        SEEDS,
        lanes=20,
        scale=CLASSES,
        action_selection="sample",
        on_progress=lambda ended: None,
    )
    there = run(evaluator, drifting_artifact())
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    assert there.violating > 3
    assert evaluator.environments == {"held-out": make_vector(CARTPOLE, 1).spec}


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


def test_unusable_artifacts_fail_with_the_reason(make: Make) -> None:
    evaluator = make()
    unusable: list[tuple[Artifact | bytes, str]] = [
        (nan_artifact(), "not finite"),
        (overflowing_artifact(), "logits are not finite"),
        (b"", "header"),
        (b"not an artifact at all", "artifact"),
        (balancing_artifact().to_bytes()[:-4], "artifact"),
        (make_artifact(make_spec((3,), 2)), r"observations <f4 \[3\]"),
        (make_artifact(make_spec((4,), 3)), "3 actions"),
        (make_artifact(make_spec((4,), 2, "<f8")), r"observations <f8 \[4\]"),
    ]
    for artifact, reason in unusable:
        with pytest.raises(EvaluationFailed, match=reason):
            run(evaluator, artifact)
    assert (run(evaluator, balancing_artifact()).returns == 500).all()


def test_a_flipped_byte_fails(make: Make) -> None:
    data = bytearray(balancing_artifact().to_bytes())
    data[-1] ^= 1
    with pytest.raises(EvaluationFailed, match="digest"):
        run(make(), bytes(data), digest=artifact_digest(balancing_artifact().to_bytes()))


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
        run(evaluator, constant_artifact(1), time_s=1.0)
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
@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (signal.SIGKILL, EvaluatorKilled),
        (signal.SIGTERM, EvaluatorKilled),
        (signal.SIGUSR1, EvaluationFailed),
    ],
)
def test_a_worker_killed_at_work_costs_one_evaluation_and_says_by_what(
    make: Make, sent: signal.Signals, kind: type[EvaluationFailed]
) -> None:
    evaluator = make()
    evaluator.start()
    worker = worker_of(evaluator)
    # So that it is at work for as long as it lives.
    worker.suspend()

    def end() -> None:
        worker.send_signal(sent)
        worker.resume()

    timer = threading.Timer(0.3, end)
    timer.start()
    try:
        with pytest.raises(EvaluationFailed, match=f"killed by {sent.name}") as failure:
            run(evaluator, balancing_artifact())
    finally:
        timer.join()
    assert type(failure.value) is kind
    assert (run(evaluator, balancing_artifact()).returns == 500).all()


@pytest.mark.robustness
def test_a_worker_killed_between_evaluations_costs_nothing(make: Make) -> None:
    evaluator = make()
    evaluator.start()
    worker = worker_of(evaluator)
    worker.kill()
    # Not waited for: that is the evaluator's.
    while worker.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
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


@pytest.mark.parametrize(
    "name",
    [
        "nonsense",
        "gym:Nonsense-v0",
        "gym:no_such_module:Thing-v0",
        "gym:tests.actors.unsupported_environments:SpokenActions-v0",
    ],
)
def test_an_environment_that_cannot_be_made_is_told_at_the_start(make: Make, name: str) -> None:
    with pytest.raises(EnvironmentUnsupported, match=name.rpartition(":")[2].removesuffix("-v0")[:8]):
        make(EnvironmentConfig(name=name)).start()


def test_the_description_needs_a_worker(make: Make) -> None:
    with pytest.raises(EvaluationFailed, match="started"):
        _ = make().environments


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


@pytest.mark.robustness
def test_the_worker_dies_with_the_service(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from actors.config import EnvironmentConfig
from policies.spaces import array_space, discrete
from safety.evaluation.blank_policy import blank_artifact
from safety.config import SafetyConfig
from safety.evaluation.evaluator import Evaluator
from safety.suites.spec import suite_from_settings
suite = suite_from_settings(SafetyConfig(), EnvironmentConfig(name="cartpole"))
evaluator = Evaluator(suite, SafetyConfig(), Path(sys.argv[1]))
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
    greedy = run(make(suite_of(slice_of(), action_selection="greedy")), undecided)
    assert greedy.returns.mean() > sampled.returns.mean() + 100


def test_policies_are_sent_once_and_the_last_two_are_kept(make: Make) -> None:
    evaluator = make()
    first, second = run(evaluator, balancing_artifact()), run(evaluator, drifting_artifact())
    for _ in range(2):
        # Nothing that could be loaded is sent again, and yet the right policy acts.
        assert np.array_equal(run(evaluator, b"", digest=digest_of(balancing_artifact())).returns, first.returns)
        assert np.array_equal(run(evaluator, b"", digest=digest_of(drifting_artifact())).returns, second.returns)
    run(evaluator, cartpole_artifact((0.0, 0.0, -1.0, -1.0)))
    run(evaluator, b"", digest=digest_of(drifting_artifact()))
    with pytest.raises(EvaluationFailed, match="artifact"):
        run(evaluator, b"", digest=digest_of(balancing_artifact()))
    # A fresh worker has none of them.
    with pytest.raises(EvaluationFailed, match="artifact"):
        run(evaluator, b"", digest=digest_of(drifting_artifact()))


def digest_of(artifact: Artifact) -> bytes:
    return artifact_digest(artifact.to_bytes())


def test_slices_are_run_as_they_are(make: Make) -> None:
    short = EnvironmentConfig(name="cartpole", episode_steps_max=10)
    noisy = slice_of(CARTPOLE, Perturbation("action_noise", 1.0), name="noisy")
    evaluator = make(suite_of(slice_of(), slice_of(short, name="short"), noisy))
    evaluator.start()
    assert {name: spec.episode_steps_max for name, spec in evaluator.environments.items()} == {
        "held-out": 500,
        "short": 10,
        "noisy": 500,
    }
    means = [run(evaluator, balancing_artifact(), slice_index=index).returns.mean() for index in range(3)]
    assert means[:2] == [500.0, 10.0]
    assert 10 < means[2] < 60


def test_slices_that_need_different_policies_are_told_at_the_start(make: Make) -> None:
    suite = suite_of(slice_of(), slice_of(EnvironmentConfig(name="catch"), name="other"))
    with pytest.raises(EnvironmentUnsupported, match=r"slice other has observations .* slice held-out has"):
        make(suite).start()


@pytest.mark.parametrize(
    ("environment", "perturbation", "message"),
    [
        ("minatar:breakout", Perturbation("observation_noise", 0.1), r"slice b: .*\|b1"),
        ("nonsense", Perturbation("action_noise", 0.1), "slice b: unknown environment"),
    ],
)
def test_a_slice_that_cannot_be_made_is_named(
    make: Make, environment: str, perturbation: Perturbation, message: str
) -> None:
    sound = EnvironmentConfig(name="minatar:breakout")
    suite = suite_of(slice_of(sound, name="a"), slice_of(EnvironmentConfig(name=environment), perturbation, name="b"))
    with pytest.raises(EnvironmentUnsupported, match=message):
        make(suite).start()


def test_what_an_environment_says_at_the_start_is_one_printable_line(make: Make) -> None:
    rough = slice_of(misbehaving("raises"), Perturbation("action_noise", 1.0), name="a")
    # Which action is taken instead follows from the seed, and so is the same in every start.
    with pytest.raises(EnvironmentUnsupported, match=r"slice a: .*RuntimeError: the simulator fell over") as failure:
        make(suite_of(rough, slice_of(misbehaving("raises"), name="b"))).start()
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) <= REASON_CHARACTERS_MAX


def test_plants_are_found_in_a_worker(make: Make) -> None:
    evaluator = make()
    plants = draw_plants(bytes(32), "held-out", 12, 8, CLASSES)
    outcomes = evaluator.plant(0, plants, deadline=time.monotonic() + 30.0, on_progress=lambda ended: None)
    counts = count_plants(plants, outcomes)
    assert (counts.violating, counts.found, counts.severe, counts.severe_found) == (12, 12, 4, 4)
    assert (counts.clean, counts.false_alarms) == (8, 0)


def test_time_that_is_over_costs_no_worker(make: Make) -> None:
    evaluator = make()
    evaluator.start()
    pid = worker_of(evaluator).pid
    with pytest.raises(EvaluationFailed, match="longer than 30 s"):
        run(evaluator, balancing_artifact(), time_s=0.0)
    assert worker_of(evaluator).pid == pid


def test_who_loses_interest_ends_the_evaluation_and_its_worker(make: Make) -> None:
    evaluator = make(misbehaving("endless"))

    def lose_interest(ended: int) -> None:
        raise KeyError(ended)

    with pytest.raises(KeyError):
        run(evaluator, constant_artifact(1), on_progress=lose_interest)
    assert (run(evaluator, constant_artifact(0)).returns == 5).all()


@pytest.mark.robustness
def test_an_environment_that_changes_under_a_running_service_is_not_evaluated_in(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict names the environments of the start; a worker that is replaced would load what lies there now."""
    module = tmp_path / "changing_environment.py"
    source = Path(misbehaving_environments.__file__).read_text()
    module.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    evaluator = make(EnvironmentConfig(name="gym:changing_environment:raises-v0"))
    assert (run(evaluator, constant_artifact(0)).returns == 5).all()
    module.write_text(source.replace("EPISODE_STEPS = 5", "EPISODE_STEPS = 6").replace("1.0, 0.0, np", "1.5, 0.0, np"))
    with pytest.raises(EvaluationFailed, match="fell over"):
        run(evaluator, constant_artifact(1))
    with pytest.raises(EvaluationFailed, match="not those of the start"):
        run(evaluator, constant_artifact(0))


@pytest.mark.parametrize("environment", ["cartpole", "minatar:breakout", "gym:Acrobot-v1"])
def test_a_worker_that_is_ready_has_loaded_all_code(
    make: Make, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it can be kept from files by the time the first candidate comes."""
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    monkeypatch.setattr("safety.evaluation.evaluator.KEPT_VARIABLES", KEPT_VARIABLES | {"PYTHONVERBOSE"})
    config = EnvironmentConfig(name=environment, episode_steps_max=5)
    evaluator = make(suite_of(slice_of(config, Perturbation("observation_dropout", 0.1))))
    evaluator.start()
    log = tmp_path / "evaluator.log"
    loaded = imports(log)
    assert {"safety.evaluation.episodes", "policies.inference_numpy"} <= loaded
    interface = evaluator.environments["held-out"]
    run(evaluator, blank_artifact(interface))
    if len(interface.observation.shape) == 3:
        run(
            evaluator,
            make_artifact(make_spec(interface.observation.shape, interface.action.sizes[0], "|b1", kind="conv")),
        )
    plants = draw_plants(bytes(32), "held-out", 3, 1, CLASSES)
    evaluator.plant(0, plants, deadline=time.monotonic() + 30.0, on_progress=lambda ended: None)
    assert imports(log) == loaded


def imports(log: Path) -> set[str]:
    """The modules that a worker says it has imported."""
    return set(re.findall(r"^import '([\w.]+)'", log.read_text(), re.MULTILINE))


@pytest.mark.robustness
def test_a_worker_that_died_while_idle_costs_nobody_anything(make: Make) -> None:
    evaluator = make()
    evaluator.start()
    idle = worker_of(evaluator)
    idle.kill()
    # Dead, but not waited for: that is for the evaluator to do.
    while idle.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert (run(evaluator, constant_artifact(0, inputs=4)).lengths > 0).all()
    assert worker_of(evaluator).pid != idle.pid
