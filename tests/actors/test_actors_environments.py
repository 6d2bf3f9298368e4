"""Every environment of the catalogue, and a user's own, under the environment contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from minatar.environment import Environment as Package

from actors.config import EnvironmentConfig
from actors.environment import Environment, EnvironmentUnsupported, SequentialVector, VectorEnvironment
from actors.environments import catalog
from actors.environments.catch import Catch
from actors.environments.gymnasium_adapter import GymnasiumEnvironment
from actors.environments.minatar import MinAtar
from actors.environments.minatar_cost import SpaceInvadersClosedColumns
from actors.testing import EnvironmentContract, VectorEnvironmentContract
from policies.spaces import array_space

REPOSITORY = Path(__file__).resolve().parents[2]


class CorridorEnv(gymnasium.Env[Any, Any]):
    """A user's environment: walk right to the end of a corridor; the walls hurt. Spaces that start at an offset."""

    observation_space = gymnasium.spaces.Discrete(6, start=10)
    action_space = gymnasium.spaces.Discrete(2, start=-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(3))
        return 10 + self.place, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert action in (-1, 0)
        wanted = self.place + (1 if action == 0 else -1)
        self.place = min(max(wanted, 0), 5)
        return 10 + self.place, float(self.place == 5), self.place == 5, False, {"cost": float(wanted < 0)}


@pytest.fixture(autouse=True, scope="module")
def corridor() -> Any:
    gymnasium.register("TemperCorridor-v0", entry_point=lambda **_: CorridorEnv(), max_episode_steps=30)
    yield
    del gymnasium.registry["TemperCorridor-v0"]


class TestCatch(EnvironmentContract):
    def make(self) -> Environment:
        return Catch(EnvironmentConfig(name="catch"))


class TestCatchTruncated(EnvironmentContract):
    def make(self) -> Environment:
        return Catch(EnvironmentConfig(name="catch", episode_steps_max=4))


class TestBreakout(EnvironmentContract):
    def make(self) -> Environment:
        return MinAtar("breakout", EnvironmentConfig())


class TestAsterix(EnvironmentContract):
    def make(self) -> Environment:
        return MinAtar("asterix", EnvironmentConfig())


class TestFreeway(EnvironmentContract):
    steps = 60

    def make(self) -> Environment:
        return MinAtar("freeway", EnvironmentConfig(episode_steps_max=50))


class TestSeaquest(EnvironmentContract):
    def make(self) -> Environment:
        return MinAtar("seaquest", EnvironmentConfig())


class TestSpaceInvaders(EnvironmentContract):
    def make(self) -> Environment:
        return MinAtar("space_invaders", EnvironmentConfig())


class TestSpaceInvadersClosedColumns(EnvironmentContract):
    def make(self) -> Environment:
        return SpaceInvadersClosedColumns(EnvironmentConfig())


class TestGymnasiumBox(EnvironmentContract):
    def make(self) -> Environment:
        return GymnasiumEnvironment("Acrobot-v1", EnvironmentConfig(episode_steps_max=80))


class TestGymnasiumDiscrete(EnvironmentContract):
    def make(self) -> Environment:
        return GymnasiumEnvironment("FrozenLake-v1", EnvironmentConfig())


class TestUsersOwn(EnvironmentContract):
    def make(self) -> Environment:
        return GymnasiumEnvironment("TemperCorridor-v0", EnvironmentConfig())


