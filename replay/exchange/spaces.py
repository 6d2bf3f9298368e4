"""Observations and actions of Gymnasium spaces as columns: Dict and Tuple are flattened with '/'.

Exceptions: ImportRefused for a space that no column can hold, or data that is not of its space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from replay.exchange.errors import ImportRefused
from replay.schema import DTYPES

_HELD = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

Arrays = dict[str, NDArray[Any]]


def flattened(name: str, space: Any, data: Any) -> Arrays:
    """The columns that data of a space becomes, by name, each [N, *shape].

    Args:
      name: of the column, or of the root of the tree.
      space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of such.
      data: N elements, batched: an array, or mappings and sequences of arrays as the space has them.
    """
    return dict(_leaves(name, space, data))


def _leaves(name: str, space: Any, data: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(space, spaces.Dict):
        if not isinstance(data, Mapping) or set(data) != set(space.spaces):
            raise ImportRefused(f"{name} is a Dict of {', '.join(space.spaces)}, its data is not")
        for key, each in space.spaces.items():
            yield from _leaves(f"{name}/{key}", each, data[key])
    elif isinstance(space, spaces.Tuple):
        if not isinstance(data, tuple | list) or len(data) != len(space.spaces):
            raise ImportRefused(f"{name} is a Tuple of {len(space.spaces)}, its data is not")
        for index, each in enumerate(space.spaces):
            yield from _leaves(f"{name}/{index}", each, data[index])
    elif isinstance(space, _HELD):
        yield name, _column(name, space, data)
    else:
        known = ", ".join(kind.__name__ for kind in (*_HELD, spaces.Dict, spaces.Tuple))
        raise ImportRefused(f"{name} is a {type(space).__name__}, which no column can hold; known are {known}")


def _column(name: str, space: Any, data: Any) -> NDArray[Any]:
    array = np.asarray(data)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.str not in DTYPES or array.shape[1:] != space.shape:
        raise ImportRefused(
            f"{name} has data of type {array.dtype.str} and shape {list(array.shape[1:])}; its space has shape "
            f"{list(space.shape)}, and columns have one of the types {', '.join(DTYPES)}"
        )
    return array
