"""Spaces of Gymnasium, brought into the form in which observations and actions travel here.

Observations: a Box of floats becomes f4, one of integers or booleans keeps its type; Discrete becomes a one-hot f4
vector, MultiDiscrete one such vector after another, MultiBinary |b1. A Dict or Tuple becomes a record of parts, nested
ones with "a/b" for a name; the places of a Tuple are named 0, 1, ...

Actions: Discrete, MultiDiscrete and MultiBinary are choices, counted from 0. A Box becomes that many real numbers, -1
and 1 standing for its bounds; what is beyond is clipped, and a side without a bound is taken as it is.

Exceptions: EnvironmentUnsupported (actors.environment) for spaces of other kinds, and observations not of their space.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray

from actors.environment import EnvironmentUnsupported
from policies.spaces import ActionSpace, ObservationSpace, Part, SpecError


class ObservationCodec:
    """Brings observations of a space into arrays, or records of arrays.

    Args:
      name: of the environment, for messages.
      space: of its observations.
    """

    def __init__(self, name: str, space: Space[Any]) -> None:
        self._name = name
        self._leaves = list(_leaves(name, space, ()))
        try:
            self.space = ObservationSpace(tuple(leaf.part for leaf in self._leaves))
        except SpecError as error:
            raise EnvironmentUnsupported(f"{name} has the observation space {space}: {error}") from error

    def __call__(self, observation: Any) -> NDArray[Any]:
        """A new array [*shape]; some environments write every observation into the same one."""
        if self.space.is_array:
            return self._leaves[0].array(observation, self._name)
        record = self.space.zeros()
        for leaf in self._leaves:
            value = observation
            for key in leaf.path:
                value = value[key]
            record[leaf.part.name] = leaf.array(value, self._name)
        return record


class ActionCodec:
    """Brings actions into the form that an environment takes.

    Args:
      name: of the environment, for messages.
      space: of its actions.
    """

    def __init__(self, name: str, space: Space[Any]) -> None:
        self._box = space if isinstance(space, Box) else None
        self._start: Any = 0
        self._shape: tuple[int, ...] = ()
        try:
            self.space = self._space(name, space)
        except SpecError as error:
            raise EnvironmentUnsupported(f"{name} has the action space {space}: {error}") from error

    def __call__(self, action: Any) -> Any:
        """What the environment's `step` takes for an action of `space`."""
        if self._box is None:
            if self.space.kind == "discrete":
                return self._start + int(action)
            return (action.reshape(self._shape) + self._start).astype(self._dtype)
        low, high = self._box.low, self._box.high
        action = action.reshape(self._shape).astype(np.float64)
        scaled = np.where(self._bounded, low + (np.clip(action, -1, 1) + 1) * 0.5 * self._width, action)
        return np.clip(scaled, low, high).astype(self._box.dtype)

    def _space(self, name: str, space: Space[Any]) -> ActionSpace:
        if isinstance(space, Discrete):
            self._start = int(space.start)
            return ActionSpace("discrete", (int(space.n),))
        if isinstance(space, MultiDiscrete):
            self._start, self._shape, self._dtype = space.start, space.shape, space.dtype
            return ActionSpace("multi_discrete", tuple(int(size) for size in space.nvec.flat))
        if isinstance(space, MultiBinary):
            self._shape, self._dtype = tuple(space.shape), space.dtype
            return ActionSpace("multi_discrete", (2,) * int(np.prod(space.shape)))
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
            self._shape = tuple(space.shape)
            self._bounded = np.isfinite(space.low) & np.isfinite(space.high)
            with np.errstate(invalid="ignore", over="ignore"):
                width = space.high.astype(np.float64) - space.low
            self._width = np.where(self._bounded, width, 0.0)
            return ActionSpace("box", (int(np.prod(space.shape, dtype=np.int64)),))
        raise EnvironmentUnsupported(
            f"{name} has the action space {space}; supported are Discrete, MultiDiscrete, MultiBinary and Box of floats"
        )


class _Leaf:
    """A space that is one array, and where it lies in the observation."""

    def __init__(self, name: str, space: Space[Any], path: tuple[Any, ...]) -> None:
        self.path = path
        self._space = space
        column = "/".join(map(str, path))
        if isinstance(space, Discrete):
            self.part = Part(column, (int(space.n),), "<f4")
        elif isinstance(space, MultiDiscrete):
            self._ends = np.cumsum(space.nvec.ravel())
            self.part = Part(column, (int(self._ends[-1]),), "<f4")
        elif isinstance(space, Box | MultiBinary):
            floats = np.issubdtype(space.dtype, np.floating)
            dtype = np.dtype("<f4" if floats else "|b1" if isinstance(space, MultiBinary) else space.dtype)
            self.part = Part(column, tuple(int(size) for size in space.shape), dtype.newbyteorder("<").str)
        else:
            raise EnvironmentUnsupported(
                f"{name} has {space} among its observations; supported are Box, Discrete, MultiDiscrete, MultiBinary, "
                "and Dict and Tuple of them"
            )

    def array(self, value: Any, name: str) -> NDArray[Any]:
        """The value as a new array of the part's type and shape."""
        if isinstance(self._space, Discrete):
            hot = np.zeros(self.part.shape, np.float32)
            hot[int(value) - int(self._space.start)] = 1.0
            return hot
        if isinstance(self._space, MultiDiscrete):
            hot = np.zeros(self.part.shape, np.float32)
            chosen = np.ravel(value) - np.ravel(self._space.start)
            hot[chosen + np.concatenate([[0], self._ends[:-1]])] = 1.0
            return hot
        array = np.array(value, self.part.dtype)
        if array.shape != self.part.shape:
            # It might still fit into the row of an unroll, by broadcasting.
            raise EnvironmentUnsupported(
                f"{name} returned an {self.part.column} of shape {array.shape}, its observation space has "
                f"{self.part.shape}"
            )
        return array


def _leaves(name: str, space: Space[Any], path: tuple[Any, ...]) -> Iterator[_Leaf]:
    if isinstance(space, Dict):
        for key, each in space.spaces.items():
            yield from _leaves(name, each, (*path, key))
    elif isinstance(space, Tuple):
        for place, each in enumerate(space.spaces):
            yield from _leaves(name, each, (*path, place))
    else:
        yield _Leaf(name, space, path)
