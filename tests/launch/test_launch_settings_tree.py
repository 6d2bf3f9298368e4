"""The dotted view of a config dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from launch.config import RunConfig
from launch.settings_tree import format_value, leaves, replace_at
from replay.settings import setting


@dataclass(frozen=True)
class Inner:
    size: int = setting(3, "how large", low=1)


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float = setting(0.5, "how often")
    inner: Inner = field(default_factory=Inner)


def test_leaves_are_the_settings_in_declaration_order_and_nothing_else() -> None:
    found = [(leaf.key, leaf.type, leaf.value) for leaf in leaves(Outer("identity"))]
    assert found == [("rate", float, 0.5), ("inner.size", int, 3)]


def test_leaf_tells_its_meaning_and_bounds() -> None:
    rate, size = leaves(Outer("x"))
    assert (rate.meaning, rate.bounds) == ("how often", "")
    assert (size.meaning, size.bounds) == ("how large", "in [1, inf)")


def test_replace_at_changes_one_setting_of_a_copy() -> None:
    before = Outer("x")
    after = replace_at(before, "inner.size", 9)
    assert (after.inner.size, after.rate, before.inner.size) == (9, 0.5, 3)


def test_replace_at_refuses_an_unknown_key() -> None:
    with pytest.raises(AttributeError):
        replace_at(Outer("x"), "outer.size", 1)


@pytest.mark.parametrize(
    ("value", "text"), [((64, 32), "64,32"), ((), ""), (True, "true"), (1e-5, "1e-05"), ("relu", "relu")]
)
def test_format_value(value: object, text: str) -> None:
    assert format_value(value) == text


def test_every_setting_of_a_run_has_a_meaning() -> None:
    found = list(leaves(RunConfig(recipe="x")))
    assert len(found) > 50
    assert all(leaf.meaning for leaf in found)
    assert len({leaf.key for leaf in found}) == len(found)
