"""What the columns of one record hold: figures of each, and its first steps row by row.

Exceptions: none of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHOWN_MAX = 6
"""Most numbers of a row that a person is shown."""

Arrays = Mapping[str, NDArray[Any]]


def column_json(arrays: Arrays) -> list[dict[str, Any]]:
    """Each column's name, dtype, shape [T, T + 1 or 1, ...], and min, max and mean of its numbers that are no NaN.

    Those three are None where there is no such number; "nan" says how many there are not.
    """
    return [
        {"name": name, "dtype": array.dtype.str, "shape": array.shape, **_figures(array)}
        for name, array in arrays.items()
    ]


def column_lines(arrays: Arrays) -> Iterator[str]:
    """The same as a table."""
    rows = [("column", "dtype", "shape", "min", "max", "mean", "nan")]
    for column in column_json(arrays):
        figures = (_number(column[name]) for name in ("min", "max", "mean"))
        rows.append((column["name"], column["dtype"], str(list(column["shape"])), *figures, str(column["nan"])))
    yield from _table(rows)


def step_json(arrays: Arrays, steps: int) -> list[dict[str, Any]]:
    """The first rows, each with its number and every column's row."""
    return [{"step": step, **{name: array[step].tolist() for name, array in arrays.items()}} for step in range(steps)]


def step_lines(arrays: Arrays, steps: int) -> Iterator[str]:
    """The same as a table; of long rows the beginning, of rows of more than one dimension their figures."""
    rows = [("step", *arrays)]
    rows += [(str(step), *(_row(array[step]) for array in arrays.values())) for step in range(steps)]
    yield from _table(rows)


def _figures(array: NDArray[Any]) -> dict[str, Any]:
    numbers = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    missing = array.size - numbers.size
    if not numbers.size:
        return {"min": None, "max": None, "mean": None, "nan": missing}
    with np.errstate(all="ignore"):  # both infinities have no mean: NaN says so
        mean = float(numbers.mean(dtype=np.float64))
    return {"min": numbers.min().item(), "max": numbers.max().item(), "mean": mean, "nan": missing}


def _row(row: Any) -> str:
    if np.ndim(row) == 0:
        return _number(row.item())
    if np.ndim(row) > 1:
        figures = _figures(row)
        return f"{figures['min']:.6g} to {figures['max']:.6g}" if figures["min"] is not None else "nan"
    shown = " ".join(_number(value) for value in row[:_SHOWN_MAX].tolist())
    return f"[{shown}{' ...' if len(row) > _SHOWN_MAX else ''}]"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(text) for text in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
