"""What identifies an environment's code: the version of its package and a digest over its source.

The digest answers "were these two records made by the same environment?". It covers the classes it is given, not
everything they import. It is the same in every process and on every machine: no address in memory and no absolute path
enters it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_DEPTH_MAX = 6
"""How deep arguments are looked into; what lies deeper stands in with the name of its class."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def package_version(distribution: str) -> str:
    """ "NAME VERSION" of an installed distribution, or "NAME (not installed)" when run from its source tree."""
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} (not installed)"


def code_digest(classes: Sequence[type], arguments: Mapping[str, object], version: str) -> bytes:
    """SHA-256 (32 bytes) over the source of `classes`, the construction arguments and the package version.

    A class whose source is not at hand (defined interactively, or compiled) stands in with its qualified name.
    Arguments that JSON does not know enter as `described` says.
    """
    digest = hashlib.sha256(b"temper.environment.v1\n")
    for part in (version, json.dumps(described(arguments), sort_keys=True), *map(_source, classes)):
        encoded = part.encode(errors="surrogatepass")
        digest.update(b"%d\n" % len(encoded) + encoded)
    return digest.digest()


def described(value: object, depth: int = _DEPTH_MAX) -> object:
    """A value as JSON has it, so that equal ones are equal everywhere, and others differ.

    A function or class enters with its source, and a function with what it has taken from around it; an array, and the
    file that an absolute path names, with a digest of what is in it; any other object as its class prints it, or where
    that says nothing but an address, with its attributes.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | os.PathLike):
        return _described_text(os.fspath(value))
    if depth <= 0:
        return _name(type(value))
    within = functools.partial(described, depth=depth - 1)
    if isinstance(value, np.ndarray | np.generic):
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        return [value.dtype.str, list(value.shape), within(value.tolist()) if value.dtype.hasobject else digest]
    if isinstance(value, Mapping | Set | Sequence) and not isinstance(value, bytes | bytearray):
        return _described_items(value, within)
    return _described_object(value, within)


def _described_items(
    value: Mapping[object, object] | Set[object] | Sequence[object], within: Callable[[object], object]
) -> object:
    if isinstance(value, Mapping):
        return {str(within(key)): within(each) for key, each in value.items()}
    items = [within(each) for each in value]
    return sorted(json.dumps(each, sort_keys=True) for each in items) if isinstance(value, Set) else items


def _described_object(value: object, within: Callable[[object], object]) -> object:
    if isinstance(value, functools.partial):
        return [within(value.func), within(value.args), within(value.keywords)]
    if isinstance(value, type) or inspect.isroutine(value):
        captured = [within(_content(cell)) for cell in getattr(value, "__closure__", None) or ()]
        bound = getattr(value, "__self__", None)
        of = None if bound is None or isinstance(bound, ModuleType) else within(bound)
        return [_name(value), _source(value), captured, of]
    if isinstance(value, ModuleType):
        return value.__name__
    kind: Any = type(value)
    if kind.__repr__ is not object.__repr__:
        return [_name(kind), _ADDRESS.sub("", repr(value))]
    return [_name(kind), _source(kind), within(getattr(value, "__dict__", {}))]


def _described_text(text: str | bytes) -> object:
    """A text as it is; of an absolute path what is the same elsewhere: its last name, and what is in the file."""
    if isinstance(text, bytes):
        return repr(text)
    path = Path(text)
    if not path.is_absolute():
        return text
    try:
        content = path.read_bytes() if path.is_file() else b""
    except (OSError, ValueError):  # not to be read, or no path at all
        content = b""
    return [path.name, hashlib.sha256(content).hexdigest()]


def _content(cell: object) -> object:
    try:
        return getattr(cell, "cell_contents", None)
    except ValueError:  # not filled yet
        return None


def _name(named: object) -> str:
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', type(named).__qualname__)}"


@functools.lru_cache(maxsize=1024)
def _source(of: Any) -> str:
    try:
        return inspect.getsource(of)
    except (OSError, TypeError):
        return _name(of)
