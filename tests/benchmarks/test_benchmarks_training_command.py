"""What the benchmarks that train share as commands. No training."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from benchmarks import gated_training, poisoned_run
from benchmarks.process_group import BenchmarkError
from benchmarks.training_command import about_training, parse_training, run_benchmark, training_parser
from launch.recipes import make_recipe


@pytest.fixture(autouse=True)
def _signal_handler() -> Iterator[None]:
    """What SIGTERM did before is what it does afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_training_is_as_long_as_its_recipe_unless_told_otherwise() -> None:
    parser = training_parser("benchmark", None)
    options = parse_training(parser, ["--recipe", "minatar-cost-space-invaders"])
    assert options.env_steps == make_recipe("minatar-cost-space-invaders").stop.env_steps_max > 0
    options = parse_training(parser, ["--env-steps", "5000", "--episodes", "7", "--set", "seed=3", "actor.lanes=4"])
    about = about_training("benchmark", options)
    assert {name: about[name] for name in ("recipe", "env_steps", "episodes", "settings")} == {
        "recipe": "cartpole-cost",
        "env_steps": 5000,
        "episodes": 7,
        "settings": ["seed=3", "actor.lanes=4"],
    }


@pytest.mark.parametrize("benchmark", [gated_training, poisoned_run], ids=["gated_training", "poisoned_run"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "cartpole-cots"], "did you mean 'cartpole-cost'?"),
        (["--env-steps", "-1"], "-1 is less than 1"),
        (["--episodes", "0"], "0 is less than 1"),
        (["--episodes", "many"], "invalid at_least_one value: 'many'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_starts(
    benchmark: object, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(arguments)  # type: ignore[attr-defined]
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_measurement_that_fails_is_one_message_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise BenchmarkError("temper train exited with status 3")

    assert run_benchmark("benchmark", fails) == 1
    assert capsys.readouterr().err == "benchmark: temper train exited with status 3\n"
    assert run_benchmark("benchmark", lambda: 0) == 0


def test_an_interrupt_is_status_130_and_an_end_from_outside_cleans_up() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_benchmark("benchmark", interrupted) == 130
    cleaned = []

    def ended() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)
        return 0

    with pytest.raises(SystemExit) as raised:
        run_benchmark("benchmark", ended)
    assert raised.value.code == 128 + signal.SIGTERM
    assert cleaned == [True]
