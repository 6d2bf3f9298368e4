"""What identifies an environment's code: the version of its package and a digest over its source.

The digest answers "were these two records made by the same environment?". It covers the classes it is given, not
everything they import.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Mapping, Sequence


def package_version(distribution: str) -> str:
    """ "NAME VERSION" of an installed distribution, or "NAME (not installed)" when run from its source tree."""
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} (not installed)"


def code_digest(classes: Sequence[type], arguments: Mapping[str, object], version: str) -> bytes:
    """SHA-256 (32 bytes) over the source of `classes`, the construction arguments and the package version.

    A class whose source is not at hand (defined interactively, or compiled) stands in with its qualified name.
    Arguments that JSON does not know enter as their repr.
    """
    digest = hashlib.sha256(b"temper.environment.v1\n")
    for part in (version, json.dumps(arguments, sort_keys=True, default=repr), *map(_source, classes)):
        encoded = part.encode()
        digest.update(b"%d\n" % len(encoded) + encoded)
    return digest.digest()


def _source(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"
