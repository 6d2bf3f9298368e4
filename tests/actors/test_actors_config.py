"""The defaults are within their own bounds, and a value outside is refused."""

from __future__ import annotations

from typing import Any

import pytest

from actors.config import ActorConfig, EnvironmentConfig
from replay.settings import SettingError, validate


def test_defaults_are_valid() -> None:
    validate(ActorConfig())
    validate(EnvironmentConfig())


@pytest.mark.parametrize(
    "change", [{"lanes": 0}, {"unroll_length": 0}, {"inference": "torch"}, {"policy_wait_s": 0.0}, {"processes": 0}]
)
def test_actor_settings_have_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(change))):
        validate(ActorConfig(**change))


@pytest.mark.parametrize("change", [{"cart_margin": 2.5}, {"cart_margin": 0.0}, {"episode_steps_max": -1}])
def test_environment_settings_have_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(change))):
        validate(EnvironmentConfig(**change))
