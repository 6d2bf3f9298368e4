"""The payload codec against numpy's own tobytes/concatenate, and against arbitrary damage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.schema import DTYPES, PAYLOAD_BYTES_MAX, ROW_BYTES_MAX, PayloadLayout, SchemaError, schema_of

HYPOTHESIS = settings(max_examples=60, deadline=None, derandomize=True, database=None)

columns_strategy = st.lists(
    st.tuples(
        st.sampled_from(DTYPES),
        st.lists(st.integers(1, 3), max_size=3).map(tuple),
        st.sampled_from((0, 1, None)),
    ),
    min_size=1,
    max_size=5,
).filter(lambda columns: any(beyond is not None for _, _, beyond in columns))
"""Type, shape of a row, and rows beyond T; None of a column that is stored once."""


def _schema(columns: list[tuple[str, tuple[int, ...], int | None]]) -> common_pb2.Schema:
    schema = common_pb2.Schema()
    for index, (dtype, shape, beyond) in enumerate(columns):
        column = schema.columns.add(name=f"c/{index}", dtype=dtype, shape=shape, once=beyond is None)
        column.rows_beyond_steps = beyond or 0
    return schema


def _random_arrays(schema: common_pb2.Schema, steps: int, seed: int) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for column in schema.columns:
        shape = (1 if column.once else steps + column.rows_beyond_steps, *column.shape)
        dtype: np.dtype[Any] = np.dtype(column.dtype)
        if dtype.kind == "b":
            arrays[column.name] = generator.integers(0, 2, shape).astype(np.bool_)
        else:
            arrays[column.name] = np.frombuffer(generator.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(
                shape
            )
    return arrays


def _same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


@HYPOTHESIS
@given(columns=columns_strategy, steps=st.integers(1, 5), seed=st.integers(0, 1000))
def test_round_trip(columns: list[tuple[str, tuple[int, ...], int | None]], steps: int, seed: int) -> None:
    schema = _schema(columns)
    layout = PayloadLayout(schema)
    arrays = _random_arrays(schema, steps, seed)
    payload = layout.encode(arrays)
    assert payload == b"".join(array.tobytes() for array in arrays.values())
    assert len(payload) == layout.payload_bytes(steps)
    decoded = layout.decode(payload, steps)
    assert list(decoded) == list(arrays) == list(layout.names)
    assert all(_same(decoded[name], arrays[name]) for name in arrays)
    assert not any(array.flags.writeable for array in decoded.values())
    assert schema_of(arrays, steps, layout.once) == schema


@HYPOTHESIS
@given(columns=columns_strategy, steps=st.integers(1, 4), lanes=st.integers(1, 4), seed=st.integers(0, 1000))
def test_batches_are_stacks_of_records(
    columns: list[tuple[str, tuple[int, ...], int | None]], steps: int, lanes: int, seed: int
) -> None:
    schema = _schema(columns)
    layout = PayloadLayout(schema)
    records = [_random_arrays(schema, steps, seed + lane) for lane in range(lanes)]
    payloads: list[bytes | memoryview] = [layout.encode(record) for record in records]
    batch = layout.decode_batch(payloads, steps)
    buffer = np.zeros((lanes, layout.payload_bytes(steps)), np.uint8)
    for name, view in layout.views(buffer, steps).items():
        expected = np.stack([record[name] for record in records], axis=1)
        assert _same(batch[name], expected)
        assert batch[name].flags.writeable
        assert batch[name].flags.c_contiguous
        view[...] = expected.swapaxes(0, 1)
    assert [row.tobytes() for row in buffer] == payloads


@HYPOTHESIS
@given(columns=columns_strategy, steps=st.integers(-1, 4), data=st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(
    columns: list[tuple[str, tuple[int, ...], int | None]], steps: int, data: bytes
) -> None:
    layout = PayloadLayout(_schema(columns))
    fits = steps >= 1 and len(data) == layout.payload_bytes(steps)
    if fits:
        assert set(layout.decode(data, steps)) == set(layout.decode_batch([data], steps)) == set(layout.names)
        return
    with pytest.raises(SchemaError):
        layout.decode(data, steps)
    with pytest.raises(SchemaError):
        layout.decode_batch([data], steps)


@HYPOTHESIS
@given(data=st.binary(max_size=80))
def test_any_schema_message_makes_a_layout_or_is_refused(data: bytes) -> None:
    try:
        schema = common_pb2.Schema.FromString(data)
    except Exception:  # noqa: BLE001  not a Schema message: nothing to test
        return
    try:
        layout = PayloadLayout(schema)
    except SchemaError:
        return
    assert layout.payload_bytes(1) > 0


def test_any_non_zero_byte_is_true() -> None:
    layout = PayloadLayout(_schema([("|b1", (), 0), ("|u1", (), 0)]))
    payload = bytes([0, 1, 2, 255, 9, 9, 9, 9])
    for mask in (layout.decode(payload, 4)["c/0"], layout.decode_batch([payload], 4)["c/0"][:, 0]):
        assert mask.tobytes() == bytes([0, 1, 1, 1])


def test_decode_does_not_copy() -> None:
    layout = PayloadLayout(_schema([("<f4", (4,), 1)]))
    payload = bytearray(layout.payload_bytes(3))
    array = layout.decode(memoryview(payload), 3)["c/0"]
    payload[0:4] = np.float32(7.0).tobytes()
    assert array[0, 0] == 7.0
    assert not array.flags.writeable


def test_other_byte_orders_and_strides_are_encoded_as_the_schema_says() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)
    layout = PayloadLayout(schema_of({"x": array}, 3))
    expected = np.arange(12, dtype="<i4").tobytes()
    assert layout.encode({"x": array}) == expected
    assert layout.encode({"x": np.asfortranarray(array.astype("<i4"))}) == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"name": ""}, "column name '' must match"),
        ({"name": "a b"}, "column name 'a b' must match"),
        ({"dtype": "|O"}, r"has type '\|O', must be one of"),
        ({"dtype": ">f4"}, "has type '>f4'"),
        ({"dtype": "f4"}, "has type 'f4'"),
        ({"shape": [0]}, r"row shape \[0\]"),
        ({"shape": [1] * 7}, "at most 6 dimensions"),
        ({"rows_beyond_steps": 2}, "rows_beyond_steps = 2, must be 0 or 1"),
        ({"rows_beyond_steps": 1, "once": True}, "'x' is stored once and has rows_beyond_steps = 1, must be 0"),
        ({"shape": [4_000_000_000, 4_000_000_000]}, f"the limit is {ROW_BYTES_MAX}"),
    ],
)
def test_bad_columns_are_refused(column: dict[str, Any], message: str) -> None:
    schema = common_pb2.Schema(columns=[common_pb2.Column(**{"name": "x", "dtype": "<f4", **column})])
    with pytest.raises(SchemaError, match=message):
        PayloadLayout(schema)


def test_bad_schemas_are_refused() -> None:
    with pytest.raises(SchemaError, match="0 columns, must have 1 to 256"):
        PayloadLayout(common_pb2.Schema())
    column = common_pb2.Column(name="x", dtype="<f4")
    with pytest.raises(SchemaError, match="'x' more than once"):
        PayloadLayout(common_pb2.Schema(columns=[column, column]))
    column.once = True
    with pytest.raises(SchemaError, match=r"stores every column once, \['x'\]: a record of it would have no steps"):
        PayloadLayout(common_pb2.Schema(columns=[column]))
    assert PAYLOAD_BYTES_MAX >= ROW_BYTES_MAX


def test_a_column_stored_once_takes_one_row_whatever_the_steps() -> None:
    schema = schema_of({"state": np.zeros((1, 6), np.float32), "x": np.zeros(5, np.int32)}, 5, once=("state",))
    layout = PayloadLayout(schema)
    assert layout.once == {"state"}
    assert [layout.payload_bytes(steps) for steps in (1, 2, 100)] == [24 + 4, 24 + 8, 24 + 400]
    state = np.arange(6, dtype=np.float32)[None]
    # The number of steps is that of the columns which have a row for each, wherever they stand.
    payload = layout.encode({"state": state, "x": np.arange(3, dtype=np.int32)})
    assert payload == state.tobytes() + np.arange(3, dtype=np.int32).tobytes()
    batch = layout.decode_batch([payload] * 4, 3)
    assert (batch["state"].shape, batch["x"].shape) == ((1, 4, 6), (3, 4))
    with pytest.raises(SchemaError, match=r"'state' is <f4 \[3, 6\], the schema wants <f4 \[1, 6\] at T = 3"):
        layout.encode({"state": np.zeros((3, 6), np.float32), "x": np.zeros(3, np.int32)})
    with pytest.raises(SchemaError, match="'state' has 2 rows, must have 1, being stored once per record"):
        schema_of({"state": np.zeros((2, 6)), "x": np.zeros(2)}, 2, once=("state",))


def test_schemas_of_logs_written_before_columns_could_be_stored_once_are_the_same_bytes() -> None:
    assert _schema([("<f4", (2,), 1), ("|b1", (), 0)]).SerializeToString(deterministic=True).hex() == (
        "0a0f0a03632f3012033c66341a010220010a0a0a03632f3112037c6231"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": np.zeros((3, 2), np.float32)}, r"\['y'\] are missing"),
        ({"x": np.zeros((3, 2), np.float32), "y": np.zeros(2), "z": np.zeros(2)}, r"\['z'\] are missing or not"),
        ({"x": np.zeros((3, 2), np.float64), "y": np.zeros(2, np.int32)}, r"'x' is <f8 \[3, 2\], the schema wants <f4"),
        ({"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.int32)}, r"'y' is <i4 \[3\], .* \[2\] at T = 2"),
        ({"x": np.zeros((1, 2), np.float32), "y": np.zeros(0, np.int32)}, "steps = 0 must be at least 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(columns: dict[str, NDArray[Any]], message: str) -> None:
    schema = common_pb2.Schema()
    schema.columns.add(name="x", dtype="<f4", shape=[2], rows_beyond_steps=1)
    schema.columns.add(name="y", dtype="<i4")
    with pytest.raises(SchemaError, match=message):
        PayloadLayout(schema).encode(columns)


def test_schema_of_refuses_other_row_counts_and_types() -> None:
    with pytest.raises(SchemaError, match="'x' has 5 rows, must have T = 3"):
        schema_of({"x": np.zeros((5, 2))}, 3)
    with pytest.raises(SchemaError, match="has type '<U3'"):
        schema_of({"x": np.array(["abc", "def"])}, 2)


@pytest.mark.parametrize(
    "buffer",
    [
        np.zeros((2, 15), np.uint8),
        np.zeros((2, 16), np.int8),
        np.zeros(16, np.uint8),
        np.zeros((16, 2), np.uint8).T,
    ],
)
def test_views_refuse_another_buffer(buffer: NDArray[Any]) -> None:
    with pytest.raises(SchemaError, match=r"must be C-contiguous uint8 \[N, 16\] at T = 2"):
        PayloadLayout(_schema([("<f4", (2,), 0)])).views(buffer, 2)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(SchemaError, match="0 payloads"):
        PayloadLayout(_schema([("<f4", (), 0)])).decode_batch([], 1)
