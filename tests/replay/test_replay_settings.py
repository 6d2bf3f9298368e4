"""Settings: every violated bound or type is refused in the same words, whatever the config."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from replay.settings import SettingError, bounds, setting, validate


@dataclass(frozen=True)
class Inner:
    rate: float = setting(0.5, "a rate", low=0.0, below=1.0)
    sizes: tuple[int, ...] = setting((64, 64), "sizes of layers", low=1)
    names: tuple[str, ...] = setting(("a",), "some names")


@dataclass(frozen=True)
class Outer:
    count: int = setting(3, "a count", low=1, high=10)
    scale: float = setting(1.0, "a scale", above=0.0)
    kind: str = setting("red", "a colour", choices=("red", "blue"))
    loud: bool = setting(False, "whether to shout")
    inner: Inner = field(default_factory=Inner)


def test_defaults_are_valid() -> None:
    validate(Outer())


def test_an_int_is_a_float_but_not_the_other_way_round() -> None:
    validate(Outer(scale=2))
    with pytest.raises(SettingError, match=r"count = 2\.0 is not of type int"):
        validate(Outer(count=2.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count = 0 is out of range: must be in [1, 10] (a count)"),
        ({"count": 11}, "count = 11 is out of range: must be in [1, 10] (a count)"),
        ({"scale": 0.0}, "scale = 0.0 is out of range: must be in (0.0, inf) (a scale)"),
        ({"scale": float("inf")}, "scale = inf is not a finite number (a scale)"),
        ({"kind": "green"}, "kind = 'green' is out of range: must be one of red, blue (a colour)"),
        ({"count": True}, "count = True is not of type int"),
        ({"loud": 1}, "loud = 1 is not of type bool"),
        ({"scale": math.nan}, "scale = nan is not a number"),
        ({"inner": Inner(rate=1.0)}, "run.inner.rate = 1.0 is out of range: must be in [0.0, 1.0) (a rate)"),
        ({"inner": Inner(sizes=(8, 0))}, "run.inner.sizes = (8, 0) is out of range: must be in [1, inf)"),
        ({"inner": Inner(sizes=(8, "x"))}, "run.inner.sizes = 'x' is not of type int"),  # type: ignore[arg-type]
        ({"inner": Inner(names="ab")}, "run.inner.names = 'ab' is not a tuple of str"),  # type: ignore[arg-type]
    ],
)
def test_violations_name_value_and_bound(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as error:
        validate(dataclasses.replace(Outer(), **change), "run.")
    assert message.removeprefix("run.") in str(error.value)
    assert str(error.value).startswith("run.")


@pytest.mark.parametrize(
    ("name", "text"),
    [("count", "in [1, 10]"), ("scale", "in (0.0, inf)"), ("kind", "one of red, blue"), ("loud", "")],
)
def test_bounds_are_described_for_people(name: str, text: str) -> None:
    fields = {item.name: item for item in dataclasses.fields(Outer)}
    assert bounds(fields[name]) == text


def test_bounds_below_only() -> None:
    @dataclass(frozen=True)
    class Config:
        loss: float = setting(0.0, "a loss", below=1.0)

    assert bounds(dataclasses.fields(Config)[0]) == "in (-inf, 1.0)"
    with pytest.raises(SettingError):
        validate(Config(1.0))
