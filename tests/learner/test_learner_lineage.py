"""Consumed records against a plain Python set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from learner.lineage import ConsumedRecords


@given(st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=8))
def test_behaves_as_a_set(batches: list[list[int]]) -> None:
    consumed, oracle = ConsumedRecords(), set[int]()
    for batch in batches:
        consumed.add(batch)
        oracle.update(batch)
    assert len(consumed) == len(oracle)
    assert [p for p in range(-1, 62) if p in consumed] == sorted(oracle)
    restored = ConsumedRecords(consumed.ranges())
    assert restored.ranges() == consumed.ranges()
    for (_, last), (first, _) in zip(consumed.ranges(), consumed.ranges()[1:], strict=False):
        assert first > last + 1


def test_a_run_in_order_is_one_range() -> None:
    consumed = ConsumedRecords()
    for start in range(0, 1000, 16):
        consumed.add(range(start, start + 16))
    assert consumed.ranges() == [(0, 1007)]
