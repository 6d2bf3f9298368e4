"""The command lines of a run's processes are command lines that `temper` understands."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch.arguments import Actor, Learner, PolicyServe, ReplayServe, SafetyServe
from launch.child import ChildSpec
from launch.errors import BadInput
from launch.parser import parse
from launch.recipes import make_recipe
from launch.run_paths import RunPaths
from launch.topology import STOP_ORDER, Addresses, Limits, processes_of

PATHS = RunPaths(Path("/runs/x"))
ADDRESSES = Addresses.in_directory(Path("/s"))


def processes(inference: str = "numpy", limits: Limits | None = None, *, resume: bool = False) -> dict[str, ChildSpec]:
    config = make_recipe("catch")
    config = replace(config, actor=replace(config.actor, inference=inference))
    specs = processes_of(config, PATHS, ADDRESSES, "run-1", limits or Limits(), resume=resume)
    return {spec.name: spec for spec in specs}


def arguments_of(spec: ChildSpec) -> object:
    assert list(spec.command[:4]) == [sys.executable, "-P", "-m", "launch.cli"]
    return parse([*spec.command[4:], *spec.restart_arguments])


def test_every_process_is_a_public_command() -> None:
    specs = processes()
    trust = Path("/runs/x/safety/verify_key.pem")
    config = PATHS.config
    assert arguments_of(specs["learner"]) == Learner(
        config, PATHS.root, ADDRESSES.replay, ADDRESSES.safety, ADDRESSES.policy, trust, "run-1", resume=True
    )
    assert arguments_of(specs["replay"]) == ReplayServe(config, PATHS.replay, ADDRESSES.replay)
    assert arguments_of(specs["safety"]) == SafetyServe(
        config, PATHS.safety, ADDRESSES.safety, "run-1", ADDRESSES.replay
    )
    assert arguments_of(specs["actors"]) == Actor(config, ADDRESSES.replay, ADDRESSES.policy, trust, "run-1")


def test_the_learner_starts_first_alone_ends_the_run_and_resumes_only_when_restarted() -> None:
    specs = processes()
    assert next(iter(specs)) == "learner"
    assert [name for name, spec in specs.items() if spec.ends_run] == ["learner"]
    assert "--resume" not in specs["learner"].command
    assert processes(resume=True)["learner"].command[-1] == "--resume"
    assert processes(resume=True)["learner"].restart_arguments == ()


def test_limits_reach_the_learner() -> None:
    command = arguments_of(processes(limits=Limits(2.5, 1000))["learner"])
    assert isinstance(command, Learner)
    assert (command.max_seconds, command.max_env_steps) == (2.5, 1000)


@pytest.mark.parametrize("limits", [(-1.0, 0), (float("nan"), 0), (0.0, -1)])
def test_a_limit_is_a_positive_number(limits: tuple[float, int]) -> None:
    with pytest.raises(BadInput, match="write a positive limit"):
        Limits(*limits)


def test_actors_are_given_the_time_that_their_settings_grant() -> None:
    config = make_recipe("catch")
    config = replace(config, actor=replace(config.actor, stop_s_max=7.0))
    (actors,) = (
        spec
        for spec in processes_of(config, PATHS, ADDRESSES, "run-1", Limits(), resume=False)
        if spec.name == "actors"
    )
    assert actors.stop_s_max > 7.0


def test_served_inference_has_its_process_and_the_actors_know_it() -> None:
    assert "inference" not in processes()
    specs = processes("served")
    serve = arguments_of(specs["inference"])
    assert isinstance(serve, PolicyServe)
    assert (serve.policy, serve.listen) == (ADDRESSES.policy, ADDRESSES.inference)
    actor = arguments_of(specs["actors"])
    assert isinstance(actor, Actor)
    assert actor.inference_address == ADDRESSES.inference


@pytest.mark.parametrize("inference", ["numpy", "served"])
def test_every_process_has_its_place_in_the_order_of_stopping(inference: str) -> None:
    assert set(processes(inference)) <= set(STOP_ORDER)
    assert STOP_ORDER.index("actors") < STOP_ORDER.index("safety") < STOP_ORDER.index("replay") == len(STOP_ORDER) - 1
