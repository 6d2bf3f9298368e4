"""Consumed records against a plain Python set."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from learner.lineage import ConsumedRecords, LineageError

SHARD = 1 << 48
POSITIONS = st.one_of(st.integers(0, 60), st.integers(SHARD - 3, SHARD + 3), st.integers(2**64 - 4, 2**64 - 1))


@given(st.lists(st.lists(POSITIONS, max_size=20), max_size=8))
def test_behaves_as_a_set(batches: list[list[int]]) -> None:
    consumed, oracle = ConsumedRecords(), set[int]()
    for batch in batches:
        new = consumed.add(batch)
        assert sorted(batch[index] for index in new) == sorted(set(batch) - oracle)
        oracle.update(batch)
    assert len(consumed) == len(oracle)
    assert list(consumed.positions()) == sorted(oracle)
    assert list(consumed.positions(SHARD)) == sorted(position for position in oracle if position >= SHARD)
    assert all(position in consumed for position in oracle)
    assert [position for position in range(62) if position in consumed] == sorted(p for p in oracle if p < 62)
    assert ConsumedRecords.from_bytes(consumed.to_bytes()) == consumed
    covered = [position for first, last in consumed.ranges() for position in range(first, last + 1)]
    assert covered == sorted(oracle)
    for (_, last), (first, _) in itertools.pairwise(consumed.ranges()):
        assert first > last + 1


@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)))
def test_overlap_and_subset(one: set[int], other: set[int]) -> None:
    assert ConsumedRecords(one).overlap(BitMap64(other)) == len(one & other)
    assert ConsumedRecords(one).issubset(ConsumedRecords(other)) == (one <= other)


def test_a_run_in_order_is_one_range_of_a_few_bytes() -> None:
    consumed = ConsumedRecords()
    for start in range(0, 1_000_000, 16):
        consumed.add(range(start, start + 16))
    assert list(consumed.ranges()) == [(0, 999_999)]
    assert len(consumed.to_bytes()) < 1_000


def test_every_other_record_takes_two_bits_a_record() -> None:
    consumed = ConsumedRecords(range(0, 1_000_000, 2))
    assert len(consumed.to_bytes()) < 1_000_000 / 8 + 10_000


@pytest.mark.parametrize("data", [b"", b"no bitmap", ConsumedRecords(range(100)).to_bytes()[:-1]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(LineageError, match="no set of records"):
        ConsumedRecords.from_bytes(data)