class TestCartPoleVector(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return catalog.make_vector(EnvironmentConfig(name="cartpole"), lanes)


class TestCartPoleVectorTruncated(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return catalog.make_vector(EnvironmentConfig(name="cartpole", episode_steps_max=7), lanes)


class TestCartPoleEdgeVector(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return catalog.make_vector(EnvironmentConfig(name="cartpole-edge"), lanes)


class TestSpaceInvadersClosedColumnsVector(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return catalog.make_vector(EnvironmentConfig(name="minatar-cost:space_invaders"), lanes)


class TestCatchVector(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return catalog.make_vector(EnvironmentConfig(name="catch"), lanes)


class TestBreakoutVector(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return catalog.make_vector(EnvironmentConfig(name="minatar:breakout"), lanes)


class TestUsersOwnVector(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return catalog.make_vector(EnvironmentConfig(name="gym:TemperCorridor-v0"), lanes)


def test_discrete_spaces_with_an_offset_and_cost_from_info() -> None:
    environment = GymnasiumEnvironment("TemperCorridor-v0", EnvironmentConfig())
    place = int(np.argmax(environment.reset(0)))
    for _ in range(place):
        assert environment.step(0).cost == 0.0
    transition = environment.step(0)
    assert transition.cost == 1.0
    assert transition.observation.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    for _ in range(4):
        assert not environment.step(1).terminated
    transition = environment.step(1)
    assert (transition.reward, transition.terminated, transition.truncated) == (1.0, True, False)


class BoxEnv(gymnasium.Env[Any, Any]):
    """Observes one value over and over, whatever its space says."""

    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, space: gymnasium.spaces.Box, value: Any) -> None:
        self.observation_space = space
        self.value = value

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.value, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.value, 0.0, False, False, {}


def box_environment(space: gymnasium.spaces.Box, value: Any, monkeypatch: pytest.MonkeyPatch) -> GymnasiumEnvironment:
    spec = gymnasium.envs.registration.EnvSpec("TemperBox-v0", lambda **_: BoxEnv(space, value), max_episode_steps=9)
    monkeypatch.setitem(gymnasium.registry, "TemperBox-v0", spec)
    return GymnasiumEnvironment("TemperBox-v0", EnvironmentConfig())


@pytest.mark.parametrize(
    ("low", "high", "shape", "space_dtype", "value", "dtype", "observed"),
    [
        (-1.0, 1.0, (), np.float64, 0.1, "<f4", np.float32(0.1)),
        (-1.0, 1.0, (2,), np.float64, [0.1, -1.0], "<f4", np.array([0.1, -1.0], np.float32)),
        (0, 255, (1, 2), np.uint8, np.array([[0, 255]], np.uint8), "|u1", np.array([[0, 255]], np.uint8)),
        (-5, 5, (2,), np.int64, (-5, 5), "<i8", np.array([-5, 5])),
        (0, 1, (2,), np.int8, [0, 1], "|i1", np.array([0, 1], np.int8)),
    ],
)
def test_boxes_of_every_kind_of_number(
    low: float,
    high: float,
    shape: tuple[int, ...],
    space_dtype: type[np.generic],
    value: Any,
    dtype: str,
    observed: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = gymnasium.spaces.Box(low, high, shape, space_dtype)  # type: ignore[arg-type]
    environment = box_environment(space, value, monkeypatch)
    assert environment.spec.observation == array_space(shape, dtype)
    for observation in (environment.reset(0), environment.step(1).observation):
        assert observation.dtype.str == dtype
        np.testing.assert_array_equal(observation, observed)
    environment.close()


def test_an_observation_of_another_shape_than_its_space_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be broadcast into the row of an unroll."""
    environment = box_environment(gymnasium.spaces.Box(-1, 1, (3,)), np.zeros(1, np.float32), monkeypatch)
    with pytest.raises(EnvironmentUnsupported, match=r"shape \(1,\), its observation space has \(3,\)"):
        environment.reset(0)
    environment.close()


def test_the_limit_of_a_gymnasium_environment_is_its_own_unless_set() -> None:
    own = GymnasiumEnvironment("TemperCorridor-v0", EnvironmentConfig())
    shorter = GymnasiumEnvironment("TemperCorridor-v0", EnvironmentConfig(episode_steps_max=3))
    assert (own.spec.episode_steps_max, shorter.spec.episode_steps_max) == (30, 3)
    assert own.spec.code_digest != shorter.spec.code_digest
    shorter.reset(0)
    assert [shorter.step(0).truncated for _ in range(3)] == [False, False, True]


def test_catch_is_won_by_following_the_ball_and_lost_by_standing_apart() -> None:
    environment = Catch(EnvironmentConfig(name="catch"))
    for seed in range(20):
        board = environment.reset(seed)
        ball = int(np.argmax(board[0]))
        rewards = []
        for _ in range(9):
            paddle = int(np.flatnonzero(board[9])[0])
            transition = environment.step(1 + int(np.sign(ball - paddle)))
            board = transition.observation
            rewards.append(transition.reward)
        assert rewards == [0.0] * 8 + [1.0]
        assert transition.terminated and not transition.truncated
        environment.reset(seed)
        lost = [environment.step(0 if ball >= 2 else 2).reward for _ in range(9)]
        assert lost == [0.0] * 8 + [-1.0]


def test_minatar_is_the_package_s_own_game() -> None:
    """Step by step beside the package, with its own generator, last action and sticky actions."""
    environment = MinAtar("asterix", EnvironmentConfig())
    for seed in (3, 2**40 + 3):
        package = Package("asterix")
        package.seed([seed & 0xFFFFFFFF, seed >> 32])
        package.reset()
        generator = np.random.default_rng(seed)
        assert np.array_equal(environment.reset(seed), package.state())
        for _ in range(100):
            action = int(generator.integers(6))
            reward, terminal = package.act(action)
            transition = environment.step(action)
            assert np.array_equal(transition.observation, package.state())
            assert (transition.reward, transition.terminated) == (reward, terminal)
            if terminal:
                break


def test_a_game_loads_no_plotting_library() -> None:
    """Which would be 120 MB in every process; MinAtar's warning about it is not shown either."""
    code = (
        "import sys; from actors.config import EnvironmentConfig; from actors.environments.catalog import make_vector;"
        "make_vector(EnvironmentConfig(name='minatar:breakout'), 1); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"matplotlib", "seaborn", "pandas"} & set(done.stdout.split())
    assert done.stderr == ""


def test_sequential_vector_refuses_a_wrong_number_of_seeds() -> None:
    vector = SequentialVector(lambda: Catch(EnvironmentConfig(name="catch")), 2)
    with pytest.raises(ValueError, match="zip"):
        vector.reset(np.arange(2), [1])
