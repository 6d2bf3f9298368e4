"""The command lines of a run's processes are command lines that `temper` understands."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.arguments import Actor, Learner, PolicyServe, ReplayServe, SafetyServe
from launch.arguments_replay import ReplayAuditor
from launch.child import ChildSpec
from launch.errors import BadInput
from launch.parser import parse
from launch.recipes import make_recipe
from launch.run_paths import RunPaths
from launch.topology import STOP_ORDER, Addresses, Limits, names_of, processes_of, stop_order
from safety.keys.directory import default_place

PATHS = RunPaths(Path("/runs/x"))
ADDRESSES = Addresses.in_directory(Path("/s"))
THREE = Addresses.in_directory(Path("/s"), shards=3)


def processes(
    inference: str = "numpy",
    limits: Limits | None = None,
    *,
    resume: bool = False,
    addresses: Addresses = ADDRESSES,
    fraction: float = 0.0,
) -> dict[str, ChildSpec]:
    config = make_recipe("catch")
    config = replace(
        config,
        seed=7,
        actor=replace(config.actor, inference=inference),
        audit=replace(config.audit, fraction=fraction),
    )
    specs = processes_of(config, PATHS, addresses, "run-1", limits or Limits(), resume=resume)
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
        config, PATHS.safety, ADDRESSES.safety, "run-1", ADDRESSES.replay, str(default_place("run-1"))
    )
    assert arguments_of(specs["actors"]) == Actor(config, ADDRESSES.replay, ADDRESSES.policy, trust, "run-1")


def test_only_the_gate_is_told_where_the_private_keys_are() -> None:
    place = str(default_place("run-1"))
    for name, spec in processes("served", fraction=0.5).items():
        assert any(place in word for word in spec.command) == (name == "safety")


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


def test_shards_are_processes_with_a_store_each_and_everybody_knows_them_all() -> None:
    specs = processes(addresses=THREE)
    assert THREE.replay_shards == [f"unix:/s/replay-{shard}.sock" for shard in range(3)]
    for shard, address in enumerate(THREE.replay_shards):
        place = Path(f"/runs/x/replay/shard-{shard}")
        assert arguments_of(specs[f"replay-{shard}"]) == ReplayServe(PATHS.config, place, address, shard)
        assert specs[f"replay-{shard}"].address == address
    assert "replay" not in specs
    for name in ("learner", "safety", "actors"):
        arguments = arguments_of(specs[name])
        assert isinstance(arguments, Learner | SafetyServe | Actor)
        assert arguments.replay == ",".join(THREE.replay_shards)


def test_the_auditor_comes_last_and_a_run_does_without() -> None:
    assert "auditor" not in processes()
    specs = processes(fraction=0.25)
    assert list(specs)[-1] == "auditor"
    assert [name for name, spec in specs.items() if not spec.essential] == ["auditor"]
    assert arguments_of(specs["auditor"]) == ReplayAuditor(PATHS.config, ADDRESSES.replay, fraction=0.25)


def test_each_shard_has_its_auditor() -> None:
    specs = processes(addresses=THREE, fraction=1.0)
    for shard, address in enumerate(THREE.replay_shards):
        assert arguments_of(specs[f"auditor-{shard}"]) == ReplayAuditor(
            PATHS.config, address, fraction=1.0, shard=shard
        )


def test_one_of_a_kind_needs_no_number() -> None:
    assert names_of("replay", 1) == ["replay"]
    assert names_of("replay", 2) == ["replay-0", "replay-1"]


def test_the_order_of_stopping() -> None:
    order = stop_order(processes("served", addresses=THREE, fraction=0.5))
    auditors, stores = names_of("auditor", 3), names_of("replay", 3)
    assert order == ["learner", "actors", "inference", *auditors, "safety", *stores]


@pytest.mark.parametrize("inference", ["numpy", "served"])
def test_every_process_has_its_place_in_the_order_of_stopping(inference: str) -> None:
    assert set(processes(inference)) <= set(STOP_ORDER)
    assert STOP_ORDER.index("actors") < STOP_ORDER.index("safety") < STOP_ORDER.index("replay") == len(STOP_ORDER) - 1


def test_a_replay_service_has_the_time_to_read_its_records() -> None:
    """One that is killed while it reads what it holds would never be ready, however often it is started."""
    config = make_recipe("catch")

    def given(**fields: Any) -> float:
        changed = replace(config, replay=replace(config.replay, **fields))
        specs = processes_of(changed, PATHS, ADDRESSES, "run-1", Limits(), resume=True)
        return {spec.name: spec for spec in specs}["replay"].ready_s_max

    small, large = given(records_max=1_000), given(records_max=10_000_000)
    assert 60.0 < small < 61.0
    assert large > 10_000_000 * 50e-6
    tables = ("stratified by-task by=task_id", "curated good filter=signals.success==1")
    assert given(records_max=10_000_000, tables=tables) > 2.5 * large
