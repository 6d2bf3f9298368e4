"""The index of blocks, against plain lists."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import pytest

from replay.block import BlockSummary
from replay.block_index import BlockIndex
from replay.store import StoreCounters


def _blocks(count: int, start: int = 10) -> list[BlockSummary]:
    """Blocks of 10 records, of 100, 101, 102, ... payload bytes and 7 header bytes, committed at 1000, 1001, ..."""
    return [BlockSummary(start + 10 * row, 10, 7, 100 + row, 1000 + row) for row in range(count)]


def test_locates_drops_and_adds() -> None:
    index = BlockIndex()
    assert index.view.starts_of([0, 5]) == [-1, -1]
    index.extend(_blocks(3))
    assert index.view.starts_of([9, 10, 19, 20, 99]) == [-1, 10, 10, 20, 30]
    before = index.view
    index.drop_before(30)
    index.extend(_blocks(1, start=40))
    assert index.view.starts_of([29, 39, 40]) == [-1, 30, 40]
    assert before.starts_of([9, 10, 29, 99]) == [-1, 10, 20, 30]
    index.drop_before(10**6)
    assert index.view.starts_of([50]) == [-1]


def test_grows_and_shrinks_like_a_list_while_views_stay_as_they_were() -> None:
    generator = np.random.default_rng(3)
    index, expected, views = BlockIndex(), list[int](), []
    for _ in range(60):
        new = _blocks(int(generator.integers(0, 20)), start=expected[-1] + 10 if expected else 10)
        index.extend(new)
        expected += [block.first_position for block in new]
        if len(expected) > 30:
            index.drop_before(expected[12])
            expected = expected[12:]
        views.append((index.view, list(expected)))
    for view, starts in views:
        assert view.starts.tolist() == starts
        positions = generator.integers(0, 10_000, 20).tolist()
        found = [bisect_right(starts, position) - 1 for position in positions]
        assert view.starts_of(positions) == [starts[row] if row >= 0 else -1 for row in found]


def test_finds_where_a_number_of_bytes_is_reached() -> None:
    index = BlockIndex()
    index.extend(_blocks(2))
    index.extend(_blocks(2, start=30))  # 100, 101, 100, 101 payload bytes
    view = index.view
    assert (view.payload_bytes, view.bytes) == (402, 430)
    bounds = (402, 401, 302, 301, 201, 200, 101, 100, 1)
    counters = StoreCounters(10, 50)
    assert [view.window(counters, 0, bound, 0) for bound in bounds] == [10, 20, 20, 30, 30, 40, 40, 50, 50]
    assert view.window(StoreCounters(25, 50), 0, 401, 0) == 25
    index.drop_before(20)
    assert index.view.window(StoreCounters(20, 50), 0, 10**6, 0) == 20
    assert (index.view.payload_bytes_before[0], index.view.bytes_before[0]) == (100, 107)


def test_finds_what_was_committed_since() -> None:
    index = BlockIndex()
    index.extend(_blocks(3))
    view, counters = index.view, StoreCounters(10, 40)
    times_ns = (0, 1000, 1001, 1002, 1003)
    assert [view.window(counters, 0, 0, time_ns) for time_ns in times_ns] == [10, 10, 20, 30, 40]
    assert view.window(counters, 5, 0, 1001) == 35
    assert BlockIndex().view.window(StoreCounters(40, 40), 5, 5, 5) == 40


@pytest.mark.parametrize("lost", [0, 999])
def test_times_never_descend(lost: int) -> None:
    """As where the time of a damaged block is not known."""
    index = BlockIndex()
    index.extend([*_blocks(2), BlockSummary(30, 0, 0, 0, lost), BlockSummary(40, 1, 1, 1, 1005)])
    assert index.view.times_ns.tolist() == [1000, 1001, 1001, 1005]


def test_the_last_block_may_be_continued() -> None:
    index, same = BlockIndex(), BlockIndex()
    index.extend(_blocks(3))
    before = index.view
    longer = BlockSummary(30, 15, 9, 150, 1002)
    index.extend([longer, *_blocks(1, start=45)])
    same.extend([*_blocks(2), longer, *_blocks(1, start=45)])
    columns = [[np.asarray(column).tolist() for column in made.view[:4]] for made in (index, same)]
    assert columns[0] == columns[1]
    assert index.view[4:] == same.view[4:]
    assert before.payload_bytes == 303
    index.extend([])
    index.drop_before(45)
    index.extend([BlockSummary(45, 20, 9, 250, 1003)])
    assert (index.view.payload_bytes, index.view.starts.tolist()) == (100 + 101 + 150 + 250, [45])
