"""The replay settings: defaults hold, and settings that contradict each other are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from replay.config import ReplayConfig, check_config, table_specs
from replay.settings import SettingError


def test_defaults_are_valid_and_every_field_is_a_setting() -> None:
    check_config(ReplayConfig())
    assert all(field.metadata["meaning"] for field in dataclasses.fields(ReplayConfig))


@pytest.mark.parametrize("name", ["fresh_unconsumed_max", "uniform_min_size"])
def test_what_retention_would_evict_first_is_refused(name: str) -> None:
    changes: dict[str, Any] = {"records_max": 100, "fresh_unconsumed_max": 10, name: 101}
    config = ReplayConfig(**changes)
    with pytest.raises(SettingError, match=rf"replay\.{name} = 101 exceeds replay\.records_max = 100"):
        check_config(config)


def test_tables_are_fresh_uniform_and_those_asked_for() -> None:
    config = ReplayConfig(
        fresh_unconsumed_max=9, tables=("prioritised per exponent=0.7", "curated good filter='lane == 1'")
    )
    check_config(config)
    fresh, uniform, prioritised, curated = table_specs(config)
    assert (fresh.kind, fresh.error_buffer) == ("fresh", 9)
    assert uniform.kind == "uniform"
    assert (prioritised.name, prioritised.priority_exponent) == ("per", 0.7)
    assert curated.filter == "lane == 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lifo last", "lifo"),
        ("uniform uniform", "names 'uniform' more than once"),
        ("curated good filter='stepz > 1'", "stepz"),
        ("stratified s", "by"),
    ],
)
def test_tables_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message) as error:
        check_config(ReplayConfig(tables=(text,)))
    assert "replay.tables" in str(error.value)


def test_bounds_apply() -> None:
    with pytest.raises(SettingError, match=r"replay\.store = 'tape' is out of range: must be one of lmdb, memory"):
        check_config(ReplayConfig(store="tape"))
