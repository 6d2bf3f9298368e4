"""A train loop for tests, with real updates, checkpoints and files; only batches, verdicts and leases are scripted."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.config import EnvironmentConfig
from learner.batches import LearnerBatch
from learner.checkpoint import Checkpointer
from learner.config import LearnerConfig
from learner.job import LearnerJob
from learner.lineage_archive import LineageArchive
from learner.metrics import MetricsWriter
from learner.progress import Progress
from learner.promotion import CandidateResult, Evaluation, PromotionDesk
from learner.publisher import LeaseKeeper, SnapshotPublisher
from learner.resumed_batches import ResumedBatches
from learner.rollback import ReleaseStates, Rollback
from learner.train import Parts, TrainLoop
from learner.train_state import initial_state
from learner.update import Term, make_update
from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import RUN_ID, signed_lease
from policies.trust import TrustPolicy
from replay.testing import make_header, make_origin
from safety.client import LeaseBreached
from tests.learner.test_learner_update import CONFIG, SPEC, B, T, rewarding_action_one

SIGNALS = {"return": 40.0, "episodes": 5.0, "steps": float(T)}


class ScriptedBatches(ResumedBatches):
    """The same kind of batch again and again; every third wait is in vain."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.handed_out = 0
        self.asked = 0
        self.version: int | None = None
        self.checkpoints: list[int] = []

    @property
    def repeating(self) -> bool:
        return False

    def checkpointed(self, oldest_updates: int) -> None:
        self.checkpoints.append(oldest_updates)

    def next(self) -> LearnerBatch | None:
        self.asked += 1
        if self.asked % 3 == 0:
            return None
        positions = np.arange(self.handed_out * B, (self.handed_out + 1) * B, dtype=np.uint64)
        self.handed_out += 1
        version = max(0, self.handed_out - 3) if self.version is None else self.version
        headers = [make_header(steps=T, policy_version=version, signals=SIGNALS) for _ in range(B)]
        columns = rewarding_action_one(self._rng)
        return LearnerBatch(columns, positions, headers, [make_origin()] * B, headers, fresh_steps=T * B)

    @property
    def waiting_s(self) -> float:
        return 0.5

    @property
    def failure(self) -> str:
        return "replay is away"


class ScriptedDesk(PromotionDesk):
    """Judges at once, by `judge(version)`, unless it is `busy`."""

    def __init__(self, judge: Callable[[int], CandidateResult]) -> None:
        self._judge = judge
        self.offered: list[int] = []
        self.digests: list[bytes] = []
        self.lineage_digests: list[bytes] = []
        self.on_offer: Callable[[], None] = lambda: None
        self.busy: Callable[[], bool] = lambda: False
        self.standing_return = -math.inf
        self._done: list[CandidateResult] = []

    @property
    def idle(self) -> bool:
        return not self.busy()

    def offer(self, version: int, data: bytes, lineage_digest: bytes = b"") -> None:
        self.offered.append(version)
        self.lineage_digests.append(lineage_digest)
        self.digests.append(artifact_digest(data))
        self.on_offer()
        self._done.append(self._judge(version))

    def results(self) -> list[CandidateResult]:
        done, self._done = self._done, []
        for result in done:
            if result.approved and not result.canary_share:
                self.standing_return = result.return_mean
        return done

    @property
    def evaluation(self) -> Evaluation | None:
        return None

    @property
    def released_return(self) -> float:
        return self.standing_return

    def wait(self, timeout_s: float) -> bool:
        return True


class ScriptedLeases(LeaseKeeper):
    """Tells of a breach once an update count is reached, and notes what is answered to it."""

    def __init__(self, progress: Progress, breaches: Sequence[tuple[int, LeaseBreached]] = ()) -> None:
        self._progress = progress
        self._breaches = list(breaches)
        self.answered: list[int] = []
        self.on_answer: Callable[[], None] = lambda: None

    @property
    def refusal(self) -> str:
        return "no reason given"

    @property
    def breach(self) -> LeaseBreached | None:
        return self._breaches[0][1] if self._breaches and self._progress.updates >= self._breaches[0][0] else None

    def rolled_back(self, epoch: int) -> None:
        self.on_answer()
        self.answered.append(epoch)
        del self._breaches[0]


def rejected(version: int) -> CandidateResult:
    return CandidateResult(version, decided=True, approved=False, reason="unsafe", return_mean=1.0)


def approved(version: int, return_mean: float = 50.0) -> CandidateResult:
    return CandidateResult(version, True, True, "", return_mean, 0.01, release_number=1)


class Bench:
    """A loop and all that it works on."""

    def __init__(
        self,
        directory: Path,
        judge: Callable[[int], CandidateResult] = rejected,
        *,
        reached: bool = False,
        staleness_max: int = 0,
        **limits: Any,
    ) -> None:
        learner = replace(
            CONFIG,
            snapshot_updates=2,
            candidate_interval_s=0.0,
            checkpoint_interval_s=1000.0,
            log_interval_s=0.01,
            staleness_max=staleness_max,
        )
        self.directory = directory
        self.terms: Sequence[Term] = ()
        self.stop = threading.Event()
        self.board = PolicyBoard()
        self.board.publish_lease(signed_lease(SigningKey.generate()))
        self.batches = ScriptedBatches()
        self.desk = ScriptedDesk(judge)
        self.checkpoints = Checkpointer(directory / "checkpoints", kept=2)
        self.progress = Progress(seed=0)
        self.leases = ScriptedLeases(self.progress)
        self.job = self._job(learner, limits)
        self.reached = reached

    def _job(self, learner: LearnerConfig, limits: dict[str, Any]) -> LearnerJob:
        fields: dict[str, Any] = {"target_return": math.inf} | limits
        return LearnerJob(
            learner=learner,
            network=SPEC.network,
            environment=EnvironmentConfig(),
            unroll_length=T,
            seed=0,
            run_id="run",
            run_directory=self.directory,
            replay_address="",
            safety_address="",
            listen_address="",
            trust_key_path=self.directory,
            **fields,
        )

    def run(self) -> tuple[str, Progress]:
        state = initial_state(SPEC, self.job.learner, seed=0)
        registry = PolicyRegistry(self.directory / "policies", TrustPolicy(SigningKey.generate().verify_key, RUN_ID))
        with MetricsWriter(self.directory, 0) as metrics, ExitStack() as cleanup:
            states = ReleaseStates(self.directory / "states", SPEC)
            cleanup.callback(states.close)
            parts = Parts(
                SPEC,
                make_update(SPEC, self.job.learner, self.terms),
                self.batches,
                SnapshotPublisher(SPEC, self.board),
                self.desk,
                self.checkpoints,
                LineageArchive(self.directory / "lineage"),
                metrics,
                lambda: {"appended_records": 1.0},
                self.leases,
                Rollback(
                    states, registry, self.directory / "lineage", lambda: initial_state(SPEC, self.job.learner, seed=0)
                ),
                lambda: 2,
            )
            loop = TrainLoop(
                self.job,
                parts,
                state,
                self.progress,
                self.stop,
                start_s=time.monotonic(),
                target_reached=self.reached,
            )
            reason = loop.run()
        return reason, loop.progress

    def restored(self) -> Progress:
        self.checkpoints.wait()
        restored = self.checkpoints.restore(initial_state(SPEC, self.job.learner, seed=1))
        self.checkpoints.close()
        assert restored is not None
        assert int(restored[0].updates) == restored[1].updates
        return restored[1]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "learner" / "metrics.jsonl").read_text().splitlines()]
