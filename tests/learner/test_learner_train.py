"""The train loop with real updates, checkpoints and files; only batches and verdicts are scripted."""

from __future__ import annotations

import itertools
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
import pytest

from actors.config import EnvironmentConfig
from learner.batches import BatchSource, LearnerBatch
from learner.checkpoint import Checkpointer
from learner.config import LearnerConfig
from learner.job import LearnerJob
from learner.lineage import LineageError
from learner.lineage_archive import LineageArchive, lineage_paths
from learner.lineage_file import lineage_digest, read_lineage
from learner.metrics import MetricsWriter
from learner.progress import Progress
from learner.promotion import CandidateResult, PromotionDesk
from learner.publisher import LeaseKeeper, SnapshotPublisher, artifact_bytes
from learner.rollback import ReleaseStates, Rollback
from learner.train import BreachedTooOften, Parts, TrainingDiverged, TrainLoop
from learner.update import initial_state, make_update
from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard, Seen
from policies.registry import PolicyRegistry
from policies.signing import SigningKey
from policies.testing import RUN_ID, signed_lease
from policies.trust import TrustPolicy
from protos.policy.v1 import policy_pb2
from replay.testing import make_header, make_origin
from safety.client import LeaseBreached
from tests.learner.test_learner_update import CONFIG, SPEC, B, T, rewarding_action_one

SIGNALS = {"return": 40.0, "episodes": 5.0, "steps": float(T)}


class ScriptedBatches(BatchSource):
    """The same kind of batch again and again; every third wait is in vain."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.handed_out = 0
        self.asked = 0
        self.version: int | None = None

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
    """Judges at once, by `judge(version)`."""

    def __init__(self, judge: Callable[[int], CandidateResult]) -> None:
        self._judge = judge
        self.offered: list[int] = []
        self.digests: list[bytes] = []
        self.lineage_digests: list[bytes] = []
        self.on_offer: Callable[[], None] = lambda: None
        self.standing_return = -math.inf
        self._done: list[CandidateResult] = []

    @property
    def idle(self) -> bool:
        return True

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
        **limits: Any,
    ) -> None:
        learner = replace(
            CONFIG, snapshot_updates=2, candidate_interval_s=0.0, checkpoint_interval_s=1000.0, log_interval_s=0.01
        )
        self.directory = directory
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
                make_update(SPEC, self.job.learner),
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


def test_ends_at_the_step_limit_with_a_checkpoint_and_one_last_candidate(tmp_path: Path) -> None:
    bench = Bench(tmp_path, env_steps_max=10 * T * B)
    reason, progress = bench.run()
    assert reason == "env_steps"
    assert progress.updates == 10
    assert progress.env_steps == 10 * T * B
    assert list(progress.consumed.ranges()) == [(0, 10 * B - 1)]
    assert progress.recent_return == pytest.approx(8.0)
    assert bench.desk.offered[-1] == 10
    kept = bench.restored()
    assert (kept.updates, kept.env_steps) == (10, progress.env_steps)
    assert kept.replay_counters == {"appended_records": 1.0}
    offers, _ = bench.board.offers_since(Seen())
    snapshots = [offer for offer in offers if offer.kind == policy_pb2.PolicyOffer.KIND_SNAPSHOT]
    assert [snapshot.version for snapshot in snapshots] == [10]


def test_a_canary_reaches_the_target_when_it_is_promoted(tmp_path: Path) -> None:
    """At first nothing but the canary's own verdict says so; then the release for everywhere does."""

    def judge(version: int) -> CandidateResult:
        return replace(approved(version, return_mean=60.0), canary_share=0.25)

    bench = Bench(tmp_path, judge, target_return=50.0, env_steps_max=60 * T * B)
    next_batch = bench.batches.next

    def promote_at_update_30() -> LearnerBatch | None:
        if bench.batches.handed_out == 30:
            bench.desk.standing_return = 60.0
        return next_batch()

    bench.batches.next = promote_at_update_30  # type: ignore[method-assign]
    reason, progress = bench.run()
    assert reason == "target"
    assert progress.updates in (30, 31)


