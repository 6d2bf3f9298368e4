"""The settings of a run as a tree with dotted keys: list them, look one up, make a copy with one changed.

A leaf is a dataclass field declared with `replay.settings.setting`; a branch is a field that holds a config dataclass.
Any other field (the recipe's name) is identity, not a setting, and is passed over.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from replay.settings import bounds

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class Leaf:
    """One setting in place: its dotted key, its declared type, its value here, and its declaration."""

    key: str
    type: Any
    value: Any
    field: dataclasses.Field[Any]

    @property
    def meaning(self) -> str:
        """What the setting does, one sentence with the unit."""
        return str(self.field.metadata["meaning"])

    @property
    def bounds(self) -> str:
        """The values it may take, for a person; "" where any will do."""
        return bounds(self.field)


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
    """Every setting of a config dataclass in declaration order, those of nested dataclasses in their place."""
    types = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        elif "meaning" in field.metadata:
            yield Leaf(prefix + field.name, types[field.name], value, field)


def replace_at(config: ConfigT, key: str, value: Any) -> ConfigT:
    """A copy of `config` with the setting at the dotted `key` replaced; the value is not checked here.

    Raises:
      AttributeError: there is no such key; look it up among `leaves` first.
    """
    name, _, rest = key.partition(".")
    new = replace_at(getattr(config, name), rest, value) if rest else value
    changed: ConfigT = dataclasses.replace(config, **{name: new})  # type: ignore[type-var]
    return changed


def format_value(value: Any) -> str:
    """A setting's value as `--set` takes it: tuples as comma-separated elements, booleans in lower case."""
    if isinstance(value, tuple):
        return ",".join(format_value(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
