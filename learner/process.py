"""The learner as a process: connects the parts, restores what there is, trains, and leaves everything in order.

Serves policy distribution while it runs. Peers need not be up when it starts; it waits for them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from actors.environments.catalog import make_vector
from learner.candidate_file import NAME as CANDIDATE_NAME
from learner.candidate_file import CandidateFile
from learner.columns import trained_columns
from learner.decisions import DecisionListener
from learner.distillation.records import TeacherRecords
from learner.distillation.teachers import Teacher, load_teachers
from learner.distillation.term import DistillationTerm, recorded_columns
from learner.draw_journal import DIRECTORY as DRAWS_DIRECTORY
from learner.draw_journal import DrawJournal
from learner.job import LearnerJob
from learner.lineage_archive import DIRECTORY as LINEAGE_DIRECTORY
from learner.lineage_archive import LineageArchive
from learner.metrics import MetricsWriter
from learner.progress import Progress, ProgressError
from learner.promotion import PromotionDesk
from learner.publisher import LeaseKeeper, SnapshotPublisher
from learner.resumed_batches import ResumedBatches
from learner.train import Parts, TrainLoop
from learner.train_state import TrainState, initial_state
from learner.update import Update, compile_update, make_update
from policies.distribution import DistributionServer, PolicyBoard
from policies.registry import PolicyRegistry
from policies.release_keeper import ReleaseKeeper
from policies.signing import VerifyKey
from policies.spec import PolicySpec
from policies.trust import TrustPolicy
from replay.client import ReplayUnavailable
from replay.client_sharded import ReplayLog, open_client
from safety.client import SafetyClient

if TYPE_CHECKING:
    from learner.checkpoint import Checkpointer
    from learner.rollback import Rollback

_log = logging.getLogger(__name__)

TRUST_KEY_WAIT_S = 60.0
"""The safety service writes its public key when it first starts; this is how long it may take."""


class TrustKeyMissing(FileNotFoundError):
    """The safety service's public key did not appear in time: without it no release could be verified."""


def run_learner(job: LearnerJob) -> int:
    """Trains until the target, a limit, or SIGTERM/SIGINT; returns the exit status 0.

    Writes RUN_DIR/learner/final.json last, so that its presence says that the run has ended in order. Must be called
    in the main thread (signal handlers).

    Raises:
      AddressError, CheckpointError, RegistryError, LineageError, TrustKeyMissing, EnvironmentUnsupported, SpecError,
        TeacherError: see there.
      TrainingDiverged, BreachedTooOften, BatchShapeError, ReplayRefused, CheckpointFailed, JournalFailed: it ends.
    """
    start_s = time.monotonic()
    stop = _stop_on_signals()
    spec = _policy_spec(job)
    initial = initial_state(spec, job.learner, job.seed)
    teachers = load_teachers(job.teachers, spec, job.distillation)
    compiling = _compile_in_background(job, spec, initial, teachers)
    from learner.checkpoint import Checkpointer  # noqa: PLC0415 - takes its time to import, which can pass meanwhile

    key = _wait_for_key(job.trust_key_path, stop)
    if key is None:
        return 0
    registry = PolicyRegistry(job.run_directory / "policies", TrustPolicy(key, job.run_id))
    board = PolicyBoard()
    with contextlib.ExitStack() as cleanup:
        safety = SafetyClient(job.safety_address)
        cleanup.callback(safety.close)
        # Before anybody can watch: who is offered a release must have heard first of what was revoked.
        releases = ReleaseKeeper(registry, board)
        cleanup.callback(_hear_of_decisions(safety, releases, job.run_id, stop).close)
        newest = releases.offered
        server = DistributionServer(board, job.listen_address, releases)
        cleanup.callback(server.stop)
        print(f"temper learner ready at {server.start()}", flush=True)
        kept = job.learner.checkpoints_kept, job.learner.checkpoint_keep_updates
        checkpoints = Checkpointer(job.run_directory / "learner" / "checkpoints", *kept)
        cleanup.callback(checkpoints.close)
        state, progress = _starting_point(job, initial, checkpoints)
        leases = LeaseKeeper(safety, board, job.run_id, progress.rolled_back_epoch)
        leases.start()
        cleanup.callback(leases.close)
        replay = cleanup.enter_context(open_client(job.replay_address))
        # Replay is asked for the first batches, and the actors act, while the update compiles.
        batches = cleanup.enter_context(contextlib.closing(_batches(job, spec, teachers, replay, progress)))
        snapshots = _snapshots(spec, board, state, publish=not batches.repeating)
        promotion = _promotion_desk(job, registry, board)
        cleanup.callback(promotion.close)
        # What was reported after the checkpoint holds if these updates are made again.
        metrics = MetricsWriter(job.run_directory, 0 if batches.repeating else progress.env_steps)
        cleanup.enter_context(metrics)
        parts = Parts(
            spec,
            compiling.result(),
            batches,
            snapshots,
            promotion,
            checkpoints,
            _open_archive(job, registry),
            metrics,
            lambda: _replay_counters(replay),
            leases,
            _way_back(job, spec, registry, board, cleanup),
            lambda: len(board.revocations),
        )
        target_met = newest is not None and newest.return_mean >= job.target_return
        loop = TrainLoop(job, parts, state, progress, stop, start_s=start_s, target_reached=target_met)
        reason = loop.run()
        checkpoints.wait()
        _write_final(job.run_directory / "learner" / "final.json", loop.progress, reason)
    return 0


