"""Stands in for the evaluator processes: what each artifact comes to is known. Not a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from actors.environment import EnvironmentSpec
from policies.artifact import artifact_digest
from policies.spaces import array_space, discrete
from safety.config import SafetyConfig
from safety.evaluation.episodes import EpisodeOutcomes
from safety.evaluation.evaluator import EvaluationFailed, EvaluatorClosed
from safety.evaluation.pool import Job, PlantJob, PolicyJob
from safety.suites.spec import SuiteSpec
from safety.trials.trial import Portion
from tests.safety.made_up_trials import MadeUpPolicy, found

SPEC = EnvironmentSpec("cartpole", "1", bytes(32), array_space((4,), "<f4"), discrete(2), 500)

GOOD, BETTER, UNSAFE, WORSE, BROKEN = b"good", b"better", b"unsafe", b"worse", b"broken"


class ScriptedPool:
    """Answers as `EvaluatorPool` does, at once, unless told to wait."""

    script: ClassVar[Mapping[bytes, MadeUpPolicy]] = {
        GOOD: MadeUpPolicy(480.0, severe=[40]),
        BETTER: MadeUpPolicy(500.0),
        UNSAFE: MadeUpPolicy(500.0, severe=0.4),
        WORSE: MadeUpPolicy(300.0),
        BROKEN: MadeUpPolicy(480.0),
    }

    def __init__(
        self, suite: SuiteSpec, config: SafetyConfig, log_directory: Path, hidden: Sequence[Path] = ()
    ) -> None:
        self.environments = {each.name: SPEC for each in suite.slices}
        self.asked: list[PolicyJob] = []
        self.planted: list[PlantJob] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.failing: dict[bytes, int] = {BROKEN: 0}
        self.missed: Sequence[int] = ()
        self.closed = False
        self.policies = dict(self.script)

    def start(self) -> None:
        pass

    def run(self, jobs: Sequence[Job], deadline: float, on_progress: Callable[[int], None]) -> list[EpisodeOutcomes]:
        outcomes = [self._run(job) for job in jobs]
        on_progress(sum(len(each.returns) for each in outcomes))
        return outcomes

    def _run(self, job: Job) -> EpisodeOutcomes:
        if isinstance(job, PlantJob):
            self.planted.append(job)
            return found(job.plants, self.missed)
        assert artifact_digest(job.artifact) == job.digest
        self.asked.append(job)
        self.may_answer.wait(30)
        if self.closed:
            raise EvaluatorClosed("closed")
        if job.artifact in self.failing and job.first + len(job.seeds) > self.failing[job.artifact]:
            raise EvaluationFailed("the evaluator process exited with status 3")
        return self.policies[job.artifact].run(Portion(job.slice_index, job.first, tuple(job.seeds)))

    def close(self) -> None:
        self.closed = True
        self.may_answer.set()

    def release(self) -> None:
        pass
