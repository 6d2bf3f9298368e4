"""The train loop: batch, update, and now and then a snapshot, a candidate, a line of metrics, a checkpoint.

Everything the loop works on is handed to it; it opens no connection and reads no file. It ends with the reason why:
a release that reached the target, a limit, or a request to stop.

When the safety service has ended an epoch of leases, the loop rolls back before it makes another update, writes a
checkpoint, publishes what it went back to, and only then says so. A learner that dies on the way is told of the breach
again, and rolls back again. Fresh batches in which undone weights have acted are not learnt from but counted; what the
tables of replayed records still hold of them is, like all that is off policy, corrected for by V-trace.

A loop that goes on from a checkpoint first makes the updates again that were lost after it (resumed_batches.py), in
silence: nothing is published, offered or logged until it is where the one before it was. Then the newest snapshot of
that time is offered again, the same bytes under the same version: to the actors no version goes back. Checkpoints are
written where a snapshot is, so that what is gone on from is what the actors had.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax

from learner.batches import Batches, LearnerBatch, policy_lags, without_stale
from learner.distillation.term import DIVERGENCE
from learner.job import LearnerJob
from learner.lag_alarm import LagAlarm
from learner.lineage_archive import LineageArchive
from learner.lineage_file import Lineage, LineageHead, lineage_digest
from learner.metrics import MetricsWriter
from learner.progress import Progress
from learner.promotion import CandidateResult, PromotionDesk
from learner.publisher import LeaseKeeper, SnapshotPublisher, artifact_bytes
from learner.train_state import TrainState
from learner.update import Figures, Update
from policies.artifact import artifact_digest
from policies.spec import PolicySpec

if TYPE_CHECKING:
    from learner.checkpoint import Checkpointer
    from learner.rollback import Rollback

ReplayCounters = Callable[[], dict[str, float]]
"""Asks replay for its counters and limiter state; an empty dict when it does not answer."""

_log = logging.getLogger(__name__)

FIRST_CHECKPOINT_S = 3.0

_WAIT_SLICE_S = 0.2
"""Longest time between two looks at the request to stop while waiting for the gate."""


class TrainingDiverged(ArithmeticError):
    """The loss is not finite, and so are the parameters; what was learnt before is in the newest checkpoint."""


class BreachedTooOften(RuntimeError):
    """The leases were breached again and again without a new release: rolling back once more would not help."""


@dataclass(frozen=True)
class Parts:
    """What the loop works with."""

    spec: PolicySpec
    update: Update
    batches: Batches
    snapshots: SnapshotPublisher
    promotion: PromotionDesk
    checkpoints: Checkpointer
    lineages: LineageArchive
    metrics: MetricsWriter
    replay_counters: ReplayCounters
    leases: LeaseKeeper
    rollback: Rollback
    revoked_releases: Callable[[], int]
    """How many releases have been taken back. Training goes on whatever is: the next release takes their place."""


class TrainLoop:
    """Runs updates until there is a reason to stop.

    Args:
      job, parts, state, progress: what to do, with what, from where.
      stop: set from outside to end in order.
      start_s: when this process began its work (`time.monotonic`): compiling counts as time of the run.
      target_reached: whether a release has met the target before.
    """

    def __init__(
        self,
        job: LearnerJob,
        parts: Parts,
        state: TrainState,
        progress: Progress,
        stop: threading.Event,
        *,
        start_s: float,
        target_reached: bool,
    ) -> None:
        self._job = job
        self._parts = parts
        self._state = state
        self._progress = progress
        self._stop = stop
        self._start_s = start_s - progress.wall_s
        self._figures: Figures | None = None
        self._last_steps = progress.env_steps
        self._lag_alarm = LagAlarm(job.learner.lag_alarm_lines)
        self._last_lags = progress.lag_sum, progress.lag_count
        self._steps_per_s = 0.0
        self._last_log_s = self._last_offer_s = time.monotonic()
        self._last_offer_updates = progress.updates
        # The first checkpoint comes early: a learner killed before it would begin again from nothing.
        self._last_checkpoint_s = time.monotonic() - max(0.0, job.learner.checkpoint_interval_s - FIRST_CHECKPOINT_S)
        self._target_reached = target_reached

    def run(self) -> str:
        """Trains; returns "target", "env_steps", "seconds" or "signal". A checkpoint is written before it returns.

        Raises:
          TrainingDiverged, BreachedTooOften: see there; neither is written into a checkpoint.
        """
        self._catch_up()
        while (reason := self._stop_reason()) is None:
            batch = self._parts.batches.next()
            self._answer_breach()
            is_published = batch is not None and self._learn(batch)
            if is_published:
                self._parts.snapshots.publish(self._state)
            self._take_results()
            # A further candidate could become a release after the one that reached the target, and fall short of it.
            if not self._target_reached:
                self._offer_candidate()
            self._log()
            if is_published:
                self._checkpoint()
        # Before anybody is waited for: whoever loses patience and kills this process loses nothing.
        self._checkpoint(due=True)
        if reason in {"env_steps", "seconds"}:
            self._offer_last_candidate()
        self._log(due=True)
        return "target" if self._target_reached else reason

    @property
    def progress(self) -> Progress:
        """Counters, with the wall time brought up to now."""
        self._progress.wall_s = time.monotonic() - self._start_s
        return self._progress

    def _catch_up(self) -> None:
        """Makes the updates again that an earlier process made after its last checkpoint."""
        if not self._parts.batches.repeating:
            return
        first = self._progress.updates
        self._parts.snapshots.hold(self._state)
        while self._parts.batches.repeating and not self._stop.is_set():
            batch = self._parts.batches.next()
            if batch is not None and self._learn(batch):
                self._parts.snapshots.hold(self._state)
        self._last_steps = self._progress.env_steps
        _log.info("updates %d to %d were made again", first, self._progress.updates)
        if self._parts.leases.breach is None:
            self._parts.snapshots.publish_held()

    def _learn(self, batch: LearnerBatch) -> bool:
        """One update; returns whether it is time for a snapshot."""
        progress = self._progress
        progress.take(batch.positions[: len(batch.fresh_headers)].tolist())
        if progress.is_undone(batch.fresh_headers):
            progress.undone_records += len(batch.fresh_headers)
            return False
        version = progress.updates
        progress.add_lags(policy_lags(batch.fresh_headers, version))
        batch, dropped = without_stale(batch, version, self._job.learner.staleness_max)
        progress.dropped_stale_records += dropped
        # Nothing is left, or nothing but replay, from which alone V-trace does not learn.
        if dropped and not batch.fresh_headers:
            return False
        self._state, self._figures = self._parts.update(self._state, batch.columns)
        progress.updates += 1
        progress.env_steps += batch.fresh_steps
        progress.add_episodes(batch.fresh_headers)
        progress.add_records(batch.positions.tolist(), batch.headers, batch.origins)
        return progress.updates % self._job.learner.snapshot_updates == 0

    def _answer_breach(self) -> None:
        """Rolls back if the present epoch of leases is over."""
        breach = self._parts.leases.breach
        if breach is None:
            return
        breaches, breaches_max = self._progress.rollbacks_in_a_row + 1, self._job.learner.rollbacks_max
        if breaches >= breaches_max:
            raise BreachedTooOften(
                f"the leases were breached {breaches} times without a new release between, learner.rollbacks_max is "
                f"{breaches_max}: the run ends"
            )
        self._state, self._figures = self._parts.rollback.to(breach, self._progress), None
        self._checkpoint(due=True)
        # What follows is learnt onto this state: without it the journal's batches would be learnt onto another.
        self._parts.checkpoints.wait()
        self._parts.snapshots.publish(self._state)
        self._parts.leases.rolled_back(breach.epoch)
        self._log(due=True)

    def _stop_reason(self) -> str | None:
        if self._target_reached:
            return "target"
        if self._stop.is_set():
            return "signal"
        if self._job.env_steps_max and self._progress.env_steps >= self._job.env_steps_max:
            return "env_steps"
        if self._job.seconds_max and time.monotonic() - self._start_s >= self._job.seconds_max:
            return "seconds"
        return None

    def _offer_candidate(self) -> None:
        config = self._job.learner
        due = (
            time.monotonic() - self._last_offer_s >= config.candidate_interval_s
            and self._progress.updates - self._last_offer_updates >= config.candidate_interval_updates
        )
        if due and self._is_promising():
            if not self._parts.promotion.idle:
                return
            self._last_offer_s = time.monotonic()
            self._last_offer_updates = self._progress.updates
            self._offer()

    def _is_promising(self) -> bool:
        """Whether what is known of the policy makes it worth the gate's while."""
        distillation, recent_return = self._job.distillation, self._progress.recent_return
        if self._figures is not None and DIVERGENCE in self._figures.terms:
            if float(self._figures.terms[DIVERGENCE]) > distillation.candidate_divergence_max:
                return False
            if distillation.offline:
                # Nobody acts with it but the gate.
                return True
        return recent_return is not None and recent_return >= self._job.learner.candidate_return_min

    def _offer_last_candidate(self) -> None:
        """At a limit, what has been learnt so far is still put to the gate once, unless a signal comes."""
        if self._progress.updates and self._wait_for_gate():
            self._take_results()
            if not self._target_reached and self._parts.promotion.idle:
                self._offer()
                self._wait_for_gate()
        self._take_results()

    def _offer(self) -> None:
        """Puts the policy to the gate. What it learnt from is on disk by then: nothing is released without that."""
        data = artifact_bytes(self._parts.spec, self._state)
        lineage = self._keep_lineage(artifact_digest=artifact_digest(data))
        self._parts.rollback.states.offered(artifact_digest(data), self._state)
        self._parts.promotion.offer(self._progress.updates, data, lineage_digest(lineage))

    def _keep_lineage(self, *, checkpoint: bool = False, artifact_digest: bytes = b"") -> Lineage:
        progress = self._progress
        head = LineageHead(
            version=progress.updates,
            run_id=self._job.run_id,
            env_steps=progress.env_steps,
            time_ns=time.time_ns(),
            checkpoint=checkpoint,
            artifact_digest=artifact_digest,
            teachers=self._job.distillation.identities,
        )
        lineage = Lineage(head, progress.consumed, progress.provenance)
        self._parts.lineages.write(lineage)
        return lineage

    def _wait_for_gate(self) -> bool:
        end_s = time.monotonic() + self._job.learner.evaluation_timeout_s
        while not self._parts.promotion.wait(_WAIT_SLICE_S):
            self._log()
            if self._stop.is_set() or time.monotonic() >= end_s:
                return False
        return True

    def _take_results(self) -> None:
        for result in self._parts.promotion.results():
            self._parts.metrics.candidate(result, self._progress.env_steps)
            self._parts.metrics.line(self._line(result))
            if result.approved:
                self._parts.lineages.keep(result.artifact_digest)
                self._parts.rollback.states.released(result.release_number, result.artifact_digest)
                self._progress.released(result.release_number)
        # Not by the result: a canary counts when it is promoted, which may be much later.
        if self._parts.promotion.released_return >= self._job.target_return:
            self._target_reached = True

    def _checkpoint(self, *, due: bool = False) -> None:
        if due or time.monotonic() - self._last_checkpoint_s >= self._job.learner.checkpoint_interval_s:
            self._last_checkpoint_s = time.monotonic()
            self._check_finite()
            self._progress.replay_counters = self._parts.replay_counters()
            self._keep_lineage(checkpoint=True)
            self._parts.checkpoints.save(self._state, self.progress)
            self._parts.batches.checkpointed(self._parts.checkpoints.oldest_updates)

    def _check_finite(self) -> None:
        if self._figures is not None and not math.isfinite(float(self._figures.gradient_norm)):
            raise TrainingDiverged(
                f"the gradient of update {self._progress.updates} is not finite: lower learner.learning_rate or "
                "learner.gradient_norm_max, or look at the environment's observations and rewards"
            )

    def _log(self, *, due: bool = False) -> None:
        since_s = time.monotonic() - self._last_log_s
        if not due and since_s < self._job.learner.log_interval_s:
            return
        self._check_finite()
        self._steps_per_s = (self._progress.env_steps - self._last_steps) / max(since_s, 1e-6)
        self._watch_lag()
        line = self._line(None)
        self._parts.metrics.line(line)
        self._last_log_s, self._last_steps = time.monotonic(), self._progress.env_steps
        self._parts.metrics.scalars({"gate/rollbacks": float(self._progress.rollbacks)}, self._progress.env_steps)
        if self._figures is None:
            return
        figures = jax.device_get(self._figures)
        scalars: dict[str, float | None] = _given(figures.loss._asdict(), "loss/")
        others = {name: value for name, value in figures._asdict().items() if name not in {"loss", "terms"}}
        scalars |= _given(others, "loss/")
        scalars |= {
            "train/return_mean": self._progress.recent_return,
            "train/env_steps_per_s": _number(line["env_steps_per_s"]),
            "train/wait_data_s": self._parts.batches.waiting_s,
            "train/dropped_stale_records": _number(line["dropped_stale_records"]),
            "lag/mean": _number(line["policy_lag_mean"]),
            "lag/p95": _number(line["policy_lag_p95"]),
            "lag/alarm": float(self._lag_alarm.is_on),
            "gate/revoked_releases": _number(line["revoked_releases"]),
        }
        scalars |= {name: float(value) for name, value in figures.terms.items()}
        self._parts.metrics.scalars(scalars, self._progress.env_steps)

    def _watch_lag(self) -> None:
        """Tells the alarm of the mean lag since the last line; of no records there is none."""
        lags, records = self._progress.lag_sum - self._last_lags[0], self._progress.lag_count - self._last_lags[1]
        if records:
            self._lag_alarm.observe(lags / records)
        self._last_lags = self._progress.lag_sum, self._progress.lag_count

    def _line(self, result: CandidateResult | None) -> dict[str, object]:
        loss = jax.device_get(self._figures.loss) if self._figures is not None else None
        lag, evaluation = self._progress.policy_lag, self._parts.promotion.evaluation
        line: dict[str, object] = {
            "time_s": time.monotonic() - self._start_s,
            "updates": self._progress.updates,
            "env_steps": self._progress.env_steps,
            "env_steps_per_s": self._steps_per_s,
            "return_mean": self._progress.recent_return,
            "entropy": float(loss.entropy) if loss else math.nan,
            "policy_loss": float(loss.policy_loss) if loss else math.nan,
            "value_loss": float(loss.value_loss) if loss else math.nan,
            "effective_sample_size": float(loss.effective_sample_size) if loss else math.nan,
            "policy_lag_mean": lag["mean"],
            "policy_lag_p95": lag["p95"],
            "wait_data_s": self._parts.batches.waiting_s,
            "sample_failure": self._parts.batches.failure,
            "lease_refusal": self._parts.leases.refusal,
            "revoked_releases": self._parts.revoked_releases(),
            "rollbacks": self._progress.rollbacks,
            "undone_records": self._progress.undone_records,
            "evaluation": None if evaluation is None else evaluation._asdict(),
            "dropped_stale_records": self._progress.dropped_stale_records,
            "lag_alarm": self._lag_alarm.is_on,
        }
        if result is not None:
            line["candidate"] = {
                "version": result.version,
                "approved": result.approved,
                "reason": result.reason,
                "return_mean": result.return_mean,
                "violation_bound": result.violation_bound,
                "release_number": result.release_number,
            }
        return line


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _given(figures: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    """Those that there are, by their names behind the prefix."""
    return {prefix + name: float(value) for name, value in figures.items() if value is not None}
