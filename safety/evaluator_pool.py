"""Several evaluator processes side by side; chunks of episodes go to whichever is free, outcomes come in order.

What comes out does not depend on how many there are: an episode's outcome depends on nothing but itself
(`safety.evaluation`), and where something fails, the first failure in the order of the work counts.

Exceptions: EvaluationFailed, EvaluatorClosed (safety.evaluator); EnvironmentUnsupported (actors.environment) at the
start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from actors.environment import EnvironmentSpec
from safety.config import SafetyConfig
from safety.evaluation import EpisodeOutcomes
from safety.plants import Plant
from safety.suite_spec import SuiteSpec

OnProgress = Callable[[int], None]
"""Called now and then with the number of ended episodes of the whole call."""


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
    """

    def __init__(self, suite: SuiteSpec, config: SafetyConfig, log_directory: Path) -> None:
        raise NotImplementedError

    @property
    def environments(self) -> Mapping[str, EnvironmentSpec]:
        """The environment of every slice by its name. Raises EvaluationFailed before `start`."""
        raise NotImplementedError

    def start(self) -> None:
        """Starts the workers.

        Raises:
          EnvironmentUnsupported: an environment cannot be made, or two slices need different policies.
          EvaluationFailed: a worker does not come up.
          EvaluatorClosed: closed meanwhile.
        """
        raise NotImplementedError

    def run(self, jobs: Sequence[Job], deadline: float, on_progress: OnProgress) -> list[EpisodeOutcomes]:
        """Does several jobs at once, each in chunks of `lanes` episodes, with all workers that are free.

        Args:
          jobs: what to run.
          deadline: on the clock of `time.monotonic`.
          on_progress: called by this thread with the episodes ended in all jobs together.

        Returns:
          The outcomes of each job.

        Raises:
          EvaluationFailed: the first chunk, in the order of the jobs, that cannot be evaluated; the others are given up.
          EvaluatorClosed: the pool was closed meanwhile.
        """
        raise NotImplementedError

    def evaluate(
        self,
        artifact: bytes,
        digest: bytes,
        slice_index: int,
        first: int,
        seeds: Sequence[int],
        deadline: float,
        on_progress: OnProgress,
    ) -> EpisodeOutcomes:
        """One PolicyJob by itself; see `run`."""
        return self.run([PolicyJob(artifact, digest, slice_index, first, seeds)], deadline, on_progress)[0]

    def plant(
        self, slice_index: int, plants: Sequence[Plant], deadline: float, on_progress: OnProgress
    ) -> EpisodeOutcomes:
        """One PlantJob by itself; see `run`."""
        return self.run([PlantJob(slice_index, plants)], deadline, on_progress)[0]

    def close(self) -> None:
        """Kills the workers; whatever is in progress raises EvaluatorClosed. From any thread, any number of times."""
        raise NotImplementedError

    def release(self) -> None:
        """Waits for the workers' threads to end, after `close`."""
        raise NotImplementedError
