"""What a setting is: a field of a frozen config dataclass with its default, meaning and bounds in one place.

Every package's `config.py` is made of these, so that the command line can list each setting with its meaning, and
every violated bound reads the same. This module knows nothing of particular settings, files or the command line.

Exceptions: SettingError (a ValueError) for a value of the wrong type or outside its bounds.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class SettingError(ValueError):
    """A setting's value has the wrong type or lies outside its bounds; the message names value, bound and meaning."""


def setting(
    default: T,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
) -> T:
    """Declares one setting of a frozen dataclass.

    Args:
      default: its default value.
      meaning: one sentence for the person who sets it, with the unit.
      low, high: inclusive bounds of a number, or of every number in a tuple.
      above, below: exclusive bounds, likewise.
      choices: the strings allowed, if only these are.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "above": above, "below": below, "choices": choices}
    field: T = dataclasses.field(default=default, metadata=metadata)
    return field


def bounds(field: dataclasses.Field[Any]) -> str:
    """The values a setting may take, for a person: "in [0, 1)", "one of mlp, conv", or "" where any will do."""
    rule = field.metadata
    if rule["choices"] is not None:
        return "one of " + ", ".join(rule["choices"])
    if rule["low"] is None and rule["above"] is None and rule["high"] is None and rule["below"] is None:
        return ""
    left = "(-inf" if rule["low"] is None and rule["above"] is None else ""
    left = left or (f"[{rule['low']}" if rule["low"] is not None else f"({rule['above']}")
    right = "inf)" if rule["high"] is None and rule["below"] is None else ""
    right = right or (f"{rule['high']}]" if rule["high"] is not None else f"{rule['below']})")
    return f"in {left}, {right}"


def validate(config: Any, prefix: str = "") -> None:
    """Checks every setting of a config dataclass, nested ones included.

    Args:
      config: a dataclass instance whose fields are settings or config dataclasses.
      prefix: dotted path of `config` in the whole, with its trailing dot.

    Raises:
      SettingError: a value has the wrong type or is out of bounds; nothing after it was looked at.
    """
    types = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            validate(value, name + ".")
        elif "meaning" in field.metadata:
            _check_type(name, value, types[field.name])
            # Only a setting whose default is infinite has a meaning for it, such as "no limit".
            if isinstance(value, float) and math.isinf(value) and field.default not in (math.inf, -math.inf):
                raise SettingError(f"{name} = {value} is not a finite number ({field.metadata['meaning']})")
            _check_bounds(name, value, field)


def _check_type(name: str, value: Any, expected: Any) -> None:
    if typing.get_origin(expected) is tuple:
        element = typing.get_args(expected)[0]
        if not isinstance(value, tuple):
            raise SettingError(f"{name} = {value!r} is not a tuple of {element.__name__}")
        for item in value:
            _check_type(name, item, element)
        return
    accepted = (int, float) if expected is float else expected
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise SettingError(f"{name} = {value!r} is not of type {expected.__name__}")
    if isinstance(value, float) and math.isnan(value):
        raise SettingError(f"{name} = nan is not a number")


def _check_bounds(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    rule = field.metadata
    for item in value if isinstance(value, tuple) else (value,):
        outside = (
            (rule["choices"] is not None and item not in rule["choices"])
            or (rule["low"] is not None and item < rule["low"])
            or (rule["high"] is not None and item > rule["high"])
            or (rule["above"] is not None and item <= rule["above"])
            or (rule["below"] is not None and item >= rule["below"])
        )
        if outside:
            raise SettingError(f"{name} = {value!r} is out of range: must be {bounds(field)} ({rule['meaning']})")
