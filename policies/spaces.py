"""What goes into a policy and what comes out: the spaces of observations and of actions. Imports no framework.

An observation of several parts (a dict or a tuple of arrays) is one NumPy record: an array of a structured type with a
named field for each part. So N observations are one array [N] whatever they consist of, and are indexed, copied and
joined as arrays of numbers are. In records and in networks each part is a column of its own.

An action is one number, or a vector of D of them; a policy gives P numbers for each, the parameters of the distribution
that it is drawn from (policies.distributions).

Exceptions: SpecError (a ValueError) for a space that no policy may have.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

OBSERVATION_DTYPES = ("<f2", "<f4", "<f8", "|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")
"""NumPy type strings that an observation, or a part of one, may have."""

OBSERVATION_ELEMENTS_MAX = 1 << 24
PARTS_MAX = 64
CHOICES_MAX = 1 << 20
COMPONENTS_MAX = 4_096

ACTION_KINDS = ("discrete", "multi_discrete", "box")

_PART_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){0,7}")


class SpecError(ValueError):
    """A specification cannot describe a policy; the message names the value, the bound and the consequence."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One array of an observation.

    Attributes:
      name: how it is called among the others, "a/b" where dicts are in dicts; "" where it is the whole observation.
      shape: of the array.
      dtype: NumPy type string, one of OBSERVATION_DTYPES.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def column(self) -> str:
        """Name of its column in records."""
        return f"observation/{self.name}" if self.name else "observation"


@dataclasses.dataclass(frozen=True)
class ObservationSpace:
    """What an observation is: one array, or named arrays.

    Attributes:
      parts: the one part named "", or all of the named parts.

    Raises:
      SpecError: there is none, a name is taken twice or not to be used, a type or size is out of bounds.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple) or not 1 <= len(self.parts) <= PARTS_MAX:
            raise SpecError(f"an observation has 1 to {PARTS_MAX} parts, not {self.parts!r}")
        names = [part.name for part in self.parts]
        if names != [""]:
            for name in names:
                if not isinstance(name, str) or not _PART_NAME.fullmatch(name) or names.count(name) > 1:
                    raise SpecError(f"{name!r} cannot name one part of an observation among {names}")
        for part in self.parts:
            if part.dtype not in OBSERVATION_DTYPES:
                known = ", ".join(OBSERVATION_DTYPES)
                raise SpecError(f"{part.column} has the type {part.dtype!r}, which is not supported; known are {known}")
            _check_sizes(f"the shape of {part.column}", part.shape)
        if self.size > OBSERVATION_ELEMENTS_MAX:
            raise SpecError(f"an observation has {self.size} numbers, the limit is {OBSERVATION_ELEMENTS_MAX}")

    @property
    def is_array(self) -> bool:
        """Whether it is one array, and not a record of parts."""
        return self.parts[0].name == ""

    @property
    def size(self) -> int:
        """Numbers in one observation."""
        return sum(part.size for part in self.parts)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation as a NumPy array; () for a record of parts."""
        return self.parts[0].shape if self.is_array else ()

    @functools.cached_property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of one observation; a structured one for a record of parts."""
        if self.is_array:
            return np.dtype(self.parts[0].dtype)
        return np.dtype([(part.name, part.dtype, part.shape) for part in self.parts])

    def zeros(self, *leading: int) -> NDArray[Any]:
        """Blank observations [*leading, *shape]."""
        return np.zeros((*leading, *self.shape), self.dtype)

    def columns(self, observation: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The parts [..., *part shape] of observations, by the names of their columns; views."""
        if self.is_array:
            return {"observation": observation}
        return {part.column: observation[part.name] for part in self.parts}

    def describe(self) -> str:
        """One line for people, e.g. "<f4 [4]" or "{image: |u1 [10, 10, 4], speed: <f4 [2]}"."""
        texts = [f"{part.dtype} {list(part.shape)}" for part in self.parts]
        if self.is_array:
            return texts[0]
        return "{" + ", ".join(f"{part.name}: {text}" for part, text in zip(self.parts, texts, strict=True)) + "}"

    def to_tree(self) -> list[dict[str, Any]]:
        """As JSON types; `from_tree` reads it."""
        return [dataclasses.asdict(part) | {"shape": list(part.shape)} for part in self.parts]

    @classmethod
    def from_tree(cls, tree: Any) -> ObservationSpace:
        """What `to_tree` gave. Raises SpecError."""
        if not isinstance(tree, list | tuple):
            raise SpecError(f"the parts of an observation are {tree!r}, they must be a list")
        return cls(tuple(Part(**_fields(Part, part, "a part of the observation")) for part in tree))