def test_ends_at_the_first_release_that_reaches_the_target(tmp_path: Path) -> None:
    def judge(version: int) -> CandidateResult:
        return approved(version, return_mean=60.0 if version >= 6 else 40.0)

    bench = Bench(tmp_path, judge, target_return=50.0)
    reason, progress = bench.run()
    assert reason == "target"
    assert 6 <= progress.updates <= 8
    candidates = [line["candidate"] for line in bench.lines() if "candidate" in line]
    assert candidates[-1]["return_mean"] == 60.0
    # Another one, offered meanwhile, could become the newest release and fall short of the target.
    assert bench.desk.offered == [candidate["version"] for candidate in candidates]
    bench.checkpoints.close()


def test_a_rejected_candidate_never_ends_the_run_however_good(tmp_path: Path) -> None:
    def judge(version: int) -> CandidateResult:
        return CandidateResult(version, decided=True, approved=False, reason="unsafe", return_mean=1000.0)

    bench = Bench(tmp_path, judge, target_return=50.0, env_steps_max=8 * T * B)
    assert bench.run()[0] == "env_steps"
    bench.checkpoints.close()


def test_a_limit_on_seconds_and_a_request_to_stop(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "seconds", seconds_max=0.5)
    reason, progress = bench.run()
    assert reason == "seconds"
    assert progress.wall_s >= 0.5
    bench.checkpoints.close()
    stopped = Bench(tmp_path / "signal")
    given = 0

    def next_batch() -> LearnerBatch | None:
        nonlocal given
        given += 1
        if given > 5:
            stopped.stop.set()
        return ScriptedBatches.next(stopped.batches)

    stopped.batches.next = next_batch  # type: ignore[method-assign]
    assert stopped.run()[0] == "signal"
    # Nothing is put to the gate on the way out: whoever stops a run wants it to stop.
    assert stopped.restored().updates > 0


def test_a_run_whose_target_was_reached_before_is_over_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, reached=True)
    reason, progress = bench.run()
    assert (reason, progress.updates) == ("target", 0)
    bench.checkpoints.close()


def test_a_loss_that_is_not_finite_ends_it_and_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may take that long to get to the loss.
    monkeypatch.setattr("learner.train.FIRST_CHECKPOINT_S", 1000.0)
    bench = Bench(tmp_path, env_steps_max=100 * T * B)
    steps = 0

    def next_batch() -> LearnerBatch | None:
        nonlocal steps
        steps += 1
        batch = ScriptedBatches.next(bench.batches)
        if batch is not None and steps > 9:
            batch.columns["reward"][:] = np.inf
        return batch

    bench.batches.next = next_batch  # type: ignore[method-assign]
    with pytest.raises(TrainingDiverged, match=r"lower learner\.learning_rate"):
        bench.run()
    assert bench.checkpoints.restore(initial_state(SPEC, bench.job.learner, seed=1)) is None
    bench.checkpoints.close()


def test_a_request_to_stop_ends_the_wait_for_the_last_verdict(tmp_path: Path) -> None:
    """The checkpoint is there by then."""
    bench = Bench(tmp_path, env_steps_max=5 * T * B)
    waited = 0

    def never_idle(timeout_s: float) -> bool:
        nonlocal waited
        waited += 1
        bench.stop.set()
        return False

    bench.desk.wait = never_idle  # type: ignore[method-assign]
    assert bench.run()[0] == "env_steps"
    assert waited == 1
    assert bench.restored().updates == 5


def test_the_rate_beside_a_candidate_is_that_of_the_last_interval(tmp_path: Path) -> None:
    """Not of the moment since then, in which there may have been no step at all."""
    bench = Bench(tmp_path, env_steps_max=200 * T * B)
    bench.run()
    lines = bench.lines()
    for before, line in itertools.pairwise(lines):
        if "candidate" in line:
            assert line["env_steps_per_s"] == before["env_steps_per_s"]
    bench.checkpoints.close()


