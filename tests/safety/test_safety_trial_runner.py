"""Trials run in a pool: the number of workers changes nothing but time, and every failure says whose it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.evaluator import EvaluationFailed, EvaluatorClosed
from safety.evaluation.pool import Job, PlantJob, PolicyJob
from safety.statistics.combination import Outcome
from safety.trials.runner import Contender, TrialFailed, run_trial
from safety.trials.trial import Portion, Trial
from tests.safety.made_up_trials import CONFIG, KEY, SUITE, MadeUpPolicy, found, level_of, suite_of

CANDIDATE, INCUMBENT = Contender(b"candidate", b"c" * 32), Contender(b"incumbent", b"i" * 32)
OnProgress = Callable[[int], None]


class Pool:
    """Runs made-up policies; `fails(job)` says why a job cannot be."""

    def __init__(
        self, policies: dict[bytes, MadeUpPolicy], fails: Callable[[Job], Exception | None] = lambda job: None
    ) -> None:
        self.policies, self.fails = policies, fails
        self.calls: list[Sequence[Job]] = []
        self.deadlines: list[float] = []

    def run(self, jobs: Sequence[Job], deadline: float, on_progress: OnProgress) -> list[EpisodeOutcomes]:
        self.calls.append(jobs)
        self.deadlines.append(deadline)
        for job in jobs:
            if (error := self.fails(job)) is not None:
                raise error
        on_progress(1)
        return [self._outcomes(job) for job in jobs]

    def _outcomes(self, job: Job) -> EpisodeOutcomes:
        if isinstance(job, PlantJob):
            return found(job.plants)
        return self.policies[job.artifact].run(Portion(job.slice_index, job.first, tuple(job.seeds)))

    @property
    def jobs(self) -> list[PolicyJob]:
        return [job for jobs in self.calls for job in jobs if isinstance(job, PolicyJob)]


def pool_of(candidate: MadeUpPolicy, fails: Callable[[Job], Exception | None] = lambda job: None) -> Pool:
    return Pool({b"candidate": candidate, b"incumbent": MadeUpPolicy(480.0, spread=5.0)}, fails)


def run(pool: Pool, workers: int = 1, *, incumbent: bool = True, suite: Sequence[str] = ("held-out",)) -> Trial:
    spec = suite_of(suite)
    trial = Trial(spec, level_of(spec), KEY, lanes=CONFIG.lanes, incumbent=incumbent)
    config = dataclasses.replace(CONFIG, workers=workers)
    other = INCUMBENT if incumbent else None
    run_trial(trial, pool, config, candidate=CANDIDATE, incumbent=other, on_progress=lambda done, total: None)
    return trial


HARD = MadeUpPolicy(482.0, severe=[5, 60, 61, 130], spread=5.0)
"""Needs several looks."""


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_how_many_workers_there_are_changes_nothing(workers: int) -> None:
    alone, together = run(pool_of(HARD)), run(pool_of(HARD), workers)
    assert alone.evidence() == together.evidence()
    assert alone.conclude(deferred_in_a_row=0) == together.conclude(deferred_in_a_row=0)
    assert len(alone.evidence()[0].seeds) > 2 * CONFIG.lanes


def test_workers_are_kept_busy_ahead_of_time_within_the_budget() -> None:
    pool = pool_of(HARD)
    run(pool, workers=3, incumbent=False)
    first, *_ = pool.jobs
    assert (first.first, len(first.seeds)) == (0, 3 * CONFIG.lanes)
    pool = pool_of(HARD)
    run(pool, workers=64, incumbent=False)
    assert [(job.first, len(job.seeds)) for job in pool.jobs] == [(0, CONFIG.episodes_max)]


def test_several_slices_share_the_workers() -> None:
    pool = pool_of(MadeUpPolicy(480.0))
    run(pool, workers=4, incumbent=False, suite=("calm", "windy"))
    _, first, *_ = pool.calls
    assert [(job.slice_index, len(job.seeds)) for job in first if isinstance(job, PolicyJob)] == [(0, 128), (1, 128)]


@pytest.mark.parametrize("workers", [1, 8])
def test_what_fails_ahead_of_time_and_is_never_asked_for_does_not_decide(workers: int) -> None:
    def fails(job: Job) -> Exception | None:
        late = isinstance(job, PolicyJob) and job.first + len(job.seeds) > 128
        return EvaluationFailed("the policy's logits are not finite") if late else None

    trial = run(pool_of(MadeUpPolicy(480.0), fails), workers, incumbent=False)
    assert trial.conclude(deferred_in_a_row=0).outcome is Outcome.APPROVED


@pytest.mark.parametrize("workers", [1, 8])
def test_what_fails_where_it_was_asked_for_decides(workers: int) -> None:
    def fails(job: Job) -> Exception | None:
        early = isinstance(job, PolicyJob) and job.artifact == b"candidate" and job.first + len(job.seeds) > 64
        return EvaluationFailed("the policy's logits are not finite") if early else None

    with pytest.raises(TrialFailed, match=r"^the policy's logits are not finite$"):
        run(pool_of(HARD, fails), workers)


@pytest.mark.parametrize(
    ("whose", "message"),
    [
        (b"incumbent", "the incumbent cannot be compared with: exited"),
        (b"candidate", "^exited"),
        (b"", "the detector could not be judged: exited"),
    ],
)
def test_a_failure_says_whose_it_is(whose: bytes, message: str) -> None:
    def fails(job: Job) -> Exception | None:
        return EvaluationFailed("exited") if getattr(job, "artifact", b"") == whose else None

    with pytest.raises(TrialFailed, match=message):
        run(pool_of(HARD, fails))


def test_impossible_outcomes_fail_the_trial() -> None:
    never = MadeUpPolicy(480.0)
    never.returns = np.full_like(never.returns, math.nan)
    with pytest.raises(TrialFailed, match=r"none that an evaluation can have: .* not finite"):
        run(pool_of(never))


def test_closing_is_no_failure_of_the_candidate() -> None:
    with pytest.raises(EvaluatorClosed):
        run(pool_of(HARD, lambda job: EvaluatorClosed("closed")))


def test_candidate_and_incumbent_have_the_same_time_each_over_all_their_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("safety.trials.runner.time.monotonic", lambda: now[0])
    pool = pool_of(HARD)
    whole = pool.run

    def slow(jobs: Sequence[Job], deadline: float, on_progress: OnProgress) -> list[EpisodeOutcomes]:
        outcomes = whole(jobs, deadline, on_progress)
        (job, *_) = jobs
        now[0] += 0.0 if isinstance(job, PlantJob) else 7.0 if job.artifact == b"candidate" else 1.0
        return outcomes

    pool.run = slow  # type: ignore[method-assign]
    run(pool)
    limit = CONFIG.evaluation_s_max
    # Plants, candidate, incumbent, and both again: what one has used is gone, what the other has used is not.
    assert pool.deadlines[:5] == [1000 + limit, 1000 + limit, 1007 + limit, 1008 + limit - 7, 1015 + limit - 1]


@pytest.mark.parametrize("earlier", [0, 9])
def test_time_grows_as_the_episodes_do_that_it_is_for(earlier: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who takes longer is told how long it may be."""
    now, first = [1000.0], 0.05 * 6 / math.pi**2
    times = math.log(first / (earlier + 1) ** 2) / math.log(first)
    monkeypatch.setattr("safety.trials.runner.time.monotonic", lambda: now[0])

    def late(job: Job) -> Exception | None:
        if isinstance(job, PlantJob):
            return None
        now[0] += CONFIG.evaluation_s_max * times + 1
        return EvaluationFailed("the evaluation took longer than 120 s and was stopped")

    pool = pool_of(HARD, late)
    trial = Trial(SUITE, level_of(approvals=(False,) * earlier), KEY, lanes=64, incumbent=False)
    with pytest.raises(TrialFailed) as failure:
        run_trial(trial, pool, CONFIG, candidate=CANDIDATE, incumbent=None, on_progress=lambda *progress: None)
    assert pool.deadlines == pytest.approx([1000 + CONFIG.evaluation_s_max * times] * 2)
    message = f"the evaluation took longer than {CONFIG.evaluation_s_max * times:g} s and was stopped"
    if earlier:
        message += f" (safety.evaluation_s_max = 120 s, grown for candidate {earlier + 1} of the run)"
    assert str(failure.value) == message


def test_what_fails_in_time_keeps_its_reason() -> None:
    with pytest.raises(TrialFailed, match=r"^killed$"):
        run(pool_of(HARD, lambda job: None if isinstance(job, PlantJob) else EvaluationFailed("killed")))


def test_progress_only_rises_and_ends_with_what_was_run() -> None:
    seen: list[tuple[int, int]] = []
    trial = Trial(SUITE, level_of(), KEY, lanes=64, incumbent=True)
    run_trial(
        trial,
        pool_of(HARD),
        dataclasses.replace(CONFIG, workers=4),
        candidate=CANDIDATE,
        incumbent=INCUMBENT,
        on_progress=lambda *progress: seen.append(progress),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen[:-1]} == {trial.episodes_max}
    run_in_all = 80 + 2 * len(trial.evidence()[0].seeds)
    assert seen[-1] == (run_in_all, run_in_all)
