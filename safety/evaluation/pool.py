"""Several evaluator processes side by side; chunks of episodes go to whichever is free, outcomes come in order.

What comes out does not depend on how many there are: an episode's outcome depends on nothing but itself
(`safety.evaluation.episodes`), and where something fails, the first failure in the order of the work counts. A chunk
whose process was killed is run once more, in another process: it may have been killed for what others did. What kills
its process twice is to blame.

Exceptions: EvaluationFailed, EvaluatorClosed (safety.evaluation.evaluator); EnvironmentUnsupported (actors.environment)
at the start.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import math
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.environment import EnvironmentSpec
from safety.config import SafetyConfig
from safety.evaluation.episodes import EpisodeOutcomes, join_outcomes
from safety.evaluation.evaluator import EvaluationFailed, Evaluator, EvaluatorClosed, EvaluatorKilled, OnProgress
from safety.evaluation.plants import Plant
from safety.suites.spec import SuiteSpec

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PolicyJob:
    """Episodes of one policy on one slice.

    Attributes:
      artifact: its bytes.
      digest: its digest (32 bytes), checked by the worker.
      slice_index: which slice of the suite.
      first: number of the first episode in the slice; a multiple of `lanes`.
      seeds: one per episode.
    """

    artifact: bytes
    digest: bytes
    slice_index: int
    first: int
    seeds: Sequence[int]


@dataclasses.dataclass(frozen=True)
class PlantJob:
    """Planted episodes of one slice."""

    slice_index: int
    plants: Sequence[Plant]


Job = PolicyJob | PlantJob


class EvaluatorPool:
    """Runs evaluations of one suite. Any thread may ask; several may at once, and share the workers.

    Args:
      suite: what candidates are evaluated on.
      config: the limits, lanes and workers.
      log_directory: takes a file per worker with what it prints.
      hidden: directories that no worker must read, wherever they lie.
    """

    def __init__(
        self, suite: SuiteSpec, config: SafetyConfig, log_directory: Path, hidden: Sequence[Path] = ()
    ) -> None:
        self._lanes = config.lanes
        self._evaluators = [
            Evaluator(suite, config, log_directory / f"evaluator-{number}.log", hidden)
            for number in range(config.workers)
        ]
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Held while tasks are queued, so that none is queued behind the end.
        self._lock = threading.Lock()
        self._closed = False

    @property
    def environments(self) -> Mapping[str, EnvironmentSpec]:
        """The environment of every slice by its name. Raises EvaluationFailed before `start`."""
        return self._evaluators[0].environments

    def start(self) -> None:
        """Starts the workers.

        Raises:
          EnvironmentUnsupported: an environment cannot be made, or two slices need different policies.
          EvaluationFailed: a worker does not come up.
          EvaluatorClosed: closed meanwhile.
          All of them close the pool.
        """
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Sequence[Job], deadline: float, on_progress: OnProgress) -> list[EpisodeOutcomes]:
        """Does several jobs at once, each in chunks of `lanes` episodes, with all workers that are free.

        Args:
          jobs: what to run.
          deadline: on the clock of `time.monotonic`.
          on_progress: called by this thread with the episodes ended in all jobs together.

        Returns:
          The outcomes of each job.

        Raises:
          EvaluationFailed: of the first chunk, in the order of the jobs, that failed; later ones are given up.
          EvaluatorClosed: the pool was closed meanwhile.
          ValueError: episodes that do not begin a chunk.
        """
        call = _Call()
        chunks = [chunk for number, job in enumerate(jobs) for chunk in self._chunks(number, job)]
        tasks = [_Task(call, index, job, deadline) for index, (_, job) in enumerate(chunks)]
        with self._lock:
            if self._closed:
                raise EvaluatorClosed("the evaluators are closed")
            if not self._threads:
                raise EvaluationFailed("no evaluator process has been started yet")
            for task in tasks:
                self._tasks.put(task)
        try:
            outcomes = call.collect(len(tasks), on_progress)
        finally:
            call.give_up_after(-1)
        parts: list[list[EpisodeOutcomes]] = [[] for _ in jobs]
        for (number, _), outcome in zip(chunks, outcomes, strict=True):
            parts[number].append(outcome)
        return [join_outcomes(each) for each in parts]

    def close(self) -> None:
        """Kills the workers; whatever is in progress raises EvaluatorClosed. From any thread, any number of times."""
        with self._lock:
            already, self._closed = self._closed, True
            for evaluator in self._evaluators:
                evaluator.close()
            if not already:
                for _ in self._threads:
                    self._tasks.put(None)

    def release(self) -> None:
        """Waits for the workers' threads to end, after `close`."""
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise EvaluatorClosed("the evaluators are closed")
            if self._threads:
                return
            started: list[concurrent.futures.Future[None]] = []
            for number, evaluator in enumerate(self._evaluators):
                started.append(concurrent.futures.Future())
                # A worker dies with the thread that started it, so each has one that lives as long as the pool.
                thread = threading.Thread(
                    target=self._serve, args=(evaluator, started[-1]), name=f"temper-evaluator-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        concurrent.futures.wait(started)
        for one in started:
            one.result()
        if any(evaluator.environments != self.environments for evaluator in self._evaluators):
            raise EvaluationFailed("two evaluator processes describe different environments")

    def _chunks(self, number: int, job: Job) -> list[tuple[int, Job]]:
        """A job in parts of one chunk each, with its number."""
        if isinstance(job, PlantJob):
            starts = range(0, len(job.plants), self._lanes)
            return [
                (number, dataclasses.replace(job, plants=job.plants[start : start + self._lanes])) for start in starts
            ]
        if job.first % self._lanes:
            raise ValueError(f"first = {job.first} is not a multiple of {self._lanes}, so it does not begin a chunk")
        starts = range(0, len(job.seeds), self._lanes)
        return [
            (
                number,
                dataclasses.replace(job, first=job.first + start, seeds=job.seeds[start : start + self._lanes]),
            )
            for start in starts
        ]

    def _serve(self, evaluator: Evaluator, started: concurrent.futures.Future[None]) -> None:
        """The thread of one worker: does tasks until there are no more."""
        try:
            evaluator.start()
        except Exception as error:  # noqa: BLE001 - whoever waits for the start gets it, whatever it is
            started.set_exception(error)
        else:
            started.set_result(None)
        while (task := self._tasks.get()) is not None:
            if task.is_wanted:
                task.do(evaluator)
        evaluator.release()


class _GivenUp(Exception):
    """Nobody waits for this chunk any more."""


@dataclasses.dataclass(frozen=True)
class _Task:
    """One chunk."""

    call: _Call
    index: int
    job: Job
    deadline: float

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return self.index <= self.call.wanted_up_to

    def do(self, evaluator: Evaluator) -> None:
        """Runs it, and tells what came of it."""
        tell = self.call.updates.put
        try:
            try:
                outcomes = self._outcomes(evaluator)
            except EvaluatorKilled as error:
                _log.warning("%s: its episodes are run again, once, in another process", error)
                outcomes = self._outcomes(evaluator)
            tell((self.index, outcomes))
        except _GivenUp:
            return
        except Exception as error:  # noqa: BLE001 - whoever waits gets it, whatever it is
            tell((self.index, error))

    def _outcomes(self, evaluator: Evaluator) -> EpisodeOutcomes:
        if isinstance(self.job, PlantJob):
            return evaluator.plant(
                self.job.slice_index, self.job.plants, deadline=self.deadline, on_progress=self._progress
            )
        return evaluator.evaluate(
            self.job.artifact,
            self.job.digest,
            self.job.slice_index,
            self.job.seeds,
            deadline=self.deadline,
            on_progress=self._progress,
        )

    def _progress(self, episodes: int) -> None:
        if not self.is_wanted:
            raise _GivenUp
        self.call.updates.put((self.index, episodes))


class _Call:
    """What the threads of the workers tell the thread that waits: (index of the task, what of it)."""

    def __init__(self) -> None:
        self.updates: queue.SimpleQueue[tuple[int, int | EpisodeOutcomes | Exception]] = queue.SimpleQueue()
        self.wanted_up_to: float = math.inf

    def give_up_after(self, index: int) -> None:
        """Says that nobody waits for later tasks any more."""
        self.wanted_up_to = min(self.wanted_up_to, index)

    def collect(self, count: int, on_progress: OnProgress) -> list[EpisodeOutcomes]:
        """Waits for all outcomes, or for those before the first failure, and raises that."""
        outcomes: list[EpisodeOutcomes | None] = [None] * count
        ended = [0] * count
        failures: dict[int, Exception] = {}
        # Tasks that are not settled yet, of those that come before the first failure.
        missing = set(range(count))
        while missing:
            index, told = self.updates.get()
            if isinstance(told, int):
                # A chunk that is run again begins anew.
                ended[index] = max(ended[index], told)
                on_progress(sum(ended))
                continue
            missing.discard(index)
            if isinstance(told, Exception):
                failures[index] = told
                self.give_up_after(index)
                missing = {each for each in missing if each < index}
            else:
                outcomes[index] = told
        if failures:
            raise failures[min(failures)]
        return [outcome for outcome in outcomes if outcome is not None]
