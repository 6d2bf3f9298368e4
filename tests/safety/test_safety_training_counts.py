"""The counts of training episodes, as replay totals them: what is read, and what is not taken for none."""

from __future__ import annotations

import pytest

from protos.replay.v1 import replay_pb2
from replay.client import ReplayUnavailable
from safety.leases.training_counts import replay_totals
from safety.leases.training_totals import CountsUnreadable, TrainingCounts, TrainingTotals


class Client:
    def __init__(self, **fields: object) -> None:
        self.response = replay_pb2.StatsResponse(**fields)  # type: ignore[arg-type]

    def stats(self, timeout_s: float) -> replay_pb2.StatsResponse:
        return self.response


def read(**fields: object) -> TrainingTotals:
    return replay_totals(Client(**fields))  # type: ignore[arg-type]


def test_counts_are_taken_from_the_totals_of_replay() -> None:
    totals = {"episodes": 12.0, "violating_episodes": 3.0, "return": 5.5}
    tagged = {"lease.1.episodes": 5.0, "lease.1.violating_episodes": 2.0, "release.12.episodes": 4.0}
    found = read(appended_records=9, signal_totals=totals | tagged)
    assert found.total == TrainingCounts(12, 3)
    assert found.tagged == {("lease", 1): (5, 2), ("release", 12): (4, 0)}
    assert found.release(12) == TrainingCounts(4, 0)
    assert found.release(1) == TrainingCounts(0, 0)
    assert found.held_against(1) == TrainingCounts(8, 3)
    assert found.held_against(2) == TrainingCounts(3, 1)
    assert read() == TrainingTotals(TrainingCounts(0, 0), {})


def test_what_only_resembles_a_tag_excuses_nothing() -> None:
    names = ["lease.0", "lease.01", "lease.-1", "lease.1.1", "lease.x", "release", "other.1", f"lease.{'9' * 20}"]
    totals = {"episodes": 12.0, "violating_episodes": 3.0} | {f"{name}.episodes": 9.0 for name in names}
    assert read(appended_records=9, signal_totals=totals).tagged == {}


@pytest.mark.parametrize(
    "totals",
    [{}, {"episodes": 5.0}, {"violating_episodes": 5.0}, {"episodes": float("nan"), "violating_episodes": 0.0}],
)
def test_totals_that_are_missing_are_not_taken_for_none(totals: dict[str, float]) -> None:
    with pytest.raises(CountsUnreadable, match="does not total"):
        read(appended_records=1, signal_totals=totals)


@pytest.mark.parametrize("tagged", [(2.0, 3.0), (-1.0, 0.0), (1.0, -1.0)])
def test_tags_that_cannot_be_are_unreadable(tagged: tuple[float, float]) -> None:
    totals = {"episodes": 9.0, "violating_episodes": 5.0}
    totals |= {"lease.1.episodes": tagged[0], "lease.1.violating_episodes": tagged[1]}
    with pytest.raises(CountsUnreadable, match="replay counts"):
        read(appended_records=1, signal_totals=totals)


def test_tags_that_excuse_more_than_there_is_are_unreadable() -> None:
    totals = TrainingTotals(TrainingCounts(9, 5), {("release", 1): TrainingCounts(10, 0)})
    with pytest.raises(CountsUnreadable, match="epoch 1 answers for"):
        totals.held_against(1)


def test_a_replay_that_does_not_answer_is_unreadable() -> None:
    class Dead(Client):
        def stats(self, timeout_s: float) -> replay_pb2.StatsResponse:
            raise ReplayUnavailable("gone")

    with pytest.raises(CountsUnreadable, match="gone"):
        replay_totals(Dead())  # type: ignore[arg-type]
