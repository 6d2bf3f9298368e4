"""Environments by name: what is made, and the one clear line for what cannot be."""

from __future__ import annotations

import sys

import pytest

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentUnsupported, MissingExtra, UnknownEnvironment
from actors.environments import catalog

SPOKEN = "gym:tests.actors.unsupported_environments"


@pytest.mark.parametrize("name", catalog.names())
def test_every_name_can_be_made(name: str) -> None:
    environment = catalog.make_vector(EnvironmentConfig(name=name), 2)
    assert environment.lanes == 2
    assert environment.spec.id == name
    environment.close()


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("cartpol", UnknownEnvironment, "did you mean cartpole"),
        ("minatar:brekout", UnknownEnvironment, "minatar:breakout"),
        ("zebra", UnknownEnvironment, "known are cartpole, cartpole-edge, catch, catch-memory"),
        ("minatar-cost:breakout", UnknownEnvironment, "minatar-cost:space_invaders"),
        ("gym:", UnknownEnvironment, "gym:ID"),
        ("gym:CartPol-v1", UnknownEnvironment, "did you mean CartPole-v1"),
        ("gym:no_such_module_of_mine:Thing-v0", MissingExtra, "no_such_module_of_mine"),
        (f"{SPOKEN}:SpokenActions-v0", EnvironmentUnsupported, "action space Text.*supported are Discrete"),
        (f"{SPOKEN}:SpokenObservations-v0", EnvironmentUnsupported, "Text.* among its observations; supported are Box"),
        ("gym:not an id", EnvironmentUnsupported, "cannot be made"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(name: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        catalog.make_vector(EnvironmentConfig(name=name), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "module", "package", "extra"),
    [
        ("minatar:breakout", "actors.environments.minatar", "minatar.environment", "minatar"),
        ("cartpole", "actors.environments.cartpole", "gymnasium.envs.classic_control.cartpole", "gym"),
        ("gym:CartPole-v1", "actors.environments.gymnasium_adapter", "gymnasium", "gym"),
    ],
)
def test_a_missing_extra_gives_the_install_command(
    name: str, module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'temper\[{extra}\]'"):
        catalog.make_vector(EnvironmentConfig(name=name), 1)
