"""The train loop with real updates, checkpoints and files; only batches and verdicts are scripted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learner.batches import LearnerBatch
from learner.lineage import LineageError
from learner.lineage_archive import lineage_paths
from learner.lineage_file import lineage_digest, read_lineage
from learner.promotion import CandidateResult
from learner.train import TrainingDiverged
from learner.train_state import initial_state
from policies.distribution import Seen
from protos.policy.v1 import policy_pb2
from tests.learner.test_learner_update import SPEC, B, T
from tests.learner.train_bench import Bench, ScriptedBatches, approved, rejected


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


@pytest.mark.parametrize(
    ("interval_s", "interval_updates", "offered"),
    [
        (0.0, 0, list(range(1, 11))),
        (0.0, 4, [4, 8, 10]),
        # Both bounds hold.
        (1000.0, 4, [10]),
        (0.0, 1000, [10]),
    ],
)
def test_candidates_are_as_many_updates_and_as_much_time_apart(
    tmp_path: Path, interval_s: float, interval_updates: int, offered: list[int]
) -> None:
    """The last one, at the limit, comes whenever it is."""
    bench = Bench(tmp_path, env_steps_max=10 * T * B)
    learner = replace(bench.job.learner, candidate_interval_s=interval_s, candidate_interval_updates=interval_updates)
    bench.job = replace(bench.job, learner=learner)
    bench.run()
    assert sorted(set(bench.desk.offered)) == offered
    bench.checkpoints.close()


def test_updates_between_candidates_are_counted_from_the_one_that_the_gate_took(tmp_path: Path) -> None:
    """Not from when it was due: a gate that was busy till then is not sent the next one at once."""
    bench = Bench(tmp_path, env_steps_max=12 * T * B)
    bench.job = replace(bench.job, learner=replace(bench.job.learner, candidate_interval_updates=4))
    bench.desk.busy = lambda: bench.batches.handed_out < 6
    bench.run()
    assert bench.desk.offered == [6, 10, 12]
    bench.checkpoints.close()


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


def test_stale_records_are_dropped_and_counted_and_a_batch_of_them_is_skipped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, env_steps_max=10 * T * B, staleness_max=2)
    next_batch = bench.batches.next

    def stale_at_batch_five() -> LearnerBatch | None:
        # Versions of the scripted batches lag by two; those made at version 0 fall behind for good.
        bench.batches.version = 0 if bench.batches.handed_out == 5 else None
        return next_batch()

    bench.batches.next = stale_at_batch_five  # type: ignore[method-assign]
    _, progress = bench.run()
    assert progress.dropped_stale_records == B
    assert progress.updates == 10
    assert progress.env_steps == 10 * T * B
    assert list(progress.consumed.ranges()) == [(0, 5 * B - 1), (6 * B, 11 * B - 1)]
    assert bench.lines()[-1]["dropped_stale_records"] == B
    assert bench.restored().dropped_stale_records == B
