"""Columns of records as Arrow types and arrays, and how a file says what it is.

A number per step becomes that number; an array per step a fixed_size_list of its elements in C order, whose field says
in its metadata which shape and NumPy type it had. Files carry in their own metadata which format of ours they are of,
in which version, and where they hold columns the serialized Schema (common.proto).

Exceptions: none of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from protos.common.v1 import common_pb2

FORMAT_VERSION = 1
"""Of all files of this package; raised when one of them changes so that older readers would misread it."""

KIND_KEY = b"temper.kind"
VERSION_KEY = b"temper.format_version"
SCHEMA_KEY = b"temper.schema"

DIGEST = pa.binary(32)
SIGNALS = pa.map_(pa.string(), pa.float64())

_ELEMENT = "element"


def file_metadata(kind: str, schema: common_pb2.Schema | None = None) -> dict[bytes, bytes]:
    """What a file says about itself.

    Args:
      kind: "records", "steps" or "episodes".
      schema: of the records whose columns it holds.
    """
    metadata = {KIND_KEY: kind.encode(), VERSION_KEY: str(FORMAT_VERSION).encode()}
    return metadata if schema is None else {**metadata, SCHEMA_KEY: schema.SerializeToString(deterministic=True)}


def column_metadata(column: common_pb2.Column) -> dict[bytes, bytes]:
    """What the field of a column says: NumPy type and shape of one step."""
    return {b"temper.dtype": column.dtype.encode(), b"temper.shape": json.dumps(list(column.shape)).encode()}


def column_type(column: common_pb2.Column) -> Any:
    """The Arrow type of one step of a column."""
    element = pa.from_numpy_dtype(np.dtype(column.dtype))
    if not column.shape:
        return element
    return pa.list_(pa.field(_ELEMENT, element, nullable=False), math.prod(column.shape))


def column_field(name: str, column: common_pb2.Column) -> Any:
    """The field of a column, which is never null."""
    return pa.field(name, column_type(column), nullable=False, metadata=column_metadata(column))


def column_array(values: NDArray[Any], column: common_pb2.Column) -> Any:
    """The array [N] of a column's values [N, *shape]."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=column_type(column)) if column.shape else flat


def sparse_field(name: str, column: common_pb2.Column) -> Any:
    """The field of a column that only few rows have."""
    element = pa.from_numpy_dtype(np.dtype(column.dtype))
    kind = pa.list_(pa.field(_ELEMENT, element, nullable=False)) if column.shape else element
    return pa.field(name, kind, nullable=True, metadata=column_metadata(column))


def sparse_array(values: NDArray[Any], there: NDArray[np.bool_], column: common_pb2.Column) -> Any:
    """The array [N] of a column that only the rows marked in `there` (bool [N]) have: values [K, *shape], in order."""
    element = pa.from_numpy_dtype(np.dtype(column.dtype))
    if not column.shape:
        scattered = np.zeros(len(there), values.dtype)
        scattered[there] = values
        return pa.array(scattered, element, mask=~there)
    size = math.prod(column.shape)
    offsets = np.zeros(len(there) + 1, np.int32)
    np.cumsum(there * size, out=offsets[1:])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    kind = pa.list_(pa.field(_ELEMENT, element, nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind, mask=pa.array(~there))


def signals_array(signals: Sequence[Mapping[str, float]]) -> Any:
    """The array of maps, each sorted by name."""
    return pa.array([sorted(each.items()) for each in signals], SIGNALS)


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or "column/NAME" where a field of ours is called so."""
    return f"column/{name}" if name in taken else name


def packs_well(column: common_pb2.Column) -> bool:
    """Whether a dictionary makes a column smaller: it has few different values, or Parquet has no type as narrow."""
    return np.dtype(column.dtype).itemsize == 1