@dataclasses.dataclass(frozen=True)
class ActionSpace:
    """What an action is.

    "discrete": one of A choices, int32 in [0, A); sizes is (A,).
    "multi_discrete": D choices at once, int32 [D]; sizes are the numbers of choices.
    "box": D real numbers, float32 [D]; sizes is (D,). The environment takes -1 and 1 for its bounds and clips what is
    beyond, so a policy is not concerned with bounds.

    Raises:
      SpecError: the kind is unknown or a size is out of bounds.
    """

    kind: str
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.kind not in ACTION_KINDS:
            raise SpecError(f"actions of kind {self.kind!r} are not supported; known are {', '.join(ACTION_KINDS)}")
        _check_sizes(f"the sizes of {self.kind} actions", self.sizes)
        if not self.sizes or (self.kind != "multi_discrete" and len(self.sizes) != 1):
            raise SpecError(f"{self.kind} actions have the sizes {self.sizes}, there must be one size")
        if self.components > COMPONENTS_MAX or self.parameters > CHOICES_MAX:
            raise SpecError(
                f"an action has {self.components} components (the limit is {COMPONENTS_MAX}) and {self.parameters} "
                f"parameters (the limit is {CHOICES_MAX})"
            )

    @property
    def is_discrete(self) -> bool:
        """Whether it consists of choices, and not of real numbers."""
        return self.kind != "box"

    @property
    def components(self) -> int:
        """D: numbers in one action."""
        return self.sizes[0] if self.kind == "box" else len(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return () if self.kind == "discrete" else (self.components,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of an action."""
        return np.dtype(np.int32 if self.is_discrete else np.float32)

    @property
    def parameters(self) -> int:
        """P: numbers that describe the distribution of one action."""
        return 2 * self.sizes[0] if self.kind == "box" else sum(self.sizes)

    @property
    def draws(self) -> int:
        """Uniform random numbers that one action takes."""
        return 2 * self.components if self.kind == "box" else self.components

    def zeros(self, *leading: int) -> NDArray[Any]:
        """Actions [*leading, *shape] of nothing but zeros."""
        return np.zeros((*leading, *self.shape), self.dtype)

    def fault(self, actions: NDArray[Any]) -> str:
        """Why some of these actions [..., *shape] are none of this space, or "" where all are."""
        if actions.dtype != self.dtype or actions.shape[actions.ndim - len(self.shape) :] != self.shape:
            return f"actions are {actions.dtype.str} {list(actions.shape)}, not {self.dtype.str} [..., {self.shape}]"
        wrong = ~self.contains(actions)
        if not wrong.any():
            return ""
        return f"action {actions[wrong][0].tolist()} is not one of {self.describe()}"

    def contains(self, actions: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the actions [..., *shape] of the space's type are in it; bool [...]."""
        limits = np.asarray(self.sizes if self.shape else self.sizes[0])
        inside: NDArray[np.bool_] = (actions >= 0) & (actions < limits) if self.is_discrete else np.isfinite(actions)
        return np.asarray(inside.all(axis=-1) if self.shape else inside)

    def describe(self) -> str:
        """One line for people, e.g. "3 actions", "actions of [3, 2] choices", "actions of 6 real numbers"."""
        if self.kind == "discrete":
            return f"{self.sizes[0]} actions"
        return (
            f"actions of {self.sizes[0]} real numbers"
            if self.kind == "box"
            else f"actions of {list(self.sizes)} choices"
        )

    def to_tree(self) -> dict[str, Any]:
        """As JSON types; `from_tree` reads it."""
        return {"kind": self.kind, "sizes": list(self.sizes)}

    @classmethod
    def from_tree(cls, tree: Any) -> ActionSpace:
        """What `to_tree` gave. Raises SpecError."""
        return cls(**_fields(cls, tree, "the action space"))


def array_space(shape: Iterable[int], dtype: str) -> ObservationSpace:
    """Observations that are one array each."""
    return ObservationSpace((Part("", tuple(shape), dtype),))


def record_space(parts: Mapping[str, tuple[tuple[int, ...], str]]) -> ObservationSpace:
    """Observations of named parts, (shape, dtype) by name."""
    return ObservationSpace(tuple(Part(name, tuple(shape), dtype) for name, (shape, dtype) in parts.items()))


def discrete(choices: int) -> ActionSpace:
    """Actions 0 to `choices` - 1."""
    return ActionSpace("discrete", (choices,))


def _check_sizes(name: str, values: object) -> None:
    if not isinstance(values, tuple):
        raise SpecError(f"{name} = {values!r} is not a tuple of integers")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError(f"{name} = {values!r}: each must be an integer of at least 1")


def _fields(kind: type, tree: Any, name: str) -> dict[str, Any]:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(tree, dict) or set(tree) != wanted:
        has = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
        raise SpecError(f"{name} has {has}, it must have exactly {sorted(wanted)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
