"""Which runs a sweep consists of: every combination of the varied settings, each with every seed, and their names.

Starts nothing and touches no file.

Exceptions: GridError; launch.errors.OverrideError and replay.settings.SettingError for a value that a setting cannot
take.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launch.config import RunConfig
from launch.errors import BadInput, OverrideError
from launch.overrides import apply_overrides, nearest, parse_value
from launch.settings_tree import Leaf, format_value, leaves

BASE = "base"
"""Name of the one setting of a sweep over seeds alone."""

RUNS_MAX = 1000
"""A sweep of more runs than this is a slip of the keyboard."""

_SEEDS_END = 2**31
_NAME_CHARACTERS_MAX = 100


class GridError(BadInput):
    """No runs, too many, or some of them twice."""


@dataclass(frozen=True)
class Setting:
    """One combination of varied settings.

    Attributes:
      name: of its directory: the varied keys and their values, readable, the same for the same values.
      assignments: "key=value" as --set takes them.
    """

    name: str
    assignments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        """Its directory in that of the sweep."""
        return f"{self.setting.name}/seed-{self.seed}"

    @property
    def assignments(self) -> tuple[str, ...]:
        """What is set in it beyond what all runs have."""
        return (*self.setting.assignments, f"seed={self.seed}")


def seeds_of(count: int, listed: str) -> tuple[int, ...]:
    """The seeds: 1 to `count`, or those listed with commas between them where `listed` is not "".

    Raises:
      GridError: none, one twice, or one that is no seed.
    """
    if not listed:
        if not 1 <= count <= RUNS_MAX:
            raise GridError(f"--seeds {count} is outside of 1 to {RUNS_MAX}")
        return tuple(range(1, count + 1))
    seeds = []
    for text in listed.split(","):
        if not text.strip().isdecimal() or int(text) >= _SEEDS_END:
            raise GridError(f"--seed-list {listed!r}: {text.strip()!r} is not an integer from 0 to {_SEEDS_END - 1}")
        seeds.append(int(text))
    if len(set(seeds)) < len(seeds):
        raise GridError(f"--seed-list {listed!r} has a seed twice")
    return tuple(seeds)


def settings_of(base: RunConfig, varied: Iterable[str], fixed: Iterable[str] = ()) -> tuple[Setting, ...]:
    """Every combination of the varied values, the last key changing fastest; BASE alone where nothing is varied.

    Args:
      base: the settings that all runs share; each combination is checked with them.
      varied: "key=value,value,..." each; a value that has commas in it stands in brackets.
      fixed: "key=value" of --set, which cannot be varied too.

    Raises:
      GridError, OverrideError, SettingError: see there.
    """
    known = {leaf.key: leaf for leaf in leaves(base)}
    taken = {text.partition("=")[0].strip() for text in fixed}
    axes: dict[str, list[str]] = {}
    for text in varied:
        key, values = _axis(text, known)
        if key in axes:
            raise GridError(f"--vary {key} is there twice: write its values in one, with commas between them")
        if key in taken:
            raise GridError(f"{key} is in --set and in --vary: leave it out of one of them")
        axes[key] = values
    if "seed" in taken:
        raise GridError("the seeds of a sweep are given by --seeds or --seed-list, not by --set seed=")
    combinations = [tuple(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(combinations) > RUNS_MAX:
        raise GridError(f"{len(combinations)} combinations of settings are more than {RUNS_MAX}")
    short = _short_names(tuple(axes))
    settings = [_setting(combination, short) for combination in combinations]
    for setting in settings:
        apply_overrides(base, setting.assignments)
    return tuple(settings)


def members_of(settings: Sequence[Setting], seeds: Sequence[int]) -> tuple[Member, ...]:
    """Every setting with every seed; all settings with the first seed first, so that a part of it compares them.

    Raises:
      GridError: they are more than RUNS_MAX.
    """
    if len(settings) * len(seeds) > RUNS_MAX:
        raise GridError(f"{len(settings)} settings with {len(seeds)} seeds each are more than {RUNS_MAX} runs")
    return tuple(Member(setting, seed) for seed in seeds for setting in settings)


def _axis(text: str, known: dict[str, Leaf]) -> tuple[str, list[str]]:
    key, separator, values = (part.strip() for part in text.partition("="))
    if not separator:
        raise OverrideError(f"--vary {text!r} is not of the form key=value,value,...")
    if key == "seed":
        raise GridError("the seeds of a sweep are given by --seeds or --seed-list, not by --vary seed=")
    if key not in known:
        raise OverrideError(f"no setting {key!r}; {nearest(key, list(known))}")
    found = [_canonical(known[key], value) for value in _split(values)]
    if not found:
        raise GridError(f"--vary {text!r} has no values: the grid would be empty")
    if len(set(found)) < len(found):
        raise GridError(f"--vary {text!r} has a value twice")
    return key, found


def _split(values: str) -> list[str]:
    """At the commas that are in no brackets."""
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _canonical(leaf: Leaf, text: str) -> str:
    """The value as --set takes it, written in one way: 1e-3 and 0.001 are the same."""
    value = parse_value(leaf.key, text, leaf.type)
    written = format_value(value)
    # Not where an element has a comma in it.
    return written if parse_value(leaf.key, written, leaf.type) == value else text


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or all of it where two keys end alike."""
    lasts = [key.rpartition(".")[2] for key in keys]
    return {key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)}


def _setting(combination: tuple[tuple[str, str], ...], short: dict[str, str]) -> Setting:
    assignments = tuple(f"{key}={value}" for key, value in combination)
    plain = "_".join(f"{short[key]}={value}" for key, value in combination) or BASE
    name = "".join(each if each.isascii() and (each.isalnum() or each in "=-_.+") else "-" for each in plain)
    if name != plain or len(name) > _NAME_CHARACTERS_MAX:
        # What two values lose may be all that told them apart.
        digest = hashlib.sha256("\n".join(assignments).encode()).hexdigest()[:8]
        name = f"{name[: _NAME_CHARACTERS_MAX - 9]}-{digest}"
    return Setting(name, assignments)
