"""The train loop after a breach: what it goes back to, in which order, what it does not learn from, when it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from learner.batches import LearnerBatch
from learner.promotion import CandidateResult
from learner.publisher import artifact_bytes
from learner.train import BreachedTooOften
from learner.train_state import initial_state
from policies.distribution import Seen
from safety.client import LeaseBreached
from tests.learner.test_learner_update import SPEC, B, T
from tests.learner.train_bench import Bench, ScriptedBatches, ScriptedLeases, approved, rejected


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
