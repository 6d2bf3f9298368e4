"""The named runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.environments.catalog import make_vector
from launch.config import check_run
from launch.errors import UnknownRecipe
from launch.recipes import RECIPES, describe, is_config_file, make_recipe
from policies.spec import PolicySpec


@pytest.mark.parametrize("name", [*RECIPES, "gym:Acrobot-v1"])
def test_a_recipe_is_consistent_and_its_network_fits_its_environment(name: str) -> None:
    config = make_recipe(name)
    check_run(config)
    assert config.recipe == name
    environment = make_vector(config.environment, 1)
    try:
        spec = environment.spec
        PolicySpec(config.network, spec.observation, spec.action)
    finally:
        environment.close()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_describes_itself_and_can_end(name: str) -> None:
    config = make_recipe(name)
    assert describe(name).endswith(".")
    assert config.stop.target_return < float("inf") or config.stop.env_steps_max or config.stop.seconds_max


@pytest.mark.parametrize(
    ("name", "guess"), [("cartpol", "cartpole"), ("minatar-brekout", "minatar-breakout"), ("Catch", "catch")]
)
def test_an_unknown_recipe_is_answered_with_the_known_ones(name: str, guess: str) -> None:
    with pytest.raises(UnknownRecipe) as raised:
        make_recipe(name)
    message = str(raised.value)
    assert f"did you mean {guess!r}?" in message
    assert all(known in message for known in (*RECIPES, "gym:ID"))


@pytest.mark.parametrize("name", ["", "gym:", "qqqq"])
def test_no_guess_where_nothing_is_near(name: str) -> None:
    with pytest.raises(UnknownRecipe) as raised:
        make_recipe(name)
    assert "did you mean" not in str(raised.value)


def test_a_recipe_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    (tmp_path / "catch").write_text("")
    assert is_config_file("runs/x/config.toml")
    assert is_config_file("mine")
    assert not is_config_file("catch")
    assert not is_config_file("gym:CartPole-v1")
