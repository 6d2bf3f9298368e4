"""The payload codec: columns of arrays <-> the bytes of one record, as `common.proto` lays down in Schema.

A column has T rows, or T + 1, or is stored once per record and has 1 row whatever T is: [1, *shape] in a record, and
[1, B, *shape] in a batch, so that every column of a batch has its records along the second axis.

A payload is its columns' C-contiguous little-endian bytes one after another in schema order, without padding, so the
schema and the step count T fix its size to the byte and a column is found by arithmetic alone. It may travel and be
stored in an encoding (payload_encoding.py). Nothing is cast or copied that need not be. Not part of the ingest path:
the service checks a payload's size and digest only.

Exceptions: SchemaError (a ValueError) for every schema, array or payload that does not fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.payload_encoding import RAW, EncodingError, content_bytes, decode_payload, encode_payload, encoded_bytes_max

DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8")
"""Column types allowed: fixed-size numbers with one little-endian representation; no objects, strings or records."""

COLUMNS_MAX = 256
RANK_MAX = 6
ROW_BYTES_MAX = 16 * 1024 * 1024
PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
"""Largest payload of one record: half of the largest message (protos.transport)."""

_JOIN_BYTES_MAX = 32 * 1024
"""Payloads up to this size are joined and rearranged all at once; larger ones are copied straight to their place."""

_NAME = re.compile(r"[A-Za-z0-9._/-]{1,128}")

Encoding: TypeAlias = "common_pb2.PayloadEncoding"

Arrays = dict[str, NDArray[Any]]


class SchemaError(ValueError):
    """A schema, array or payload does not fit; the message names the column, the value and the bound."""


class _Column(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows_beyond_steps: int
    once: bool
    row_bytes: int

    def rows(self, steps: int) -> int:
        return 1 if self.once else steps + self.rows_beyond_steps


def schema_of(
    columns: Mapping[str, NDArray[Any]], steps: int, once: Collection[str] = frozenset()
) -> common_pb2.Schema:
    """The schema of example arrays, in the mapping's order.

    Args:
      columns: arrays [T, ...] or [T + 1, ...] of any byte order, [1, ...] of those stored once per record.
      steps: T.
      once: names of columns that are stored once per record.

    Raises:
      SchemaError: an array has another number of rows, or a type or shape that no column may have.
    """
    schema = common_pb2.Schema()
    for name, array in columns.items():
        rows = array.shape[0] if array.ndim else -1
        allowed = (1,) if name in once else (steps, steps + 1)
        if rows not in allowed:
            wanted = "1, being stored once per record" if name in once else f"T = {steps} or T + 1"
            raise SchemaError(f"column {name!r} has {rows} rows, must have {wanted}: it has no schema")
        column = schema.columns.add(name=name, dtype=array.dtype.newbyteorder("<").str, shape=array.shape[1:])
        if name in once:
            column.once = True
        else:
            column.rows_beyond_steps = rows - steps
    PayloadLayout(schema)
    return schema


class PayloadLayout:
    """The codec of one schema. Immutable and thread-safe."""

    def __init__(self, schema: common_pb2.Schema) -> None:
        if not 1 <= len(schema.columns) <= COLUMNS_MAX:
            raise SchemaError(f"schema has {len(schema.columns)} columns, must have 1 to {COLUMNS_MAX}")
        self._columns = tuple(_checked_column(column) for column in schema.columns)
        names = [column.name for column in self._columns]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SchemaError(f"schema names column {twice!r} more than once: a column could not be told by its name")
        if all(column.once for column in self._columns):
            raise SchemaError(f"schema stores every column once, {names}: a record of it would have no steps")
        self._step_bytes = sum(column.row_bytes for column in self._columns if not column.once)
        self._once = frozenset(column.name for column in self._columns if column.once)
        # What a payload has besides the rows of its steps.
        self._fixed_bytes = sum(column.row_bytes * column.rows(0) for column in self._columns)

    @property
    def once(self) -> frozenset[str]:
        """Names of the columns that are stored once per record."""
        return self._once

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in payload order."""
        return tuple(column.name for column in self._columns)

    def payload_bytes(self, steps: int) -> int:
        """Size of the payload of a record of `steps` steps (bytes). Raises SchemaError for steps < 1."""
        if steps < 1:
            raise SchemaError(f"steps = {steps} must be at least 1: a record holds at least one step")
        return steps * self._step_bytes + self._fixed_bytes

    def encode(self, columns: Mapping[str, NDArray[Any]], encoding: Encoding = RAW) -> bytes:
        """One record's payload from its arrays [T (+ rows_beyond_steps), *shape], or [1, *shape].

        T is taken from the first column that has a row for each step. Raises SchemaError when names, types, shapes or
        row counts do not fit.
        """
        if set(columns) != set(self.names):
            odd = sorted(set(columns) ^ set(self.names))
            raise SchemaError(f"columns {odd} are missing or not in the schema, which has {list(self.names)}")
        first = next(column for column in self._columns if not column.once)
        steps = len(np.atleast_1d(columns[first.name])) - first.rows_beyond_steps
        self.payload_bytes(steps)
        parts = []
        for column in self._columns:
            array = columns[column.name]
            expected = (column.rows(steps), *column.shape)
            if array.shape != expected or array.dtype.newbyteorder("<") != column.dtype:
                raise SchemaError(
                    f"column {column.name!r} is {array.dtype.str} {list(array.shape)}, "
                    f"the schema wants {column.dtype.str} {list(expected)} at T = {steps}"
                )
            parts.append(np.asarray(array, dtype=column.dtype).tobytes())
        return encode_payload(b"".join(parts), encoding)

    def check_payload(self, payload: bytes | memoryview, steps: int, encoding: Encoding = RAW) -> None:
        """Checks that a payload says it stands for as many bytes as T = `steps` takes, and takes no more itself than
        that needs. Raises SchemaError.
        """
        expected = self.payload_bytes(steps)
        try:
            found = content_bytes(payload, encoding)
        except EncodingError as error:
            raise SchemaError(str(error)) from error
        if found != expected:
            raise SchemaError(f"payload has {found} bytes, the schema requires {expected} at T = {steps}")
        largest = encoded_bytes_max(expected)
        if len(payload) > largest:
            raise SchemaError(f"payload has {len(payload)} bytes and stands for {expected}: at most {largest} may be")

    def decode(self, payload: bytes | memoryview, steps: int, encoding: Encoding = RAW) -> Arrays:
        """Read-only views [T (+ rows_beyond_steps), *shape] or [1, *shape] into `payload`, which they keep alive.

        A bool column with a byte other than 0 and 1 is the one thing copied: any non-zero byte reads as True.
        Raises SchemaError when the payload has another size than schema and steps require.
        """
        payload = self._raw(payload, steps, encoding)
        arrays: Arrays = {}
        offset = 0
        for column in self._columns:
            shape = (column.rows(steps), *column.shape)
            array: NDArray[Any] = np.ndarray(shape, column.dtype, buffer=payload, offset=offset)
            if column.dtype.kind == "b" and array.view(np.uint8).max() > 1:
                array = array.view(np.uint8) != 0
            array.setflags(write=False)
            arrays[column.name] = array
            offset += array.nbytes
        return arrays

    def decode_batch(
        self, payloads: Sequence[bytes | memoryview], steps: int, encodings: Sequence[Encoding] | None = None
    ) -> Arrays:
        """New time-major arrays [T (+ rows_beyond_steps), B, *shape] or [1, B, *shape] of B records of equal T.

        Args:
          payloads: B of them; need not outlive the call.
          steps: T.
          encodings: of each payload; None: all are RAW.

        Raises SchemaError when there is no payload or one has another size than schema and steps require.
        """
        if not payloads:
            raise SchemaError("a batch of 0 payloads has no arrays: pass at least one")
        raw: Iterable[bytes | memoryview] = payloads
        if encodings is not None or set(map(len, payloads)) != {self.payload_bytes(steps)}:
            each = encodings if encodings is not None else [RAW] * len(payloads)
            raw = (self._raw(payload, steps, encoding) for payload, encoding in zip(payloads, each, strict=True))
        if self.payload_bytes(steps) > _JOIN_BYTES_MAX:
            return self._stacked(raw, len(payloads), steps)
        joined = np.frombuffer(b"".join(raw), np.uint8).reshape(len(payloads), -1)
        arrays: Arrays = {}
        for name, lanes in self.views(joined, steps).items():
            time_major = np.array(lanes.swapaxes(0, 1), order="C", copy=True)
            arrays[name] = time_major.view(np.uint8) != 0 if lanes.dtype.kind == "b" else time_major
        return arrays

    def _stacked(self, payloads: Iterable[bytes | memoryview], lanes: int, steps: int) -> Arrays:
        """As decode_batch, with one copy of each byte, from its payload to its place, and one payload at a time."""
        arrays: Arrays = {
            column.name: np.empty((column.rows(steps), lanes, *column.shape), column.dtype) for column in self._columns
        }
        for lane, payload in enumerate(payloads):
            offset = 0
            for column in self._columns:
                rows = column.rows(steps)
                of_lane: NDArray[Any] = np.ndarray((rows, *column.shape), column.dtype, buffer=payload, offset=offset)
                arrays[column.name][:, lane] = of_lane
                offset += rows * column.row_bytes
        for name, stacked in arrays.items():
            if stacked.dtype.kind == "b":
                arrays[name] = stacked.view(np.uint8) != 0
        return arrays

    def views(self, buffer: NDArray[np.uint8], steps: int) -> Arrays:
        """Views [N, T (+ rows_beyond_steps), *shape] or [N, 1, *shape] into N payloads, writable if `buffer` is.

        Args:
          buffer: uint8 [N, payload_bytes(steps)], C-contiguous; row n becomes the payload of lane n.
          steps: T.

        Raises SchemaError for a buffer of another shape, type or memory order.
        """
        size = self.payload_bytes(steps)
        if buffer.dtype != np.uint8 or buffer.ndim != 2 or buffer.shape[1] != size or not buffer.flags.c_contiguous:
            raise SchemaError(
                f"buffer is {buffer.dtype.str} {list(buffer.shape)}, "
                f"must be C-contiguous uint8 [N, {size}] at T = {steps}"
            )
        arrays: Arrays = {}
        offset = 0
        for column in self._columns:
            shape = (column.rows(steps), *column.shape)
            flat = buffer[:, offset : offset + shape[0] * column.row_bytes]
            arrays[column.name] = flat.view(column.dtype).reshape(len(buffer), *shape)
            offset += shape[0] * column.row_bytes
        return arrays

    def _raw(self, payload: bytes | memoryview, steps: int, encoding: Encoding) -> bytes | memoryview:
        expected = self.payload_bytes(steps)
        if encoding == RAW and len(payload) != expected:
            raise SchemaError(f"payload has {len(payload)} bytes, the schema requires {expected} at T = {steps}")
        try:
            return decode_payload(payload, encoding, expected)
        except EncodingError as error:
            raise SchemaError(str(error)) from error


