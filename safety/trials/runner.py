"""Runs the episodes that a trial asks for in the evaluator processes, and feeds them to it until it is over.

With several workers, chunks that may be asked for next are run ahead of time; those that are not asked for are dropped.
So how many workers there are changes how long a trial takes, and nothing else. Candidate, incumbent and planted
episodes have the same time each; it grows over a run's candidates as the episodes do that it is for.

Exceptions:
  TrialFailed: the trial cannot be gone on with; the message is the reason, for the ledger.
  EvaluatorClosed (safety.evaluation.evaluator): the service stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from safety.config import SafetyConfig
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.evaluator import EvaluationFailed
from safety.evaluation.pool import Job, PlantJob, PolicyJob
from safety.statistics.counts import CountsError
from safety.trials.trial import Portion, Trial

OnProgress = Callable[[int], None]
"""Called with the episodes that have ended of what is being run."""

Progress = Callable[[int, int], None]
"""Called with the episodes that have ended and the most there can be; at the end, both are what were run."""


_IMPOSSIBLE = "the outcomes are none that an evaluation can have"


class TrialFailed(Exception):
    """A trial broke off: the candidate, its incumbent or the evaluator failed; the message says which and why."""


class Pool(Protocol):
    """What runs episodes: `safety.evaluation.pool.EvaluatorPool`."""

    def run(self, jobs: Sequence[Job], deadline: float, on_progress: OnProgress) -> list[EpisodeOutcomes]:
        """See `EvaluatorPool.run`."""


class Contender(NamedTuple):
    """A policy that runs in a trial: artifact and digest (32 bytes)."""

    artifact: bytes
    digest: bytes


class _Part(NamedTuple):
    """Outcomes of episodes from `first` on."""

    first: int
    outcomes: EpisodeOutcomes


class _TimeLimit:
    """The time that a trial has for the episodes of one policy, and what is said where it is over.

    Attributes:
      seconds: of it.
    """

    def __init__(self, config: SafetyConfig, trial: Trial) -> None:
        level = trial.level
        self.seconds = config.evaluation_s_max * level.growth
        self._grown = ""
        if level.growth > 1.0:
            first = f"safety.evaluation_s_max = {config.evaluation_s_max:g} s"
            self._grown = f" ({first}, grown for candidate {level.index} of the run)"

    def run(self, pool: Pool, jobs: Sequence[Job], deadline: float, on_progress: OnProgress) -> list[EpisodeOutcomes]:
        """Runs the jobs; of a failure after the deadline, the time is the reason. Raises EvaluationFailed."""
        try:
            return pool.run(jobs, deadline, on_progress)
        except EvaluationFailed as error:
            if time.monotonic() < deadline:
                raise
            # Evaluators know the deadline, and not of how much time it is the end.
            raise EvaluationFailed(
                f"the evaluation took longer than {self.seconds:g} s and was stopped{self._grown}"
            ) from error


class _Runner:
    """One policy's episodes: run in time, some of them ahead of time."""

    def __init__(self, pool: Pool, config: SafetyConfig, contender: Contender, trial: Trial) -> None:
        self._pool, self._config, self._contender, self._trial = pool, config, contender, trial
        self._ahead: dict[int, _Part] = {}
        self._limit = _TimeLimit(config, trial)
        self._left_s = self._limit.seconds

    def outcomes(self, portions: Sequence[Portion], on_progress: OnProgress) -> list[EpisodeOutcomes]:
        """Those of a round. Raises EvaluationFailed, EvaluatorClosed."""
        missing = [portion for portion in portions if not self._covers(portion)]
        if missing:
            chunks = max(1, self._config.workers // len(missing))
            wanted = [self._trial.ahead(portion, chunks) if chunks > 1 else portion for portion in missing]
            try:
                self._run(wanted, on_progress)
            except EvaluationFailed:
                # What was not asked for must not decide.
                if wanted == missing:
                    raise
                self._run(missing, on_progress)
        return [self._cut(portion) for portion in portions]

    def _run(self, portions: Sequence[Portion], on_progress: OnProgress) -> None:
        start_s = time.monotonic()
        jobs = [PolicyJob(self._contender.artifact, self._contender.digest, *portion) for portion in portions]
        try:
            found = self._limit.run(self._pool, jobs, start_s + self._left_s, on_progress)
        finally:
            self._left_s -= time.monotonic() - start_s
        for portion, outcomes in zip(portions, found, strict=True):
            self._ahead[portion.slice_index] = _Part(portion.first, outcomes)

    def _covers(self, portion: Portion) -> bool:
        part = self._ahead.get(portion.slice_index)
        return part is not None and portion.first + len(portion.seeds) <= part.first + len(part.outcomes.returns)

    def _cut(self, portion: Portion) -> EpisodeOutcomes:
        first, outcomes = self._ahead[portion.slice_index]
        begin = portion.first - first
        end = begin + len(portion.seeds)
        return EpisodeOutcomes(
            outcomes.returns[begin:end],
            outcomes.costs[begin:end],
            outcomes.lengths[begin:end],
            outcomes.events[begin:end],
        )


class _Counter:
    """Tells how far the trial is."""

    def __init__(self, total: int, on_progress: Progress) -> None:
        self._total, self._on_progress, self._earlier = total, on_progress, 0

    def __call__(self, ended: int) -> None:
        """`ended` episodes of what is being run."""
        self._on_progress(min(self._earlier + ended, self._total), self._total)

    def add(self, episodes: int) -> None:
        """What was being run has ended."""
        self._earlier += episodes
        self(0)

    def finish(self) -> None:
        """No more will be run."""
        self._on_progress(self._earlier, self._earlier)


def run_trial(
    trial: Trial,
    pool: Pool,
    config: SafetyConfig,
    *,
    candidate: Contender,
    incumbent: Contender | None,
    on_progress: Progress,
) -> None:
    """Runs a trial to its end.

    Args:
      trial: to be fed; made with an incumbent where there is one.
      pool: runs the episodes.
      config: workers and time.
      candidate, incumbent: the policies.
      on_progress: see Progress.

    Raises:
      TrialFailed, EvaluatorClosed: see there. What the trial took in by then, it keeps.
    """
    counter = _Counter(trial.episodes_max, on_progress)
    jobs = [PlantJob(index, plants) for index, plants in enumerate(trial.plants)]
    try:
        limit = _TimeLimit(config, trial)
        trial.take_plants(limit.run(pool, jobs, time.monotonic() + limit.seconds, counter))
    except EvaluationFailed as error:
        raise TrialFailed(f"the detector could not be judged: {error}") from error
    except CountsError as error:
        raise TrialFailed(f"{_IMPOSSIBLE}: {error}") from error
    counter.add(sum(len(plants) for plants in trial.plants))
    ours = _Runner(pool, config, candidate, trial)
    theirs = None if incumbent is None else _Runner(pool, config, incumbent, trial)
    while portions := trial.wants():
        count = sum(len(portion.seeds) for portion in portions)
        try:
            of_candidate = ours.outcomes(portions, counter)
        except EvaluationFailed as error:
            raise TrialFailed(str(error)) from error
        counter.add(count)
        of_incumbent: list[EpisodeOutcomes | None] = [None] * len(portions)
        if theirs is not None:
            try:
                of_incumbent = list(theirs.outcomes(portions, counter))
            except EvaluationFailed as error:
                raise TrialFailed(f"the incumbent cannot be compared with: {error}") from error
            counter.add(count)
        try:
            for portion, one, other in zip(portions, of_candidate, of_incumbent, strict=True):
                trial.take(portion, one, other)
        except CountsError as error:
            raise TrialFailed(f"{_IMPOSSIBLE}: {error}") from error
    counter.finish()
