"""Evaluators side by side, for real: how many there are changes nothing, and none is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import math
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
from policies.config import NetworkConfig
from policies.inference import make_policy
from policies.initialisation import initial_parameters
from policies.spaces import array_space, discrete
from policies.spec import PolicySpec
from safety.config import SafetyConfig
from safety.evaluation.episode_replay import replay_episode
from safety.evaluation.episodes import EpisodeOutcomes, join_outcomes
from safety.evaluation.evaluator import EvaluationFailed, EvaluatorClosed
from safety.evaluation.plants import count_plants, draw_plants
from safety.evaluation.pool import EvaluatorPool, Job, PlantJob, PolicyJob
from safety.suites.manifest import draw_seeds
from safety.suites.spec import Perturbation, SuiteSpec
from safety.testing import constant_artifact
from tests.safety.suites import CARTPOLE, CLASSES, slice_of, suite_of

LANES = 8
CONFIG = SafetyConfig(lanes=LANES, evaluation_s_max=30.0, worker_memory_bytes_max=768 * 1024**2)
ROUGH = slice_of(
    CARTPOLE,
    Perturbation("action_delay", 1),
    Perturbation("observation_noise", 0.05),
    Perturbation("action_noise", 0.1),
    name="rough",
)
SUITE = suite_of(slice_of(), ROUGH)
SEEDS = draw_seeds(bytes(32), "held-out", 100)

Make = Callable[..., EvaluatorPool]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(suite: SuiteSpec = SUITE, **changes: Any) -> EvaluatorPool:
            pool = EvaluatorPool(suite, dataclasses.replace(CONFIG, **changes), tmp_path)
            stack.callback(pool.release)
            stack.callback(pool.close)
            return pool

        yield make
    assert workers() == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("temper-evaluator")] == []


def workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children()
        if process.status() != psutil.STATUS_ZOMBIE and "safety.evaluation.worker" in process.cmdline()
    ]


def learnt() -> Artifact:
    """A network of the usual size, so that its matrix products are computed as usual."""
    spec = PolicySpec(NetworkConfig(), array_space((4,), "<f4"), discrete(2))
    return Artifact(spec, initial_parameters(spec, 3))


def job(artifact: Artifact, slice_index: int = 0, first: int = 0, count: int = 20) -> PolicyJob:
    data = artifact.to_bytes()
    return PolicyJob(data, artifact_digest(data), slice_index, first, SEEDS[first : first + count])


def run(pool: EvaluatorPool, *jobs: Job, time_s: float = 30.0) -> list[EpisodeOutcomes]:
    return pool.run(jobs, time.monotonic() + time_s, lambda ended: None)


def misbehaving(name: str) -> SuiteSpec:
    return suite_of(slice_of(EnvironmentConfig(name=f"gym:tests.safety.misbehaving_environments:{name}-v0")))


def equal(first: EpisodeOutcomes, second: EpisodeOutcomes) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_outcomes_do_not_depend_on_the_number_of_workers(make: Make) -> None:
    plants = draw_plants(bytes(32), "rough", 15, 6, CLASSES)
    jobs: list[Job] = [job(learnt()), job(learnt(), 1, 8, 21), PlantJob(1, plants), job(learnt(), count=0)]
    found = []
    for count in (1, 2, 3):
        pool = make(workers=count)
        pool.start()
        assert len(workers()) == count
        found.append(run(pool, *jobs))
        pool.close()
        pool.release()
    for outcomes in found:
        assert [len(each.returns) for each in outcomes] == [20, 21, 21, 0]
        assert all(equal(a, b) for a, b in zip(outcomes, found[0], strict=True))
        assert count_plants(plants, outcomes[2]).found == 15


def test_an_episode_can_be_run_again_alone_and_comes_out_the_same(make: Make) -> None:
    pool = make()
    pool.start()
    policy = make_policy(learnt(), "numpy")
    for index, spec in enumerate(SUITE.slices):
        (outcomes,) = run(pool, job(learnt(), index, 8, 12))
        for episode in (8, 13, 19):
            trace = replay_episode(
                policy,
                make_vector,
                spec,
                lanes=LANES,
                index=episode,
                seed=SEEDS[episode],
                action_selection="sample",
                severity=CLASSES,
            )
            assert all(
                one[0].tolist() == all_of[episode - 8].tolist()
                for one, all_of in zip(trace.outcome, outcomes, strict=True)
            )


def test_a_part_is_what_it_is_in_the_whole(make: Make) -> None:
    pool = make(workers=2)
    pool.start()
    (whole,) = run(pool, job(learnt(), 1, 0, 40))
    parts = run(pool, *(job(learnt(), 1, first, 8) for first in range(0, 40, 8)))
    assert equal(whole, join_outcomes(parts))
    with pytest.raises(ValueError, match="first = 4 is not a multiple of 8"):
        run(pool, job(learnt(), 1, 4, 8))


def test_progress_counts_the_episodes_of_all_jobs_in_the_asking_thread(make: Make) -> None:
    pool = make(workers=2)
    pool.start()
    seen: list[tuple[int, int]] = []
    pool.run(
        [job(learnt()), job(learnt(), 1)],
        time.monotonic() + 30.0,
        lambda ended: seen.append((ended, threading.get_ident())),
    )
    assert [ended for ended, _ in seen] == sorted(ended for ended, _ in seen)
    assert seen[-1] == (40, threading.get_ident())
    assert {ident for _, ident in seen} == {threading.get_ident()}


def test_several_threads_share_the_workers(make: Make) -> None:
    pool = make(workers=2)
    pool.start()
    (expected,) = run(pool, job(learnt()))
    found: list[EpisodeOutcomes] = []
    threads = [threading.Thread(target=lambda: found.extend(run(pool, job(learnt())))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    assert all(equal(each, expected) for each in found)


@pytest.mark.robustness
def test_the_first_failure_in_order_is_the_reason_whoever_fails_first(make: Make) -> None:
    pool = make(misbehaving("raises"), workers=2)
    pool.start()
    good, bad = constant_artifact(0), constant_artifact(1)
    broken = PolicyJob(b"nonsense", bytes(32), 0, 0, SEEDS[:8])
    for _ in range(3):
        with pytest.raises(EvaluationFailed, match="fell over"):
            run(pool, job(good, count=30), job(bad), broken, job(good))
        with pytest.raises(EvaluationFailed, match="artifact"):
            run(pool, job(good, count=30), broken, job(bad), job(good))
    (outcomes,) = run(pool, job(good))
    assert (outcomes.returns == 5).all()


@pytest.mark.robustness
def test_a_failure_waits_for_those_before_it(make: Make) -> None:
    """One that is told at once does not hide one that takes its time."""
    pool = make(misbehaving("hoards"), workers=2)
    pool.start()
    broken = PolicyJob(b"nonsense", bytes(32), 0, 0, SEEDS[:8])
    with pytest.raises(EvaluationFailed, match="more memory"):
        run(pool, job(constant_artifact(1), count=8), broken)


@pytest.mark.robustness
def test_what_was_killed_at_work_is_run_once_more_in_another_process(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make(workers=2)
    pool.start()
    (expected,) = run(pool, job(learnt()))
    before = workers()
    for worker in before:
        # So that it is at work for as long as it lives.
        worker.suspend()
    timers = [threading.Timer(0.3, worker.kill) for worker in before]
    for timer in timers:
        timer.start()
    (outcomes,) = run(pool, job(learnt()))
    for timer in timers:
        timer.join()
    assert equal(outcomes, expected)
    assert "killed by SIGKILL during the evaluation: its episodes are run again, once, in another" in caplog.text
    assert not {worker.pid for worker in before} & {worker.pid for worker in workers()}


@pytest.mark.robustness
def test_what_kills_its_process_twice_fails(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    pool = make(misbehaving("killed"), workers=2)
    pool.start()
    with pytest.raises(EvaluationFailed, match="killed by SIGKILL"):
        run(pool, job(constant_artifact(1), count=8))
    assert caplog.text.count("run again, once, in another process") == 1
    (outcomes,) = run(pool, job(constant_artifact(0), count=30))
    assert (outcomes.returns == 5).all()


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("name", "reason", "time_s"),
    [
        ("exits", "exited with status 3", 30.0),
        ("hoards", "more memory", 30.0),
        ("nan_reward", "not finite", 30.0),
        ("endless", "longer than", 1.0),
    ],
)
def test_nothing_else_is_run_again(
    make: Make, caplog: pytest.LogCaptureFixture, name: str, reason: str, time_s: float
) -> None:
    pool = make(misbehaving(name))
    pool.start()
    with pytest.raises(EvaluationFailed, match=reason):
        run(pool, job(constant_artifact(1), count=8), time_s=time_s)
    assert "run again" not in caplog.text


@pytest.mark.robustness
def test_what_takes_too_long_is_stopped_and_what_waited_behind_it_is_not_begun(make: Make) -> None:
    pool = make(misbehaving("endless"), workers=1)
    pool.start()
    with pytest.raises(EvaluationFailed, match="longer than 30 s"):
        run(pool, job(constant_artifact(1), count=100), time_s=1.0)
    (outcomes,) = run(pool, job(constant_artifact(0)))
    assert (outcomes.returns == 5).all()


@pytest.mark.robustness
def test_close_ends_everything_at_once(make: Make) -> None:
    pool = make(misbehaving("hangs"), workers=2)
    pool.start()
    raised: list[BaseException] = []

    def evaluate() -> None:
        try:
            run(pool, job(constant_artifact(1), count=80))
        except EvaluatorClosed as error:
            raised.append(error)

    threads = [threading.Thread(target=evaluate) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    pool.close()
    pool.release()
    for thread in threads:
        thread.join(10)
    assert len(raised) == 2
    assert workers() == []
    with pytest.raises(EvaluatorClosed):
        run(pool, job(constant_artifact(0)))
    with pytest.raises(EvaluatorClosed):
        pool.start()
    pool.close()


def test_who_loses_interest_leaves_workers_that_can_be_used(make: Make) -> None:
    pool = make(workers=2)
    pool.start()

    def lose_interest(ended: int) -> None:
        raise KeyError(ended)

    with pytest.raises(KeyError):
        pool.run([job(learnt(), count=100)], time.monotonic() + 30.0, lose_interest)
    (outcomes,) = run(pool, job(learnt()))
    assert len(outcomes.returns) == 20


@pytest.mark.parametrize(
    "suite",
    [
        suite_of(slice_of(EnvironmentConfig(name="nonsense"))),
        suite_of(slice_of(), slice_of(EnvironmentConfig(name="catch"), name="b")),
    ],
)
def test_a_suite_that_cannot_be_run_is_told_at_the_start(make: Make, suite: SuiteSpec) -> None:
    pool = make(suite, workers=2)
    with pytest.raises(EnvironmentUnsupported):
        pool.start()
    pool.release()
    assert workers() == []


def test_before_the_start_there_is_nothing(make: Make) -> None:
    pool = make()
    with pytest.raises(EvaluationFailed, match="started"):
        _ = pool.environments
    with pytest.raises(EvaluationFailed, match="started"):
        run(pool, job(learnt()))
    pool.start()
    pool.start()
    assert len(workers()) == 1
    assert list(pool.environments) == ["held-out", "rough"]
    assert math.isclose(run(pool, job(learnt()))[0].returns.mean(), 20, abs_tol=10)
