"""Cutting and joining of parts of batches: no record is lost, doubled or parted from what belongs to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.batch_parts import Parts, placed
from replay.sampled_batch import BatchMaker, DrawnRecord, SampledBatch
from replay.schema import PayloadLayout, SchemaError
from replay.sharding import global_position
from replay.testing import make_columns, make_header, make_origin

AVAILABLE = 50


def part(start: int, count: int, steps: int = 2, probability: float = 0.25) -> SampledBatch:
    """Records whose arrays are made from their positions, which are `start` and those that follow."""
    origin = make_origin(steps=steps)
    layout = PayloadLayout(origin.schema)
    records = [
        DrawnRecord(
            position,
            make_header(steps, policy_version=position),
            origin,
            layout.encode(make_columns(steps, seed=position)),
            probability,
        )
        for position in range(start, start + count)
    ]
    return BatchMaker().make(records, AVAILABLE)


def check_whole(batch: SampledBatch) -> None:
    """Every array and header is that of the record at its position."""
    for index, position in enumerate(batch.positions.tolist()):
        assert batch.headers[index].policies[0].version == position
        for name, column in make_columns(seed=position).items():
            np.testing.assert_array_equal(batch.columns[name][:, index], column)
    assert len(batch.headers) == len(batch.origins) == len(batch.positions) == len(batch.probabilities)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 7))
def test_batches_of_any_size_from_parts_of_any_size(sizes: list[int], batch_size: int) -> None:
    parts, start, taken = Parts(), 0, []
    for size in sizes:
        parts.add(part(start, size))
        start += size
        while parts.records >= batch_size:
            batch = parts.take(batch_size)
            assert len(batch.headers) == batch_size
            check_whole(batch)
            taken += batch.positions.tolist()
    assert taken == list(range(start - parts.records))
    assert parts.records < batch_size


def test_a_part_that_is_a_batch_is_not_copied() -> None:
    parts, whole = Parts(), part(0, 4)
    parts.add(whole)
    assert parts.take(4) is whole


def test_a_part_becomes_part_of_a_draw_from_all() -> None:
    shard = placed(part(3, 2), 5, share=0.5, available=400)
    assert shard.positions.tolist() == [global_position(5, 3), global_position(5, 4)]
    assert shard.positions.dtype == np.uint64
    assert shard.probabilities.tolist() == [0.125, 0.125]
    assert shard.available == 400


def test_what_comes_in_its_turn_stays_certain() -> None:
    assert placed(part(0, 2, probability=1.0), 1, share=0.5, available=9).probabilities.tolist() == [1.0, 1.0]


def test_records_of_different_lengths_cannot_be_stacked_and_the_next_batch_can() -> None:
    parts = Parts()
    for each in (part(0, 1), part(1, 1, steps=3), part(2, 2)):
        parts.add(each)
    with pytest.raises(SchemaError, match="mixes records of T = 2 and T = 3"):
        parts.take(2)
    check_whole(parts.take(2))


def test_records_of_different_schemas_cannot_be_stacked() -> None:
    columns = {**make_columns(), "extra": np.zeros(2, np.float32)}
    origin = make_origin("other", columns=columns)
    payload = PayloadLayout(origin.schema).encode(columns)
    other = BatchMaker().make([DrawnRecord(0, make_header(), origin, payload, 1.0)], 1)
    parts = Parts()
    parts.add(part(0, 1))
    parts.add(other)
    with pytest.raises(SchemaError, match="mixes the schemas of actors 'actor-0' and 'other'"):
        parts.take(2)