def test_nothing_is_offered_before_its_lineage_is_on_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, env_steps_max=10 * T * B)
    written = []

    def look() -> None:
        lineages = [read_lineage(path) for path in lineage_paths(tmp_path / "lineage")]
        written.append(next(each for each in lineages if each.head.artifact_digest == bench.desk.digests[-1]))

    bench.desk.on_offer = look
    _, progress = bench.run()
    assert [lineage.head.version for lineage in written] == bench.desk.offered
    # What the verdict will bind can be had from the file, also from the one that by now is a checkpoint's, too.
    assert [lineage_digest(lineage) for lineage in written] == bench.desk.lineage_digests
    for lineage in written:
        assert list(lineage.consumed.ranges()) == [(0, lineage.head.version * B - 1)]
        assert lineage.head.env_steps == lineage.head.version * T * B
        (counts,) = lineage.provenance.environments.values()
        assert counts.records == lineage.head.version * B
    # The last one is also a checkpoint's.
    assert written[-1].head.kinds == ("checkpoint", "candidate")
    assert sum(each.steps for each in progress.provenance.behaviours) == 10 * T * B
    kept = bench.restored()
    assert kept.consumed == progress.consumed
    assert kept.provenance.to_json() == progress.provenance.to_json()


def test_every_checkpoint_has_its_lineage(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rejected, seconds_max=0.3)
    bench.run()
    bench.checkpoints.close()
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()}
    heads = [read_lineage(path).head for path in lineage_paths(tmp_path / "lineage")]
    assert kept
    assert kept == {head.version for head in heads if head.checkpoint}


def test_a_lineage_that_cannot_be_written_offers_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, env_steps_max=10 * T * B)
    (tmp_path / "lineage").write_bytes(b"in the way")
    with pytest.raises(LineageError):
        bench.run()
    assert bench.desk.offered == []
    bench.checkpoints.close()


def test_metrics_lines_have_the_figures_of_the_live_view(tmp_path: Path) -> None:
    bench = Bench(tmp_path, env_steps_max=20 * T * B)
    bench.run()
    last = bench.lines()[-1]
    assert {
        *("time_s", "updates", "env_steps", "env_steps_per_s", "return_mean", "entropy", "policy_loss", "value_loss"),
        *("policy_lag_mean", "policy_lag_p95", "wait_data_s"),
    } <= set(last)
    assert last["updates"] == 20
    assert last["lease_refusal"] == "no reason given"
    assert last["revoked_releases"] == 2
    assert last["sample_failure"] == "replay is away"
    assert last["policy_lag_mean"] == pytest.approx(2.0, abs=0.4)
    steps = [line["env_steps"] for line in bench.lines()]
    assert steps == sorted(steps)
    bench.checkpoints.close()


def breach(epoch: int, release_number: int = 0, release_digest: bytes = b"") -> LeaseBreached:
    return LeaseBreached(epoch, "too many violations", release_number, release_digest)


def first_parameters(bench: Bench) -> bytes:
    return artifact_bytes(SPEC, initial_state(SPEC, bench.job.learner, seed=0))


def test_a_breach_is_answered_by_rolling_back_before_anything_else_is_learnt(tmp_path: Path) -> None:
    bench = Bench(tmp_path, env_steps_max=20 * T * B)
    bench.leases = ScriptedLeases(bench.progress, [(8, breach(1))])
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        """By the time of the answer there are a checkpoint and a snapshot of it."""
        snapshot = bench.board.offers_since(Seen())[0][-1]
        bench.checkpoints.wait()
        restored = bench.checkpoints.restore(initial_state(SPEC, bench.job.learner, seed=1))
        assert restored is not None
        assert restored[1].rolled_back_epoch == 1
        kept = artifact_bytes(SPEC, restored[0])
        seen.append((snapshot.version, kept == bench.board.artifact(snapshot.digest) == first_parameters(bench)))
        # From here on batches are by what was published then.
        bench.batches.version = snapshot.version

    bench.leases.on_answer = look
    reason, progress = bench.run()
    assert (reason, bench.leases.answered) == ("env_steps", [1])
    # The rollback takes a number of its own.
    assert seen == [(9, True)]
    assert progress.updates == 21
    last = bench.lines()[-1]
    assert (last["rollbacks"], last["undone_records"]) == (1, progress.undone_records)
    assert [line["updates"] for line in bench.lines()] == sorted(line["updates"] for line in bench.lines())
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"gate/rollbacks" in events
    assert bench.restored().rollbacks == 1