def _hear_of_decisions(
    safety: SafetyClient, releases: ReleaseKeeper, run_id: str, stop: threading.Event
) -> DecisionListener:
    """Offers the newest release that stands, as far as the registry and the safety service tell, and goes on asking."""
    listener = DecisionListener(safety, releases, run_id)
    # With no release there is nothing to hold back, and nobody to wait for.
    if releases.start() is not None or releases.canary_number:
        listener.catch_up(stop)
    listener.start()
    return listener


def _snapshots(spec: PolicySpec, board: PolicyBoard, state: TrainState, *, publish: bool) -> SnapshotPublisher:
    snapshots = SnapshotPublisher(spec, board)
    if publish:
        snapshots.publish(state)
    return snapshots


def _batches(
    job: LearnerJob, spec: PolicySpec, teachers: Sequence[Teacher], replay: ReplayLog, progress: Progress
) -> ResumedBatches | TeacherRecords:
    """This run's own records, or those that the teachers' runs have left."""
    columns, config = trained_columns(spec, behaviour=job.learner.reads_behaviour), job.learner
    if job.distillation.offline:
        return TeacherRecords(
            teachers,
            job.distillation,
            batch_size=config.batch_size,
            unroll_length=job.unroll_length,
            columns=tuple(dict.fromkeys((*columns, *recorded_columns(job.distillation, spec, 1, 1)))),
            seed=job.seed,
            first=progress.updates,
        )
    journal = DrawJournal(job.run_directory / DRAWS_DIRECTORY)
    if not job.resume:
        journal.clear()
    return ResumedBatches(
        job.replay_address, config, job.unroll_length, columns, log=replay, journal=journal, progress=progress
    )


def _way_back(
    job: LearnerJob, spec: PolicySpec, registry: PolicyRegistry, board: PolicyBoard, cleanup: contextlib.ExitStack
) -> Rollback:
    from learner.rollback import DIRECTORY, ReleaseStates, Rollback  # noqa: PLC0415 - needs what a checkpoint needs

    states = ReleaseStates(job.run_directory / DIRECTORY, spec)
    cleanup.callback(states.close)
    return Rollback(
        states,
        registry,
        job.run_directory / LINEAGE_DIRECTORY,
        lambda: initial_state(spec, job.learner, job.seed),
        lambda: {revocation.digest for revocation in board.revocations},
    )


