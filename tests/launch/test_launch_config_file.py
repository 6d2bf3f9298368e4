"""config.toml: whole, commented, and the same config when read back."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.config_file import CONFIG_BYTES_MAX, config_digest, read_config, to_toml, write_config
from launch.errors import ConfigFileError
from launch.recipes import RECIPES, make_recipe
from launch.settings_tree import leaves
from replay.settings import SettingError


@pytest.mark.parametrize("recipe", [*RECIPES, "gym:Acrobot-v1"])
def test_a_recipe_survives_the_file(recipe: str, tmp_path: Path) -> None:
    config = make_recipe(recipe)
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config


def test_changed_values_of_every_kind_survive(tmp_path: Path) -> None:
    config = make_recipe("cartpole")
    config = replace(
        config,
        seed=7,
        network=replace(config.network, hidden_sizes=(1, 2, 3)),
        environment=replace(config.environment, name='gym:a "b"\\c\u00e9\U0001f600\x7f'),
        learner=replace(config.learner, candidate_return_min=float("-inf"), learning_rate=1e-7),
        replay=replace(config.replay, signal_totals=()),
    )
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config


@given(name=st.text(max_size=20), seed=st.integers(0, 2**31 - 1), rate=st.floats(1e-300, 1e300))
def test_toml_text_reads_back(name: str, seed: int, rate: float) -> None:
    config = make_recipe("cartpole")
    config = replace(
        config,
        seed=seed,
        environment=replace(config.environment, name=name),
        learner=replace(config.learner, learning_rate=rate),
    )
    tree = tomllib.loads(to_toml(config))
    assert (tree["environment"]["name"], tree["seed"], tree["learner"]["learning_rate"]) == (name, seed, rate)


def test_every_setting_stands_under_its_meaning() -> None:
    config = make_recipe("cartpole")
    lines = to_toml(config).splitlines()
    for leaf in leaves(config):
        name = leaf.key.rpartition(".")[2]
        above = [lines[index - 1] for index, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert any(leaf.meaning in line for line in above), leaf.key


def test_what_a_file_leaves_out_comes_from_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('recipe = "catch"\n[learner]\nlearning_rate = 1\n')
    config = read_config(path)
    expected = make_recipe("catch")
    assert config == replace(expected, learner=replace(expected.learner, learning_rate=1.0))
    assert type(config.learner.learning_rate) is float


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe = ", "is not TOML"),
        ("seed = 1", 'no recipe = "NAME" line'),
        ('recipe = "cartpol"', "no recipe 'cartpol'; did you mean 'cartpole'?"),
        ('recipe = "catch"\n[learner]\nlerning_rate = 1.0', "did you mean 'learner.learning_rate'?"),
        ('recipe = "catch"\n[learner.deep]\nx = 1', "no setting 'learner.deep.x'"),
        ('recipe = "catch"\n[network]\nhidden_sizes = 64', "network.hidden_sizes = 64 is not an array"),
    ],
)
def test_a_file_that_is_not_ours(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigFileError) as raised:
        read_config(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("line", ["batch_size = true", "batch_size = 1.0", 'batch_size = "1"', "batch_size = 0"])
def test_a_mistyped_or_excessive_value(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'recipe = "catch"\n[learner]\n{line}\n')
    with pytest.raises(SettingError, match=r"learner\.batch_size"):
        read_config(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, said in (
        (huge, "larger than"),
        (binary, "cannot be read"),
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(ConfigFileError, match=said):
            read_config(path)


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    write_config(make_recipe("catch"), path)
    assert config_digest(path) == hashlib.sha256(path.read_bytes()).digest()


def test_writing_leaves_nothing_unfinished(tmp_path: Path) -> None:
    write_config(make_recipe("catch"), tmp_path / "config.toml")
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]
