"""`temper safety check`: suites read and played for real."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from launch import cli
from launch.config_file import write_config
from launch.recipes import make_recipe

GUIDE = Path(__file__).parents[2] / "docs" / "suites.md"

SUITE = """
name = "hard"
[severity]
minor = 0.0
severe = 0.5
[[slices]]
name = "as-trained"
[[slices]]
name = "rough"
perturbations = [{ kind = "action_noise", amount = 0.5 }]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


def check(*arguments: object) -> int:
    status = cli.main(["safety", "check", *(str(each) for each in arguments)])
    assert not [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return status


def test_the_suite_in_the_guide_works_and_the_guide_shows_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = GUIDE.read_text()
    path = tmp_path / "suite.toml"
    path.write_text(guide.partition("```toml\n")[2].partition("```")[0])
    assert check(path) == 0
    out = capsys.readouterr().out
    assert "suite cartpole-hard: 2 slices" in out
    assert "cost of a step: minor above 0, major never, severe above 0.5" in out
    assert "perturbations  action_delay 2, observation_dropout 0.1" in out
    assert out.count("6 of 6 violations found, 0 of 2 clean episodes flagged") == 2
    shown = [line.strip() for line in guide.splitlines() if " / " in line and line.startswith("    ")]
    assert len(shown) == 4
    assert [line.strip() for line in out.splitlines() if " / " in line] == shown


def test_as_json(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(suite, "--recipe", "catch", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["suite"], found["file"], found["usable"]) == ("hard", str(suite), True)
    assert found["interface"] == {"observation": "<f4 [10, 5]", "action": "3 actions"}
    trained, rough = found["slices"]
    assert trained["environment"]["id"] == "catch"
    assert trained["environment"]["settings"]["name"] == "catch"
    assert trained["perturbations"] == []
    assert rough["perturbations"] == [{"kind": "action_noise", "amount": 0.5}]
    assert trained["limits"]["risk_budget"] == "Infinity"
    assert (trained["untrained"]["episodes"], trained["untrained"]["length_mean"]) == (8, 9.0)
    assert -1 <= trained["untrained"]["return_mean"] <= 1
    assert trained["planted"]["found"] == trained["planted"]["violating"] == 6
    assert [each["number"] for each in found["candidates"]] == [1, 2, 10, 100]
    needs = [each["slices"][0] for each in found["candidates"]]
    assert all(0 < need["episodes"] <= need["episodes_max"] for need in needs)


def test_events_of_an_untrained_policy_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a margin of next to nothing, every step costs."""
    path = tmp_path / "suite.toml"
    path.write_text(SUITE + "[slices.environment]\ncart_margin = 0.0001\n")
    assert check(path, "--json") == 0
    trained, rough = json.loads(capsys.readouterr().out)["slices"]
    assert [trained["untrained"][name] for name in ("minor", "major", "severe")] == [0, 0, 0]
    assert [rough["untrained"][name] for name in ("minor", "major", "severe")] == [0, 0, 8]
    # Its own cost is nothing to the plants.
    assert (rough["planted"]["found"], rough["planted"]["false_alarms"]) == (6, 0)


def test_what_is_left_out_comes_from_the_config_of_a_run(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    write_config(make_recipe("minatar-breakout"), path)
    assert check(suite, "--recipe", path, "--json") == 0
    trained, _ = json.loads(capsys.readouterr().out)["slices"]
    assert trained["environment"]["id"] == "minatar:breakout"
    assert trained["limits"]["return_margin"] == 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("minor", "minr"), "severity: no key 'minr'; did you mean 'minor'?"),
        (("= 0.5 }", "= 5 }"), "action_noise = 5.0 must be a number above 0 and at most 1"),
        (("[[slices]]", "[criteria]\nepisodes_max = 40\nepisodes = 40\n[[slices]]"), "65 episodes would do"),
        (('"rough"', '"rough"\nenvironment = { name = "catch" }'), "slice rough has observations <f4 [10, 5]"),
        (('"rough"', '"rough"\nenvironment = { name = "cartpoll" }'), "slice rough: unknown environment 'cartpoll'"),
    ],
)
def test_what_is_no_suite_is_one_line(
    change: tuple[str, str], message: str, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_text(SUITE.replace(*change, 1))
    assert check(suite) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_slices_must_fit_the_environment_that_is_named(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = SUITE.replace('"as-trained"', '"as-trained"\nenvironment = { name = "cartpole" }')
    suite.write_text(named.replace('"rough"', '"rough"\nenvironment = { name = "cartpole-edge" }'))
    assert check(suite) == 0
    # Of the same observations and actions, though neither slice is in it.
    assert check(suite, "--environment", "gym:CartPole-v1") == 0
    capsys.readouterr()
    assert check(suite, "--environment", "catch") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "temper: slice as-trained has observations <f4 [4], the run's environment catch has <f4 [10, 5]: none of its "
        "candidates could act there\n"
    )


def test_the_environment_that_is_named_is_that_of_slices_that_name_none(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(suite, "--environment", "catch", "--json") == 0
    trained, rough = json.loads(capsys.readouterr().out)["slices"]
    assert trained["environment"]["id"] == rough["environment"]["id"] == "catch"


def test_what_cannot_be_read_is_one_line(tmp_path: Path, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "none.toml") == 2
    assert "cannot be read: No such file or directory" in capsys.readouterr().err
    assert check(suite, "--recipe", "cartpoll") == 2
    assert "no recipe 'cartpoll'; did you mean 'cartpole'?" in capsys.readouterr().err


def test_episodes_that_cannot_be_run_are_a_failure(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An untrained policy sometimes takes the action that this environment does not survive."""
    environment = 'environment = { name = "gym:tests.safety.misbehaving_environments:raises-v0" }'
    suite.write_text(f'name = "bad"\n[[slices]]\nname = "a"\n{environment}\n')
    assert check(suite) == 1
    err = capsys.readouterr().err
    assert "the suite is sound, but its episodes cannot be run: the evaluation raised RuntimeError" in err
