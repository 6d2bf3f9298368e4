"""What is found wrong with a run before anything of it exists."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from actors.environment import EnvironmentUnsupported
from actors.process import JobError
from launch.errors import BadInput
from launch.preflight import check
from launch.recipes import RECIPES, make_recipe
from policies.spaces import SpecError


class FaultyEnv(gymnasium.Env[Any, Any]):
    """Goes wrong where it is told to."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, where: str) -> None:
        self.where = where

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self.where == "seed":
            np.random.seed(seed)
        return np.zeros(3 if self.where == "shape" else 2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.where == "step":
            raise LookupError("no such\nthing")
        return np.zeros(2, np.float32), 0.0, False, False, {}


class HugeEnv(FaultyEnv):
    """Observes 2 MB, which a record of an unroll multiplies beyond what a message may hold."""

    observation_space = gymnasium.spaces.Box(0, 255, (1400, 1400), np.uint8)  # type: ignore[arg-type]


def registered(environment: FaultyEnv, monkeypatch: pytest.MonkeyPatch) -> str:
    spec = gymnasium.envs.registration.EnvSpec("TemperFaulty-v0", lambda **_: environment, max_episode_steps=9)
    monkeypatch.setitem(gymnasium.registry, "TemperFaulty-v0", spec)
    return "gym:TemperFaulty-v0"


# distill passes with a teacher only: see test_launch_distillation.
@pytest.mark.parametrize("recipe", [*(name for name in RECIPES if name != "distill"), "gym:FrozenLake-v1"])
def test_every_recipe_passes(recipe: str) -> None:
    check(make_recipe(recipe))


def test_an_environment_that_works_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    check(make_recipe(registered(FaultyEnv("nowhere"), monkeypatch)))


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("step", BadInput, r"fails at its first reset or step: LookupError: no such"),
        (
            "seed",
            BadInput,
            r"ValueError: Seed must be between 0 and 2\*\*32 - 1 \(.*launch_preflight.py, line \d+",
        ),
        ("shape", EnvironmentUnsupported, r"shape \(3,\), its observation space has \(2,\)"),
    ],
)
def test_an_environment_that_fails_at_once(
    where: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that takes no seeds beyond 32 bits, which those of the episodes are."""
    with pytest.raises(error, match=said):
        check(make_recipe(registered(FaultyEnv(where), monkeypatch)))


def test_a_temporary_directory_too_deep_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("deep" * 25)))
    with pytest.raises(BadInput, match="set TMPDIR to a shorter one"):
        check(make_recipe("catch"))


@pytest.mark.parametrize(
    ("section", "settings", "error", "said"),
    [
        ("actor", {"lanes": 200, "window_records": 128}, JobError, "lanes = 200 exceeds actor.window_records = 128"),
        ("actor", {"unroll_length": 9000, "lanes": 4000, "window_records": 4000}, JobError, "actor.window_bytes"),
        ("network", {"kind": "conv"}, SpecError, "conv network needs"),
    ],
)
def test_settings_that_no_process_of_the_run_could_work_with(
    section: str, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    config = make_recipe("cartpole")
    with pytest.raises(error, match=said):
        check(replace(config, **{section: replace(getattr(config, section), **settings)}))


def test_records_that_replay_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_recipe(registered(HugeEnv("nowhere"), monkeypatch))
    with pytest.raises(JobError, match=r"a record of actor\.unroll_length = 20 rows takes 41160580 bytes"):
        check(replace(config, network=replace(config.network, hidden_sizes=(8,))))


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        (
            'environment = { name = "catch" }',
            r"^slice a has observations <f4 \[10, 5\], the run's environment cartpole",
        ),
        ('environment = { name = "gym:MountainCar-v0" }', r"^slice a has observations <f4 \[2\]"),
        ('environment = { name = "cartpoll" }', r"^slice a: unknown environment 'cartpoll'"),
    ],
)
def test_a_suite_for_other_policies_than_those_of_the_run(slices: str, said: str, tmp_path: Path) -> None:
    """No slice is in the run's environment, so that they agree with each other."""
    path = tmp_path / "suite.toml"
    path.write_text(f'name = "s"\n[[slices]]\nname = "a"\n{slices}\n')
    config = make_recipe("cartpole")
    config = replace(config, safety=replace(config.safety, suite=str(path)))
    with pytest.raises(EnvironmentUnsupported, match=said):
        check(config)


def test_a_perturbation_that_a_slice_cannot_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "suite.toml"
    noise = 'perturbations = [{ kind = "observation_noise", amount = 0.1 }]'
    path.write_text(f'name = "s"\n[[slices]]\nname = "a"\n{noise}\n')
    config = make_recipe("cartpole")
    safety = replace(config.safety, suite=str(path))
    check(replace(config, safety=safety))
    with pytest.raises(EnvironmentUnsupported, match=r"^slice a: observation_noise"):
        check(replace(make_recipe(registered(HugeEnv("nowhere"), monkeypatch)), safety=safety))


@pytest.mark.parametrize("name", ["gym:Pendulum-v1", "gym:Blackjack-v1"])
def test_an_environment_is_tried_with_an_action_of_its_own_space(name: str) -> None:
    check(make_recipe(name))


def test_a_burn_in_that_leaves_nothing_to_train_on() -> None:
    config = make_recipe("catch")
    recurrent = replace(config, network=replace(config.network, core="gru", core_size=8))
    rows = config.actor.unroll_length
    check(replace(recurrent, learner=replace(config.learner, burn_in=rows - 1)))
    with pytest.raises(BadInput, match=rf"learner.burn_in = {rows} must be below actor.unroll_length = {rows}"):
        check(replace(recurrent, learner=replace(config.learner, burn_in=rows)))
    with pytest.raises(BadInput, match=r"learner\.burn_in = 2 is for recurrent policies: set it to 0"):
        check(replace(config, learner=replace(config.learner, burn_in=2)))
