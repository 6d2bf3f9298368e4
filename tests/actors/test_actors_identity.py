"""What identifies an environment: everything that decides what happens in it, and nothing that differs elsewhere."""

from __future__ import annotations

import enum
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.registration import WrapperSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit

from actors.config import EnvironmentConfig
from actors.environments.gymnasium_adapter import GymnasiumEnvironment
from actors.environments.identity import code_digest, described, package_version
from actors.known_environments import KnownEnvironments
from protos.common.v1 import common_pb2

REPOSITORY = Path(__file__).resolve().parents[2]
ID = "TemperWrapped-v0"
CARTPOLE = f"{CartPoleEnv.__module__}:CartPoleEnv"

MODULE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import RecordConstructorArgs

class Base(gymnasium.Wrapper):
    def bonus(self):
        return {bonus}

class Scaled(Base, RecordConstructorArgs):
    def __init__(self, env, scale, by):
        RecordConstructorArgs.__init__(self, scale=scale, by=by)
        super().__init__(env)
        self.scale, self.by = scale, by

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, self.by(reward) * self.scale + self.bonus(), terminated, truncated, info

def made(**kwargs):
    return CartPoleEnv(**kwargs)

wrapped = gymnasium.envs.registration.WrapperSpec("Scaled", __name__ + ":Scaled", dict(scale={scale}, by=lambda r: r))
gymnasium.register("Scaled-v0", made, max_episode_steps=9, additional_wrappers=(wrapped,))
"""


class Scaled(gymnasium.RewardWrapper[Any, Any], RecordConstructorArgs):
    """Multiplies rewards."""

    def __init__(self, env: gymnasium.Env[Any, Any], scale: float = 1.0) -> None:
        RecordConstructorArgs.__init__(self, scale=scale)
        gymnasium.RewardWrapper.__init__(self, env)
        self.scale = scale

    def reward(self, reward: Any) -> float:
        return self.scale * float(reward)


class Halved(Scaled):
    """Another class with the same arguments."""

    def reward(self, reward: Any) -> float:
        return 0.5 * super().reward(reward)


class Silent(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records no arguments."""


def spec_of(kind: type, **kwargs: Any) -> WrapperSpec:
    return WrapperSpec(kind.__name__, f"{kind.__module__}:{kind.__qualname__}", kwargs)


def digest(**registered: Any) -> bytes:
    """Of an environment registered like this."""
    registered = {"entry_point": CartPoleEnv, "max_episode_steps": 20, **registered}
    gymnasium.register(ID, **registered)
    try:
        environment = GymnasiumEnvironment(ID, EnvironmentConfig())
        environment.close()
        return environment.spec.code_digest
    finally:
        del gymnasium.registry[ID]


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    yield
    assert ID not in gymnasium.registry


def test_the_same_entry_has_the_same_digest() -> None:
    wrapped = {"additional_wrappers": (spec_of(Scaled, scale=2.0),)}
    assert digest(**wrapped) == digest(**wrapped)


def test_everything_that_an_entry_adds_makes_another_digest() -> None:
    entries: list[dict[str, Any]] = [
        {},
        {"order_enforce": False},
        {"max_episode_steps": 21},
        {"max_episode_steps": None},
        {"kwargs": {"sutton_barto_reward": True}},
        {"additional_wrappers": (spec_of(Scaled),)},
        {"additional_wrappers": (spec_of(Scaled, scale=2.0),)},
        {"additional_wrappers": (spec_of(Scaled, scale=3.0),)},
        {"additional_wrappers": (spec_of(Halved, scale=2.0),)},
        {"additional_wrappers": (spec_of(Scaled, scale=2.0), spec_of(Halved))},
        {"additional_wrappers": (spec_of(Halved), spec_of(Scaled, scale=2.0))},
        {"additional_wrappers": (spec_of(Silent),)},
        {"entry_point": lambda **_: Scaled(CartPoleEnv(), 2.0)},
        {"entry_point": lambda **_: Scaled(CartPoleEnv(), 3.0)},
        {"entry_point": lambda **_: Silent(CartPoleEnv())},
        {"entry_point": functools.partial(CartPoleEnv)},
    ]
    assert len({digest(**entry) for entry in entries}) == len(entries)


def test_what_a_function_that_makes_it_took_from_around_it_counts() -> None:
    def maker(masses: float) -> Callable[..., Any]:
        return lambda **_: Silent(CartPoleEnv(sutton_barto_reward=masses > 1))

    assert digest(entry_point=maker(1.0)) == digest(entry_point=maker(1.0)) != digest(entry_point=maker(2.0))


