"""The replay settings: defaults hold, and settings that contradict each other are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from replay.config import ReplayConfig, check_config
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


def test_a_map_that_retention_would_fill_is_refused() -> None:
    config = ReplayConfig(map_bytes=2**30, payload_bytes_max=2**29)
    check_config(config)
    check_config(dataclasses.replace(config, payload_bytes_max=2**40, store="memory"))
    with pytest.raises(SettingError, match=rf"map_bytes = {2**30} is less than twice replay\.payload_bytes_max"):
        check_config(dataclasses.replace(config, payload_bytes_max=2**29 + 1))


def test_bounds_apply() -> None:
    with pytest.raises(SettingError, match=r"replay\.store = 'tape' is out of range: must be one of lmdb, memory"):
        check_config(ReplayConfig(store="tape"))