def _promotion_desk(job: LearnerJob, registry: PolicyRegistry, board: PolicyBoard) -> PromotionDesk:
    gate = SafetyClient(job.safety_address)
    kept = CandidateFile(job.run_directory / CANDIDATE_NAME, job.run_id)
    return PromotionDesk(gate, registry, board, job.run_id, job.learner.evaluation_timeout_s, kept=kept)


def _open_archive(job: LearnerJob, registry: PolicyRegistry) -> LineageArchive:
    released = (release.digest for release in registry.releases())
    return LineageArchive(job.run_directory / LINEAGE_DIRECTORY, released)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    return stop


def _compile_in_background(
    job: LearnerJob, spec: PolicySpec, initial: TrainState, teachers: Sequence[Teacher]
) -> Future[Update]:
    """Compiling is the longest part of starting up, and does not hold the interpreter."""

    def compile_for_this_run() -> Update:
        distillation, shape = job.distillation, (job.unroll_length, job.learner.batch_size)
        behaviour = job.learner.reads_behaviour
        if not teachers:
            update = make_update(spec, job.learner)
            return compile_update(update, initial, spec, *shape, behaviour=behaviour)
        term = DistillationTerm(spec, distillation, teachers)
        update = make_update(spec, job.learner, (term,), distillation.reward_weight)
        more = recorded_columns(distillation, spec, *shape)
        return compile_update(update, initial, spec, *shape, behaviour=behaviour, more=more)

    compiler = ThreadPoolExecutor(1, "compile")
    compiling = compiler.submit(compile_for_this_run)
    compiler.shutdown(wait=False)
    return compiling


def _policy_spec(job: LearnerJob) -> PolicySpec:
    environment = make_vector(job.environment, 1)
    try:
        spec = environment.spec
        return PolicySpec(job.network, spec.observation, spec.action)
    finally:
        environment.close()


def _wait_for_key(path: Path, stop: threading.Event) -> VerifyKey | None:
    """The key; None where the process was told to stop before there was one."""
    deadline_s = time.monotonic() + TRUST_KEY_WAIT_S
    while not path.exists():
        if stop.wait(0.02):
            return None
        if time.monotonic() > deadline_s:
            raise TrustKeyMissing(f"{path} did not appear within {TRUST_KEY_WAIT_S:g} s: is the safety service up?")
    return VerifyKey.load(path)


def _starting_point(job: LearnerJob, initial: TrainState, checkpoints: Checkpointer) -> tuple[TrainState, Progress]:
    from learner.checkpoint import CheckpointError  # noqa: PLC0415 - as above; it is there by now

    try:
        restored = checkpoints.restore(initial) if job.resume else None
    except ProgressError as error:
        raise CheckpointError(
            f"the newest checkpoint of {job.run_directory} cannot be continued from: {error}"
        ) from error
    if restored is None:
        return initial, Progress(seed=job.seed)
    _log.info("resumed at update %d, %d environment steps", restored[1].updates, restored[1].env_steps)
    return restored


def _replay_counters(replay: ReplayLog) -> dict[str, float]:
    try:
        stats = replay.stats(timeout_s=1.0)
    except ReplayUnavailable:
        return {}
    counters = {"appended_records": float(stats.appended_records), "appended_steps": float(stats.appended_steps)}
    for table in stats.tables:
        counters[f"{table.name}/inserts"] = float(table.inserts)
        counters[f"{table.name}/samples"] = float(table.samples)
    return counters


def _write_final(path: Path, progress: Progress, reason: str) -> None:
    content = {
        "env_steps": progress.env_steps,
        "updates": progress.updates,
        "wall_s": progress.wall_s,
        "policy_lag": progress.policy_lag,
        "stopped_because": reason,
        "return_mean": progress.recent_return,
        "records_consumed": len(progress.consumed),
        "rollbacks": progress.rollbacks,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
