"""Which records the tables choose, and what they count."""

from __future__ import annotations

import numpy as np
import pytest

from replay.limiter import min_size_limiter, queue_limiter
from replay.store import StoreCounters, TableState
from replay.tables import FreshTable, UniformTable


def _counters(first: int, end: int) -> StoreCounters:
    return StoreCounters(first_position=first, next_position=end)


def test_fresh_goes_in_log_order_without_repeating() -> None:
    table = FreshTable("fresh", queue_limiter(100), TableState())
    counters = _counters(0, 10)
    taken: list[int] = []
    for count in (3, 1, 6):
        assert table.can_sample(count, counters)
        pick = table.pick(count, counters)
        table.begin_draw(pick.state)
        table.end_draw(pick.state, committed=True)
        taken += pick.positions
        assert pick.probability == 1.0
    assert taken == list(range(10))
    assert not table.can_sample(1, counters)
    assert table.state == TableState(10, 10)


def test_fresh_passes_over_what_was_evicted() -> None:
    table = FreshTable("fresh", queue_limiter(5), TableState(cursor=2, samples=2))
    counters = _counters(6, 10)
    assert table.available(counters) == 4
    assert table.insertable(5, counters) == 1
    pick = table.pick(2, counters)
    assert list(pick.positions) == [6, 7]
    assert pick.state == TableState(cursor=8, samples=4)  # 4 of 8 were drawn: the others are counted as lost


def test_fresh_counts_reservations_until_they_settle() -> None:
    table = FreshTable("fresh", queue_limiter(5), TableState())
    counters = _counters(0, 2)
    assert table.insertable(9, counters) == 3
    table.reserve(3)
    assert table.insertable(9, counters) == 0
    table.settle(3)
    assert table.insertable(9, counters) == 3


def test_failed_draws_are_taken_back_once_none_is_under_way() -> None:
    table = FreshTable("fresh", queue_limiter(100), TableState())
    first, second = TableState(3, 3), TableState(5, 5)
    table.begin_draw(first)
    table.begin_draw(second)
    table.end_draw(first, committed=False)
    assert table.state == second
    table.end_draw(second, committed=False)
    assert table.state == TableState()
    table.begin_draw(first)
    table.begin_draw(second)
    table.end_draw(first, committed=False)
    table.end_draw(second, committed=True)
    assert table.state == second  # the first three are skipped, never repeated


def test_uniform_draws_uniformly_with_replacement() -> None:
    """Chi-squared over the 20 records in the store: 19 degrees of freedom, 99.9% quantile 43.8."""
    table = UniformTable("uniform", min_size_limiter(1), TableState(), inserts=0, seed=3)
    counters = _counters(5, 25)
    pick = table.pick(10_000, counters)
    counts = np.bincount(np.array(pick.positions), minlength=25)
    assert counts[:5].sum() == 0
    assert float((((counts[5:] - 500.0) ** 2) / 500.0).sum()) < 43.8
    assert pick.probability == pytest.approx(1 / 20)
    assert pick.state.samples == 10_000


def test_uniform_is_seeded() -> None:
    tables = [UniformTable("uniform", min_size_limiter(1), TableState(), inserts=0, seed=seed) for seed in (1, 1, 2)]
    draws = [list(table.pick(8, _counters(0, 100)).positions) for table in tables]
    assert draws[0] == draws[1] != draws[2]


def test_uniform_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    def reopened(state: TableState) -> UniformTable:
        return UniformTable("uniform", min_size_limiter(1), state, inserts=0, seed=1)

    def draw(table: UniformTable) -> list[int]:
        pick = table.pick(8, _counters(0, 100))
        table.begin_draw(pick.state)
        table.end_draw(pick.state, committed=True)
        return list(pick.positions)

    unbroken = reopened(TableState())
    expected = [draw(unbroken) for _ in range(4)]
    first = reopened(TableState())
    before = [draw(first) for _ in range(2)]
    second = reopened(first.state)
    assert before + [draw(second) for _ in range(2)] == expected
    assert len({tuple(positions) for positions in expected}) == 4


def test_uniform_counts_samples_and_waits_for_min_size() -> None:
    table = UniformTable("uniform", min_size_limiter(5), TableState(0, 7), inserts=0, seed=0)
    assert not table.can_sample(1, _counters(0, 4))
    assert table.can_sample(1, _counters(0, 5))
    assert table.pick(3, _counters(0, 5)).state == TableState(0, 10)
