"""Exactly-once, against a plain set as the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.sequences import RunSequences
from replay.store import SEQUENCE_LEAD_MAX, RecordInvalid


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(batches=st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=8).map(sorted), max_size=12))
def test_admits_each_sequence_once(batches: list[list[int]]) -> None:
    sequences, stored = RunSequences(), set[int]()
    for batch in batches:
        new = [batch[index] for index in sequences.admit(batch)]
        assert new == [sequence for sequence in batch if sequence not in stored]
        stored.update(new)
        watermark = next(candidate for candidate in range(40) if candidate not in stored)
        assert sequences.next == watermark
        assert sequences.ahead == {sequence for sequence in stored if sequence > watermark}


def test_a_copy_is_independent() -> None:
    sequences = RunSequences(2, [5])
    sequences.copy().admit([2, 3, 7])
    assert (sequences.next, sequences.ahead) == (2, {5})


def test_the_lead_is_bounded() -> None:
    sequences = RunSequences(10)
    sequences.admit([10 + SEQUENCE_LEAD_MAX - 1])
    with pytest.raises(RecordInvalid, match=f"is {SEQUENCE_LEAD_MAX} ahead of the next expected, 10"):
        sequences.admit([10, 10 + SEQUENCE_LEAD_MAX])
    assert sequences.next == 10


def test_raising_the_watermark_counts_what_is_below_as_stored() -> None:
    sequences = RunSequences(2, [5, 8, 9, 12])
    for raised_to, watermark, ahead in ((1, 2, {5, 8, 9, 12}), (4, 4, {5, 8, 9, 12}), (8, 10, {12}), (99, 99, set())):
        sequences.raise_to(raised_to)
        assert (sequences.next, sequences.ahead) == (watermark, ahead)
