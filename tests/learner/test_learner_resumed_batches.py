"""Batches of a learner that dies and comes back, from a real replay service: the same again, then the next ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from learner.batches import LearnerBatch
from learner.draw_journal import DrawJournal
from learner.progress import Progress
from learner.resumed_batches import ResumedBatches
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.testing import serving
from tests.learner.test_learner_batches import COLUMNS, CONFIG, T, write

MIXED = replace(CONFIG, uniform_fraction=0.5, prefetch_batches=2)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with serving(ReplayConfig(fresh_unconsumed_max=1000), tmp_path / "replay") as address:
        yield address


@dataclass
class Learner:
    """One start of a learner that makes an update of every batch."""

    batches: ResumedBatches
    progress: Progress

    def repeats(self) -> bool:
        return self.batches.repeating

    def take(self, count: int) -> list[LearnerBatch]:
        taken: list[LearnerBatch] = []
        for _ in range(100 * count):
            batch = self.batches.next()
            if batch is not None:
                self.progress.take(batch.positions[: len(batch.fresh_headers)].tolist())
                self.progress.updates += 1
                taken.append(batch)
            if len(taken) == count:
                return taken
        raise AssertionError(f"{len(taken)} batches came, {count} were wanted")


@contextlib.contextmanager
def learner(address: str, directory: Path, progress: Progress) -> Iterator[Learner]:
    """A learner that goes on from `progress`; what it has drawn and not taken dies with it."""
    with ReplayClient(address) as log:
        journal = DrawJournal(directory / "draws")
        batches = ResumedBatches(address, MIXED, T, COLUMNS, log=log, journal=journal, progress=progress)
        try:
            yield Learner(batches, progress)
        finally:
            batches.close()


def assert_same(expected: list[LearnerBatch], actual: list[LearnerBatch]) -> None:
    for one, other in zip(expected, actual, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        assert one.columns.keys() == other.columns.keys()
        for name, column in one.columns.items():
            np.testing.assert_array_equal(column, other.columns[name])
        assert list(one.headers) == list(other.headers)
        assert list(one.origins) == list(other.origins)
        assert list(one.fresh_headers) == list(other.fresh_headers)
        assert one.fresh_steps == other.fresh_steps


def fresh_of(batches: list[LearnerBatch]) -> list[int]:
    return [position for batch in batches for position in batch.positions[: len(batch.fresh_headers)].tolist()]


def test_what_came_since_the_checkpoint_comes_again_and_then_what_follows(address: str, tmp_path: Path) -> None:
    write(address, range(40))
    with learner(address, tmp_path, Progress(seed=0)) as first:
        taken = first.take(3)
        first.batches.checkpointed(0)
        checkpoint = first.progress.to_json()
        lost = first.take(4)
    with learner(address, tmp_path, Progress.from_json(checkpoint)) as second:
        assert second.repeats()
        again = second.take(4)
        assert not second.repeats()
        assert_same(lost, again)
        # It dies once more, at once.
    with learner(address, tmp_path, Progress.from_json(checkpoint)) as third:
        again = third.take(4)
        assert_same(lost, again)
        rest = third.take(5)
    assert fresh_of(taken + again + rest) == list(range(24))


def test_one_that_died_before_its_first_checkpoint_begins_with_the_same_batches(address: str, tmp_path: Path) -> None:
    write(address, range(20))
    with learner(address, tmp_path, Progress(seed=0)) as first:
        lost = first.take(2)
    with learner(address, tmp_path, Progress(seed=0)) as second:
        assert_same(lost, second.take(2))
        assert fresh_of(second.take(3)) == list(range(4, 10))


def test_one_that_died_before_its_first_batch_misses_none(address: str, tmp_path: Path) -> None:
    write(address, range(20))
    with learner(address, tmp_path, Progress(seed=0)):
        pass
    with learner(address, tmp_path, Progress(seed=0)) as second:
        assert fresh_of(second.take(2)) == list(range(4))


def test_a_run_on_a_log_that_others_have_consumed_begins_where_they_ended(address: str, tmp_path: Path) -> None:
    write(address, range(20))
    with learner(address, tmp_path / "other", Progress(seed=0)) as other:
        other.take(2)
    with ReplayClient(address) as client:
        cursor = next(table.cursor for table in client.stats().tables if table.name == "fresh")
    with learner(address, tmp_path / "ours", Progress(seed=0)) as ours:
        assert fresh_of(ours.take(1)) == [cursor, cursor + 1]


def test_where_a_record_is_quarantined_the_rest_is_drawn_anew_and_it_is_in_none(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(address, range(20))
    with learner(address, tmp_path, Progress(seed=0)) as first:
        lost = first.take(4)
    with ReplayClient(address) as client:
        client.quarantine("position==5", "for the test")
    with learner(address, tmp_path, Progress(seed=0)) as second:
        # Up to the first batch that it is in, fresh or not.
        same = next(index for index, batch in enumerate(lost) if 5 in batch.positions)
        again = second.take(6)
        assert_same(lost[:same], again[:same])
        assert fresh_of(again) == [0, 1, 2, 3, 4, *range(6, 13)]
        assert not any(5 in batch.positions for batch in again[same:])
    assert "cannot be made again" in caplog.text


def test_batches_learnt_onto_what_was_rolled_back_are_not_learnt_again(address: str, tmp_path: Path) -> None:
    write(address, range(20))
    with learner(address, tmp_path, Progress(seed=0)) as first:
        first.take(2)
        before = first.progress.to_json()
        first.take(2)
        first.progress.roll_back(epoch=1, version=0)
        first.take(1)
    with learner(address, tmp_path, Progress.from_json(before)) as second:
        second.take(2)
        assert not second.repeats()
        assert fresh_of(second.take(1)) == [8, 9]
