"""`--set key=value`: finds the setting, reads the value in the setting's type, and says clearly why it cannot.

Knows nothing of files or commands. Bounds are checked by `launch.config.check_run` on the whole config afterwards,
because a recipe and a file must obey them too.

Exceptions: OverrideError, and replay.settings.SettingError for a value out of range.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from launch.config import RunConfig, check_run
from launch.errors import OverrideError
from launch.settings_tree import leaves, replace_at

_BOOLEANS = {"true": True, "false": False}


def apply_overrides(config: RunConfig, assignments: Iterable[str]) -> RunConfig:
    """A copy of `config` with every "key=value" applied in order, checked as a whole.

    Raises:
      OverrideError: an assignment has no "=", names no setting, or its value does not have the setting's type.
      SettingError: the result violates a bound.
    """
    known = {leaf.key: leaf for leaf in leaves(config)}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        key = key.strip()
        if not separator:
            raise OverrideError(f"--set {assignment!r} is not of the form key=value")
        if key not in known:
            raise OverrideError(f"no setting {key!r}; {nearest(key, list(known))}")
        config = replace_at(config, key, parse_value(key, text.strip(), known[key].type))
    check_run(config)
    return config


def parse_value(key: str, text: str, expected: Any) -> Any:
    """Reads `text` as a value of type `expected`: int, float, bool, str, or a tuple of one of them.

    A tuple is written as its elements with commas between ("64,64"), brackets around them allowed, "" for an empty one;
    or as in config.toml, which is how an element may have a comma in it.

    Raises:
      OverrideError: the text does not have that form.
    """
    if typing.get_origin(expected) is tuple:
        element = typing.get_args(expected)[0]
        if element is str and (texts := _texts(text)) is not None:
            return texts
        inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        return tuple(parse_value(key, item.strip(), element) for item in inner.split(",") if item.strip())
    if expected is str:
        return text
    if expected is bool:
        if text.lower() not in _BOOLEANS:
            raise OverrideError(f"{key} = {text!r} is not a truth value: write true or false")
        return _BOOLEANS[text.lower()]
    try:
        return expected(text.replace("_", ""))
    except ValueError:
        kind = "an integer" if expected is int else "a number"
        raise OverrideError(f"{key} = {text!r} is not {kind}") from None


def _texts(text: str) -> tuple[str, ...] | None:
    """The elements of a TOML array of texts; None if it is none."""
    if not text.startswith("["):
        return None
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return None
    elements = value["value"]
    return tuple(elements) if len(value) == 1 and all(isinstance(each, str) for each in elements) else None


def nearest(name: str, known: Sequence[str]) -> str:
    """What to say after an unknown name: the nearest known one, or where to find them all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        # A key is often given without its section, or with a wrong one.
        last = name.rpartition(".")[2]
        by_last = {key.rpartition(".")[2]: key for key in known}
        close = [by_last[match] for match in difflib.get_close_matches(last, by_last, n=1)]
    return f"did you mean {close[0]!r}?" if close else "temper train --help lists all settings"
