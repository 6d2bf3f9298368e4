"""RUN_DIR/config.toml: every setting of a run, each under a comment with its meaning, read back to the same RunConfig.

A file written by hand may leave settings out: they come from the recipe that it names. A key that is no setting is an
error, never ignored: it is a misspelt one, or another version's.

Exceptions: ConfigFileError; replay.settings.SettingError for a value out of range.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

from launch.config import RunConfig, check_run
from launch.errors import ConfigFileError, UnknownRecipe
from launch.overrides import nearest
from launch.recipes import make_recipe
from launch.settings_tree import Leaf, leaves, replace_at

CONFIG_BYTES_MAX = 1 << 20
"""A config file larger than this is not one of ours."""


def to_toml(config: RunConfig) -> str:
    """The whole config as TOML text, each setting under a comment that says what it means and may be."""
    lines = [
        "# Every setting of this run. Repeat it with: temper train THIS_FILE",
        "",
        _assignment("recipe", config.recipe),
    ]
    section = ""
    for leaf in leaves(config):
        table, _, name = leaf.key.rpartition(".")
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        lines += [f"# {_comment(leaf)}", _assignment(name, leaf.value)]
    return "\n".join(lines) + "\n"


def write_config(config: RunConfig, path: Path) -> None:
    """Writes the config so that a reader sees the old file or the new one, never a part."""
    unfinished = path.with_suffix(".toml.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(to_toml(config))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def read_config(path: Path) -> RunConfig:
    """Reads and checks a config file.

    Raises:
      ConfigFileError: it cannot be read, is not TOML, names no known recipe, has an unknown key or a mistyped value.
      SettingError: a value is out of range.
    """
    tree = _parse(path)
    name = tree.pop("recipe", None)
    if not isinstance(name, str):
        raise ConfigFileError(f'{path}: no recipe = "NAME" line, so it is not a temper config file')
    try:
        config = make_recipe(name)
    except UnknownRecipe as error:
        raise ConfigFileError(f"{path}: {error}") from None
    known = {leaf.key: leaf for leaf in leaves(config)}
    for key, value in _flatten(tree):
        if key not in known:
            raise ConfigFileError(f"{path}: no setting {key!r}; {nearest(key, list(known))}")
        config = replace_at(config, key, _from_toml(path, known[key], value))
    check_run(config)
    return config


def config_digest(path: Path) -> bytes:
    """SHA-256 of the file's bytes (32 bytes), as written into the provenance of every record."""
    return hashlib.sha256(path.read_bytes()).digest()


def _comment(leaf: Leaf) -> str:
    return f"{leaf.meaning} ({leaf.bounds})" if leaf.bounds else leaf.meaning


def _assignment(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        elements = (tomli_w.dumps({"x": item}).strip().removeprefix("x = ") for item in value)
        return f"{name} = [{', '.join(elements)}]"
    return tomli_w.dumps({name: value}).strip()


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ConfigFileError(f"{path}: larger than {CONFIG_BYTES_MAX} bytes, so it is not a temper config file")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigFileError(f"config file {path} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileError(f"{path} is not TOML: {' '.join(str(error).split())}") from None


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _from_toml(path: Path, leaf: Leaf, value: Any) -> Any:
    if typing.get_origin(leaf.type) is tuple:
        if not isinstance(value, list):
            raise ConfigFileError(f"{path}: {leaf.key} = {value!r} is not an array")
        element = typing.get_args(leaf.type)[0]
        return tuple(float(item) if element is float and type(item) is int else item for item in value)
    # TOML keeps integers and floats apart; a person writes 1 for 1.0.
    return float(value) if leaf.type is float and type(value) is int else value