def test_batches_of_undone_weights_are_not_learnt_from(tmp_path: Path) -> None:
    bench = Bench(tmp_path, seconds_max=60.0)
    bench.leases = ScriptedLeases(bench.progress, [(6, breach(1))])
    undone = 0

    def next_batch() -> LearnerBatch | None:
        nonlocal undone
        if bench.leases.answered:
            undone += 1
            bench.batches.version = 5 if undone <= 4 else 7
            if undone == 7:
                bench.stop.set()
        bench.batches.asked = 0
        return ScriptedBatches.next(bench.batches)

    bench.batches.next = next_batch  # type: ignore[method-assign]
    _, progress = bench.run()
    # The batch at hand when the breach came was made by version 3 or so: that is one more.
    assert progress.undone_records == 5 * B
    assert progress.updates == 7 + 3
    # Nothing is left of what was learnt before: as in the first parameters.
    assert len(progress.consumed) == 3 * B
    bench.checkpoints.close()


def test_a_release_that_was_made_here_is_gone_back_to(tmp_path: Path) -> None:
    def judge(version: int) -> CandidateResult:
        if bench.desk.offered[1:]:
            return rejected(version)
        return replace(approved(version), artifact_digest=bench.desk.digests[-1])

    bench = Bench(tmp_path, judge, env_steps_max=20 * T * B)
    found: list[bytes] = []

    class Leases(ScriptedLeases):
        @property
        def breach(self) -> LeaseBreached | None:
            due = self._progress.updates >= 12 and not self.answered
            return breach(1, 1, bench.desk.digests[0]) if due else None

        def rolled_back(self, epoch: int) -> None:
            self.answered.append(epoch)
            found.append(bench.board.offers_since(Seen())[0][-1].digest)
            bench.batches.version = 13

    bench.leases = Leases(bench.progress)
    _, progress = bench.run()
    assert found == [bench.desk.digests[0]]
    assert progress.undone_after == bench.desk.offered[0]
    assert progress.newest_release == 1
    bench.checkpoints.close()


def test_breaches_without_a_release_between_end_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, seconds_max=60.0)
    bench.leases = ScriptedLeases(bench.progress, [(epoch, breach(epoch)) for epoch in range(1, 9)])
    with pytest.raises(BreachedTooOften, match=r"breached 5 times .* learner\.rollbacks_max is 5"):
        bench.run()
    assert bench.leases.answered == [1, 2, 3, 4]
    assert bench.restored().rollbacks_in_a_row == 4


def test_a_new_release_begins_the_count_of_breaches_anew(tmp_path: Path) -> None:
    def judge(version: int) -> CandidateResult:
        return replace(approved(version, 1.0), release_number=len(bench.desk.offered))

    bench = Bench(tmp_path, judge, env_steps_max=40 * T * B)

    def answered() -> None:
        bench.batches.version = bench.progress.updates

    bench.leases = ScriptedLeases(bench.progress, [(4 * epoch, breach(epoch)) for epoch in range(1, 8)])
    bench.leases.on_answer = answered
    assert bench.run()[0] == "env_steps"
    assert bench.leases.answered == [1, 2, 3, 4, 5, 6, 7]
    bench.checkpoints.close()


def test_a_learner_killed_on_its_way_back_goes_back_again(tmp_path: Path) -> None:
    """As it restarts from a checkpoint of before, the safety service tells it of the breach again."""

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    bench = Bench(tmp_path, env_steps_max=20 * T * B)
    bench.leases = ScriptedLeases(bench.progress, [(8, breach(1))])
    bench.leases.on_answer = kill
    with pytest.raises(Killed):
        bench.run()
    kept = bench.restored()
    # Killed right after the checkpoint: the answer is in it, and is what is told from then on.
    assert (kept.rolled_back_epoch, kept.rollbacks, kept.updates) == (1, 1, 9)
