"""The command line as tyro reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.arguments import Actor, Doctor, PolicyServe, PolicyShow, Status, Train
from launch.errors import BadInput
from launch.parser import parse


def test_train_takes_settings_in_any_grouping() -> None:
    command = parse(["train", "catch", "--set", "a=1", "b=2", "--set", "c=3", "--run-dir", "x", "--resume"])
    assert command == Train("catch", (("a=1", "b=2"), ("c=3",)), "x", True)


def test_limits() -> None:
    assert parse(["train", "catch", "--max-seconds", "2.5", "--max-env-steps", "7"]) == Train(
        "catch", max_seconds=2.5, max_env_steps=7
    )


def test_nested_commands() -> None:
    assert parse(["policy", "show", "runs/x", "--release", "2"]) == PolicyShow(Path("runs/x"), 2)
    serve = parse(["policy", "serve", "--policy", "h:1", "--trust", "k", "--run-id", "r", "--listen", "h:2"])
    assert serve == PolicyServe("h:1", Path("k"), "r", "h:2", "jax")


def test_options_with_values_that_look_like_settings() -> None:
    command = parse(
        ["actor", "--config", "c", "--replay", "unix:/r", "--policy", "unix:/p", "--trust", "k", "--run-id", "r"]
    )
    assert command == Actor(Path("c"), "unix:/r", "unix:/p", Path("k"), "r")


def test_defaults() -> None:
    assert parse(["doctor"]) == Doctor(Path("runs"))
    assert parse(["status", "x", "--json"]) == Status(Path("x"), True)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nothing"],
        ["train"],
        ["train", "a", "b"],
        ["train", "a", "--max-env-steps", "1.5"],
        ["policy"],
        ["replay", "x"],
    ],
)
def test_a_complaint_is_one_clean_line(args: list[str]) -> None:
    with pytest.raises(BadInput) as raised:
        parse(args)
    message = str(raised.value)
    assert message.endswith("--help shows what there is)")
    assert not set("\n│╭╰─") & set(message)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("safety rotate", "missing: RUN_DIR (The run directory), --why STR (Why; the ledger keeps it)"),
        ("safety explain newest", "missing: --run-dir DIR (The run directory)"),
        ("safety verdicts x --limit few", "--limit 'few' is not a whole number"),
        ("train catch --max-seconds soon", "--max-seconds 'soon' is not a number"),
    ],
)
def test_what_is_missing_or_no_number_is_named(line: str, said: str) -> None:
    words = line.split()
    command = " ".join(words[: 1 if words[0] == "train" else 2])
    with pytest.raises(BadInput) as raised:
        parse(words)
    assert str(raised.value) == f"{said} (temper {command} --help shows what there is)"


def test_help_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(["train", "--help"])
    assert raised.value.code in (0, None)
    assert "--max-env-steps" in capsys.readouterr().out