def test_the_least_of_several_limits_counts() -> None:
    gymnasium.register(
        ID,
        CARTPOLE,
        max_episode_steps=20,
        additional_wrappers=(spec_of(TimeLimit, max_episode_steps=5),),
    )
    environment = GymnasiumEnvironment(ID, EnvironmentConfig())
    del gymnasium.registry[ID]
    assert environment.spec.episode_steps_max == 5
    environment.close()


def test_records_of_another_wrapper_are_not_run_again() -> None:
    name = f"gym:{ID}"
    identity = common_pb2.EnvironmentIdentity(
        id=name,
        version=package_version("gymnasium"),
        code_digest=digest(additional_wrappers=(spec_of(Scaled, scale=2.0),)),
    )
    for scale, same in ((2.0, True), (3.0, False)):
        gymnasium.register(
            ID,
            entry_point=CARTPOLE,
            max_episode_steps=20,
            additional_wrappers=(spec_of(Scaled, scale=scale),),
        )
        environments = KnownEnvironments(None)
        found = environments.find(identity)
        environments.close()
        del gymnasium.registry[ID]
        assert (found == "its environment has other code or settings than the one here, by its digest") != same


def elsewhere(directory: Path, hash_seed: int, *, scale: float = 2.0, bonus: float = 0.0) -> str:
    """The digest of an environment whose module is in this directory, as another process has it."""
    directory.mkdir()
    (directory / "scaled_module.py").write_text(MODULE.format(scale=scale, bonus=bonus))
    program = (
        "import sys; held = [object() for _ in range(int(sys.argv[1]))];"
        "from actors.config import EnvironmentConfig;"
        "from actors.environments.gymnasium_adapter import GymnasiumEnvironment;"
        "print(GymnasiumEnvironment('scaled_module:Scaled-v0', EnvironmentConfig()).spec.code_digest.hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(1000 * hash_seed)],
        cwd=directory,
        env={"PYTHONPATH": f"{REPOSITORY}:{directory}", "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_it_is_the_same_in_another_process_and_place_unless_a_wrapper_changes(tmp_path: Path) -> None:
    here = elsewhere(tmp_path / "here", 1)
    assert len(here) == 65
    assert elsewhere(tmp_path / "there", 2) == here
    assert elsewhere(tmp_path / "scale", 1, scale=3.0) != here
    assert elsewhere(tmp_path / "base", 1, bonus=1.0) != here


class Colour(enum.Enum):
    """For the test below."""

    RED = 1


@dataclass
class Rules:
    """For the test below."""

    scale: float


class Plain:
    """Prints its address."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def times(self, value: float) -> float:
        return self.scale * value


class Chained:
    """Prints nothing but an address, and holds itself."""

    def __init__(self) -> None:
        self.own = self


def test_arguments_of_every_kind_are_told_apart_and_have_no_address(tmp_path: Path) -> None:
    file = tmp_path / "map.txt"
    file.write_text("###")

    def values() -> list[object]:
        return [
            None,
            True,
            1,
            1.5,
            "text",
            b"bytes",
            (1, 2),
            {1, 2},
            {"b": 1, "a": [Plain(1.0)]},
            Colour.RED,
            Rules(1.0),
            Rules(2.0),
            Plain(1.0),
            Plain(2.0),
            Plain(1.0).times,
            Plain(2.0).times,
            Plain,
            Plain.times,
            Chained(),
            functools.partial(max, 1),
            functools.partial(max, 2),
            max,
            json,
            np.arange(3),
            np.arange(3.0),
            np.float32(1.5),
            np.array([Plain(1.0)]),
            gymnasium.spaces.Box(-1, 1, (2,)),
            file,
            tmp_path,
        ]

    texts = [json.dumps(described(value), sort_keys=True) for value in values()]
    assert texts == [json.dumps(described(value), sort_keys=True) for value in values()]
    assert len(set(texts)) == len(texts)
    assert not any("0x" in text or str(tmp_path) in text for text in texts)
    file.write_text("#.#")
    assert json.dumps(described(file)) not in texts


def test_what_json_knows_enters_as_it_is() -> None:
    """So that environments without anything else keep the digests that they had."""
    arguments = {"game": "x", "episode_steps_max": None, "sizes": [1, 2.5], "on": True}
    assert described(arguments) == arguments
    assert code_digest((), arguments, "v").hex() == "60c3cbc9b00d68830565e5792f99291644e8326ca90c4573cc6e0613e3930291"
