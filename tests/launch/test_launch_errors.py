"""Which errors are recognised as bad input, and which extra brings which module."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from launch import errors
from launch.errors import BadInput, bad_input_types, extra_of, missing_extra

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", errors._BAD_INPUT_OF_MODULES)
def test_every_error_that_means_bad_input_exists(module: str) -> None:
    """They are named as text, so that a renamed one would otherwise go unnoticed, and become a traceback."""
    loaded = importlib.import_module(module)
    kinds = [getattr(loaded, name) for name in errors._BAD_INPUT_OF_MODULES[module]]
    assert all(issubclass(kind, Exception) for kind in kinds)
    assert set(kinds) <= set(bad_input_types())


def test_modules_that_are_not_loaded_are_not_loaded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in errors._BAD_INPUT_OF_MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert bad_input_types() == (BadInput,)
    assert not set(errors._BAD_INPUT_OF_MODULES) & set(sys.modules)


def test_every_package_of_an_extra_is_known_by_its_module() -> None:
    """So that its absence is answered with the command that installs it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras_of: dict[str, set[str]] = {}
    for extra, requirements in project["optional-dependencies"].items():
        for requirement in requirements if extra not in {"all", "dev"} else ():
            name = requirement.partition(">")[0].partition("-")[0]
            extras_of.setdefault({"pillow": "PIL"}.get(name, name), set()).add(extra)
    for name, extras in extras_of.items():
        assert extra_of(name) in extras, name


def test_a_module_of_nobody_s_is_of_no_extra() -> None:
    assert extra_of("numpy") is None
    assert extra_of("orbax.checkpoint") == "learner"


def test_several_extras_are_one_command() -> None:
    said = str(missing_extra("train", ["replay", "learner"]))
    assert said == "temper train needs the learner,replay extras: pip install 'temper[learner,replay]'"
