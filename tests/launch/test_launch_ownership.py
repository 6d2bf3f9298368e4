"""The packages that are imported are ours."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import launch
from launch.errors import ForeignPackageError
from launch.ownership import PACKAGES, check_packages


def test_ours_are_ours() -> None:
    assert check_packages() == Path(launch.__file__).resolve().parent.parent


@pytest.mark.parametrize("found", [None, "/elsewhere/safety/__init__.py"])
def test_a_missing_or_foreign_package(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    real = importlib.util.find_spec

    def find(name: str) -> ModuleSpec | None:
        if name != "safety":
            return real(name)
        return None if found is None else ModuleSpec("safety", None, origin=found)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ForeignPackageError, match=r"package 'safety' is (missing|found at /elsewhere/safety)"):
        check_packages()


def test_checking_imports_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(PACKAGES) - {"launch"}:
        monkeypatch.delitem(sys.modules, name, raising=False)
    check_packages()
    assert not (set(PACKAGES) - {"launch"}) & set(sys.modules)