def _checked_column(column: common_pb2.Column) -> _Column:
    if not _NAME.fullmatch(column.name):
        raise SchemaError(f"column name {column.name!r} must match {_NAME.pattern}")
    if column.dtype not in DTYPES:
        raise SchemaError(f"column {column.name!r} has type {column.dtype!r}, must be one of {', '.join(DTYPES)}")
    if len(column.shape) > RANK_MAX or 0 in column.shape:
        raise SchemaError(
            f"column {column.name!r} has row shape {list(column.shape)}, "
            f"must have at most {RANK_MAX} dimensions of at least 1"
        )
    if column.rows_beyond_steps > 1:
        raise SchemaError(f"column {column.name!r} has rows_beyond_steps = {column.rows_beyond_steps}, must be 0 or 1")
    if column.once and column.rows_beyond_steps:
        raise SchemaError(f"column {column.name!r} is stored once and has rows_beyond_steps = 1, must be 0")
    dtype: np.dtype[Any] = np.dtype(column.dtype)
    row_bytes = math.prod(column.shape) * dtype.itemsize
    if row_bytes > ROW_BYTES_MAX:
        raise SchemaError(f"a row of column {column.name!r} takes {row_bytes} bytes, the limit is {ROW_BYTES_MAX}")
    return _Column(column.name, dtype, tuple(column.shape), column.rows_beyond_steps, column.once, row_bytes)
