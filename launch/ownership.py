"""Checks at start-up that the packages imported are Temper's own.

The import names are short, and one of them, `safety`, is also the name of a package on PyPI. Whoever has that one
first on the path would train behind a gate that is not ours, so this is checked before anything runs.

Exceptions: launch.errors.ForeignPackageError.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from launch.errors import ForeignPackageError

PACKAGES = ("protos", "replay", "policies", "actors", "safety", "learner", "launch")
"""Temper's top-level packages, each importing only from those before it."""


def check_packages() -> Path:
    """Returns the directory all of Temper's packages were found in, without importing them.

    Raises:
      ForeignPackageError: one of them is missing, or resolves to another directory.
    """
    root = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ForeignPackageError(f"package {name!r} is missing beside {root / 'launch'}: reinstall temper")
        found = Path(spec.origin).resolve().parent
        if found != root / name:
            raise ForeignPackageError(
                f"package {name!r} is found at {found}, not at {root / name}: another package of that name comes first "
                "on the import path; uninstall it, or run from another directory"
            )
    return root
