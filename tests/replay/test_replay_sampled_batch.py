"""Batches: stacked in order, refused where they cannot be, and weighted as the paper says."""

from __future__ import annotations

import numpy as np
import pytest

from replay.payload_encoding import ZSTD
from replay.sampled_batch import BatchMaker, DrawnRecord
from replay.schema import PayloadLayout, SchemaError
from replay.testing import make_columns, make_header, make_origin


def drawn(seed: int, *, steps: int = 2, probability: float = 0.5, encoded: bool = False) -> DrawnRecord:
    origin = make_origin(steps=steps)
    header = make_header(steps)
    if encoded:
        header.encoding = ZSTD
    payload = PayloadLayout(origin.schema).encode(make_columns(steps, seed), header.encoding)
    return DrawnRecord(seed, header, origin, payload, probability)


def test_records_are_stacked_in_order() -> None:
    batch = BatchMaker().make([drawn(4), drawn(2, encoded=True), drawn(4)], 9)
    assert batch.positions.tolist() == [4, 2, 4]
    assert batch.available == 9
    for index, seed in enumerate((4, 2, 4)):
        for name, column in make_columns(2, seed).items():
            np.testing.assert_array_equal(batch.columns[name][:, index], column)


def test_importance_weights_are_those_of_the_paper() -> None:
    batch = BatchMaker().make([drawn(0, probability=0.5), drawn(1, probability=0.125)], 10)
    # (N * P)^-beta over the largest of them: (10 * 0.5)^-0.5 and (10 * 0.125)^-0.5.
    np.testing.assert_allclose(batch.importance_weights(0.5), [0.5, 1.0])
    np.testing.assert_allclose(batch.importance_weights(0.0), [1.0, 1.0])
    np.testing.assert_allclose(batch.importance_weights(1.0), [0.25, 1.0])


def test_records_of_another_length_are_refused() -> None:
    with pytest.raises(SchemaError, match="T = 2 and T = 3"):
        BatchMaker().make([drawn(0), drawn(1, steps=3)], 2)


def test_records_of_another_schema_are_refused() -> None:
    other = drawn(1)
    origin = make_origin(columns={"pixels": np.zeros((2, 3), np.uint8)}, steps=2)
    with pytest.raises(SchemaError, match="mixes schemas"):
        BatchMaker().make([drawn(0), other._replace(origin=origin)], 2)
