"""What pyproject.toml asks for and what requirements/ pins: read and normalised for the architecture tests."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.source_tree import REPOSITORY

PIN_FILES = tuple(sorted((REPOSITORY / "requirements").glob("*.txt")))


@functools.cache
def declared() -> dict[str, tuple[Requirement, ...]]:
    """Requirements of pyproject.toml by extra; the core ones under "". References to our own extras are left out."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: tuple(found for text in texts if (found := Requirement(text)).name != "temper")
        for extra, texts in groups.items()
    }


def declared_distributions(extras: Iterable[str]) -> set[str]:
    """Names of the distributions that the core and the named extras ask for, as Bazel spells them."""
    return {
        canonicalize_name(requirement.name).replace("-", "_")
        for extra in ("", *extras)
        for requirement in declared()[extra]
    }


def installed_closure(*extras: str) -> set[str]:
    """Every distribution that the core and the named extras bring, following the installed metadata.

    Raises importlib.metadata.PackageNotFoundError where one of them is not installed.
    """
    waiting = [requirement for extra in ("", *extras) for requirement in declared()[extra]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        children = map(Requirement, importlib.metadata.requires(requirement.name) or ())
        waiting += [child for child in children if _applies(child, requirement.extras)]
    return {name for name, _ in seen}


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def pinned(path: Path) -> dict[str, str]:
    """Versions by distribution in one file of requirements/."""
    found = re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}
