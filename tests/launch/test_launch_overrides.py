"""`--set key=value` on the real tree of settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.config import RunConfig
from launch.errors import OverrideError
from launch.overrides import apply_overrides, parse_value
from launch.settings_tree import format_value, leaves
from replay.settings import SettingError


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig(recipe="test")


def test_values_are_read_in_the_type_of_their_setting(config: RunConfig) -> None:
    changed = apply_overrides(
        config,
        [
            "learner.batch_size=16",
            "learner.learning_rate=3e-4",
            "network.hidden_sizes=32,16",
            "network.activation=relu",
        ],
    )
    assert changed.learner.batch_size == 16
    assert changed.learner.learning_rate == 3e-4
    assert changed.network.hidden_sizes == (32, 16)
    assert changed.network.activation == "relu"
    assert changed.replay == config.replay


def test_later_assignments_win(config: RunConfig) -> None:
    assert apply_overrides(config, ["seed=1", "seed=2"]).seed == 2


def test_value_may_contain_an_equals_sign(config: RunConfig) -> None:
    assert apply_overrides(config, ["environment.name=gym:a=b"]).environment.name == "gym:a=b"


@pytest.mark.parametrize(
    ("text", "expected", "value"),
    [
        ("5_000_000", int, 5_000_000),
        ("-inf", float, float("-inf")),
        ("2", float, 2.0),
        ("TRUE", bool, True),
        ("false", bool, False),
        ("", tuple[int, ...], ()),
        ("(64, 64)", tuple[int, ...], (64, 64)),
        ("[0.5]", tuple[float, ...], (0.5,)),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("[a, b]", tuple[str, ...], ("a", "b")),
        ("['a, b', \"c\"]", tuple[str, ...], ("a, b", "c")),
        ("[]", tuple[str, ...], ()),
        ("", str, ""),
    ],
)
def test_parse_value(text: str, expected: object, value: object) -> None:
    parsed = parse_value("key", text, expected)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("learner.lerning_rate=1", "did you mean 'learner.learning_rate'?"),
        ("learning_rate=1", "did you mean 'learner.learning_rate'?"),
        ("optimizer.learning_rate=1", "did you mean 'learner.learning_rate'?"),
        ("qqqqqqqq=1", "temper train --help lists all settings"),
        ("recipe=catch", "no setting 'recipe'"),
        ("learner=1", "no setting 'learner'"),
        ("learner.batch_size", "not of the form key=value"),
        ("learner.batch_size=big", "learner.batch_size = 'big' is not an integer"),
        ("learner.batch_size=1.5", "learner.batch_size = '1.5' is not an integer"),
        ("learner.learning_rate=fast", "learner.learning_rate = 'fast' is not a number"),
        ("network.hidden_sizes=64,big", "network.hidden_sizes = 'big' is not an integer"),
    ],
)
def test_what_cannot_be_applied_is_said_clearly(config: RunConfig, assignment: str, said: str) -> None:
    with pytest.raises(OverrideError) as raised:
        apply_overrides(config, [assignment])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("assignment", ["learner.discount=1.5", "actor.inference=gpu", "learner.learning_rate=nan"])
def test_out_of_range_is_the_settings_own_error(config: RunConfig, assignment: str) -> None:
    with pytest.raises(SettingError, match=assignment.partition("=")[0]):
        apply_overrides(config, [assignment])


def test_an_ambiguous_truth_value_is_refused() -> None:
    with pytest.raises(OverrideError, match="write true or false"):
        parse_value("key", "1", bool)


def test_every_setting_can_be_written_back_as_an_override(config: RunConfig) -> None:
    assignments = [f"{leaf.key}={format_value(leaf.value)}" for leaf in leaves(config)]
    assert apply_overrides(RunConfig(recipe="test"), assignments) == config


@given(st.lists(st.integers(min_value=-(10**9), max_value=10**9), max_size=5))
def test_tuples_survive_formatting(values: list[int]) -> None:
    assert parse_value("key", format_value(tuple(values)), tuple[int, ...]) == tuple(values)
