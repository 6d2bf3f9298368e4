"""Suites as files: TOML that people write, read into a `SuiteSpec`, every mistake told in one line.

    name = "cartpole-hard"            # of the suite
    action_selection = "sample"       # all but the names may be left out: it comes from the run's settings
    [severity]                        # cost of a step above which it is such an event; left out: never, severe: 0
    minor = 0.0
    severe = 1.0
    [weights]                         # what an episode costs by its worst event, for risk_budget
    minor = 0.1
    severe = 1.0
    [criteria]                        # error rate, patience, plants; and limits for all slices
    error_rate = 0.05
    violation_rate_max = 0.05
    [[slices]]
    name = "as-trained"
    [[slices]]
    name = "late-and-blind"
    perturbations = [{ kind = "action_delay", amount = 2 }, { kind = "observation_dropout", amount = 0.1 }]
    episodes_max = 600
    [slices.environment]              # settings of the environment that are other than the run's
    cart_margin = 1.5

A key that is none is an error, never ignored.

Exceptions: SuiteFileError (a ValueError).
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from actors.config import EnvironmentConfig
from replay.settings import SettingError, validate
from safety.config import SafetyConfig
from safety.statistics.parameters import ParameterError
from safety.statistics.risk_budget import SeverityWeights
from safety.suites.spec import (
    PERTURBATIONS,
    Perturbation,
    SeverityScale,
    SliceLimits,
    SliceSpec,
    SuiteSpec,
    suite_from_settings,
)
from safety.trials.attainability import require_attainable

SUITE_BYTES_MAX = 1 << 20
"""A larger file is not a suite."""

_LIMITS = tuple(field.name for field in dataclasses.fields(SliceLimits))
_RULE = ("error_rate", "error_schedule", "patience", "planted_violations", "planted_clean", "sensitivity_min")
_ENVIRONMENT = tuple(field.name for field in dataclasses.fields(EnvironmentConfig))
_CLASSES = ("minor", "major", "severe")

Config = TypeVar("Config", SafetyConfig, EnvironmentConfig)


class SuiteFileError(ValueError):
    """A suite that cannot be read, or that makes no sense; the message is one line and names the file."""


def make_suite(config: SafetyConfig, environment: EnvironmentConfig) -> SuiteSpec:
    """The suite of a run: its file where the settings name one, else the one slice that they describe.

    Raises:
      SuiteFileError: see there.
      ParameterError, SettingError: settings that make no suite, or one that nothing can pass.
    """
    if config.suite:
        return read_suite(Path(config.suite), config, environment)
    suite = suite_from_settings(config, environment)
    require_attainable(suite)
    return suite


def read_suite(path: Path, config: SafetyConfig, environment: EnvironmentConfig) -> SuiteSpec:
    """Reads and checks a suite file; otherwise as `parse_suite`."""
    try:
        if path.exists() and not path.is_file():
            # A pipe would be waited for.
            raise SuiteFileError(f"suite file {path} cannot be read: it is no regular file")
        with path.open("rb") as file:
            data = file.read(SUITE_BYTES_MAX + 1)
    except OSError as error:
        raise SuiteFileError(f"suite file {path} cannot be read: {error.strerror or error}") from None
    if len(data) > SUITE_BYTES_MAX:
        raise SuiteFileError(f"{path}: larger than {SUITE_BYTES_MAX} bytes, so it is not a suite")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SuiteFileError(f"{path} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from None
    return parse_suite(text, str(path), config, environment)


def parse_suite(text: str, origin: str, config: SafetyConfig, environment: EnvironmentConfig) -> SuiteSpec:
    """The suite that a text describes.

    Args:
      text: TOML.
      origin: where it comes from, for messages.
      config: of the run; what the text leaves out comes from here.
      environment: of the run; slices change settings of it.

    Raises:
      SuiteFileError: see there.
    """
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: a number of thousands of digits is a plain ValueError.
        raise SuiteFileError(f"{origin} is not TOML: {' '.join(str(error).split())}") from None
    try:
        return _suite(tree, config, environment)
    except (_Mistake, SettingError, ParameterError) as error:
        raise SuiteFileError(f"{origin}: {error}") from None


class _Mistake(Exception):
    """What is wrong with a suite, without the name of its file."""


def _suite(tree: Mapping[str, Any], config: SafetyConfig, environment: EnvironmentConfig) -> SuiteSpec:
    _check_keys(tree, "", ("name", "action_selection", "severity", "weights", "criteria", "slices"))
    selection = {"action_selection": tree["action_selection"]} if "action_selection" in tree else {}
    config = _changed(config, selection, "")
    criteria = _table(tree, "criteria", "")
    _check_keys(criteria, "criteria", (*_RULE, *_LIMITS))
    config = _changed(config, criteria, "criteria")
    slices = tree.get("slices", [])
    if not isinstance(slices, list) or not all(isinstance(each, dict) for each in slices):
        raise _Mistake("slices is not an array of tables; each slice begins with a line [[slices]]")
    if not slices:
        raise _Mistake("it has no slices, so nothing would be evaluated; each begins with a line [[slices]]")
    suite = SuiteSpec(
        name=_name(tree, "the suite"),
        slices=tuple(_slice(each, number, config, environment) for number, each in enumerate(slices, 1)),
        severity=_severity(_table(tree, "severity", "")),
        weights=_weights(_table(tree, "weights", "")),
        action_selection=config.action_selection,
        error_rate=config.error_rate,
        error_schedule=config.error_schedule,
        patience=config.patience,
        planted_violations=config.planted_violations,
        planted_clean=config.planted_clean,
        sensitivity_min=config.sensitivity_min,
    )
    require_attainable(suite)
    return suite


def _slice(tree: Mapping[str, Any], number: int, config: SafetyConfig, environment: EnvironmentConfig) -> SliceSpec:
    name = _name(tree, f"slice {number}")
    where = f"slices.{name}"
    _check_keys(tree, where, ("name", "environment", "perturbations", *_LIMITS))
    settings = _changed(config, {key: value for key, value in tree.items() if key in _LIMITS}, where)
    changes = _table(tree, "environment", f"{where}.")
    _check_keys(changes, f"{where}.environment", _ENVIRONMENT)
    limits = SliceLimits(**{limit: getattr(settings, limit) for limit in _LIMITS})
    perturbations = _perturbations(tree.get("perturbations", []), f"{where}.perturbations")
    return SliceSpec(name, _changed(environment, changes, f"{where}.environment"), perturbations, limits)


def _perturbations(trees: Any, where: str) -> tuple[Perturbation, ...]:
    if not isinstance(trees, list) or not all(isinstance(each, dict) for each in trees):
        raise _Mistake(f'{where} is not an array of tables such as {{ kind = "action_noise", amount = 0.1 }}')
    made = []
    for tree in trees:
        _check_keys(tree, where, ("kind", "amount"))
        if set(tree) != {"kind", "amount"}:
            raise _Mistake(f"{where}: each needs both kind and amount, one has {', '.join(tree) or 'nothing'}")
        kind = tree["kind"]
        if kind not in PERTURBATIONS:
            raise _Mistake(f"{where}: no kind {kind!r}; {_nearest(str(kind), PERTURBATIONS)}")
        try:
            made.append(Perturbation(kind, _number(tree["amount"], kind)))
        except ParameterError as error:
            raise _Mistake(f"{where}: {error}") from None
    return tuple(made)


def _severity(tree: Mapping[str, Any]) -> SeverityScale:
    _check_keys(tree, "severity", _CLASSES)
    return SeverityScale(**{name: _number(value, f"severity.{name}") for name, value in tree.items()})


def _weights(tree: Mapping[str, Any]) -> SeverityWeights:
    _check_keys(tree, "weights", _CLASSES)
    given = {name: _number(value, f"weights.{name}") for name, value in tree.items()}
    minor = given.get("minor", 0.0)
    # A class that is left out weighs as much as the one below it; without any, severe events are what counts.
    major = given.get("major", minor)
    return SeverityWeights(minor, major, given.get("severe", 1.0))


def _changed(config: Config, changes: Mapping[str, Any], where: str) -> Config:
    """The settings with changes, checked; `where` is the table that has them."""
    types = typing.get_type_hints(type(config))
    # TOML keeps integers and floats apart; a person writes 1 for 1.0.
    values: dict[str, Any] = {
        key: _number(value, f"{where}.{key}") if types[key] is float and type(value) is int else value
        for key, value in changes.items()
    }
    changed = dataclasses.replace(config, **values)
    if values:
        validate(changed, f"{where}." if where else "")
    return changed


def _table(tree: Mapping[str, Any], name: str, prefix: str) -> Mapping[str, Any]:
    table = tree.get(name, {})
    if not isinstance(table, dict):
        raise _Mistake(f"{prefix}{name} = {table!r} is not a table")
    return table


def _name(tree: Mapping[str, Any], what: str) -> str:
    name = tree.get("name")
    if not isinstance(name, str):
        raise _Mistake(f'{what} has no name = "NAME" line')
    return name


def _number(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Mistake(f"{name} = {value!r} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise _Mistake(f"{name} is a whole number of {int(value).bit_length()} bits, more than any limit has") from None


def _check_keys(tree: Mapping[str, Any], where: str, known: Collection[str]) -> None:
    for key in tree:
        if key not in known:
            raise _Mistake(f"{f'{where}: ' if where else ''}no key {key!r}; {_nearest(key, known)}")


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
