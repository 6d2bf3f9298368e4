"""Every environment of the catalogue, and a user's own, under the environment contract."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from minatar.environment import Environment as Package

from actors.config import EnvironmentConfig
from actors.environment import Environment, SequentialVector, VectorEnvironment
from actors.environments import catalog
from actors.environments.catch import Catch
from actors.environments.gymnasium_adapter import GymnasiumEnvironment
from actors.environments.minatar import MinAtar
from actors.testing import EnvironmentContract, VectorEnvironmentContract


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


def test_sequential_vector_refuses_a_wrong_number_of_seeds() -> None:
    vector = SequentialVector(lambda: Catch(EnvironmentConfig(name="catch")), 2)
    with pytest.raises(ValueError, match="zip"):
        vector.reset(np.arange(2), [1])
