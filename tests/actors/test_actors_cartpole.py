"""CartPole in lanes against Gymnasium's own single environments, step by step."""

from __future__ import annotations

import gymnasium
import numpy as np

from actors.config import EnvironmentConfig
from actors.environments.cartpole import CartPoleVector


def test_whole_trajectories_equal_those_of_single_environments() -> None:
    """Lanes end at different times and are reset at once, so a leak between lanes or a lost reset would show."""
    lanes, steps = 48, 150
    vector = CartPoleVector(EnvironmentConfig(), lanes)
    singles = [gymnasium.make("CartPole-v1", disable_env_checker=True) for _ in range(lanes)]
    seeds = [2**61 + 7 * lane for lane in range(lanes)]
    expected = np.stack([single.reset(seed=seed)[0] for single, seed in zip(singles, seeds, strict=True)])
    assert np.array_equal(vector.reset(np.arange(lanes), seeds), expected)
    generator = np.random.default_rng(0)
    resets = 0
    for _ in range(steps):
        actions = generator.integers(2, size=lanes).astype(np.int32)
        step = vector.step(actions, np.ones(lanes, np.bool_))
        for lane, single in enumerate(singles):
            observation, reward, terminated, truncated, _ = single.step(int(actions[lane]))
            np.testing.assert_allclose(step.observation[lane], observation, rtol=1e-6, atol=1e-9)
            assert (step.reward[lane], step.terminated[lane], step.truncated[lane]) == (reward, terminated, truncated)
        ended = np.flatnonzero(step.terminated | step.truncated)
        seeds = [1000 + resets + row for row in range(len(ended))]
        resets += len(ended)
        observation = vector.reset(ended, seeds)
        for row, lane in enumerate(ended.tolist()):
            assert np.array_equal(observation[row], singles[lane].reset(seed=seeds[row])[0])
    assert resets > lanes


def test_episodes_are_truncated_after_500_steps() -> None:
    """A balancing controller reaches the limit, where the step is truncated and not terminated, and earns 500."""
    lanes = 4
    vector = CartPoleVector(EnvironmentConfig(), lanes)
    observation = vector.reset(np.arange(lanes), [0, 1, 2, 3])
    total = np.zeros(lanes)
    for index in range(500):
        lean = observation @ np.array([0.05, 0.3, 1.0, 0.8], np.float32)
        step = vector.step((lean > 0).astype(np.int32), np.ones(lanes, np.bool_))
        observation = step.observation
        total += step.reward
        assert not step.terminated.any()
        assert step.truncated.all() == (index == 499)
    assert total.tolist() == [500.0] * lanes


def test_cost_is_one_exactly_beyond_the_margin() -> None:
    vector = CartPoleVector(EnvironmentConfig(cart_margin=0.05), 8)
    observation = vector.reset(np.arange(8), list(range(8)))
    seen = set()
    for _ in range(8):
        step = vector.step(np.ones(8, np.int32), np.ones(8, np.bool_))
        observation = step.observation
        beyond = np.abs(observation[:, 0]) > np.float32(0.05)
        assert np.array_equal(step.cost, beyond.astype(np.float32))
        seen.update(beyond.tolist())
    assert seen == {False, True}


def test_the_code_digest_names_the_construction_arguments() -> None:
    specs = [CartPoleVector(config, 1).spec for config in (EnvironmentConfig(), EnvironmentConfig(cart_margin=1.0))]
    assert specs[0].code_digest != specs[1].code_digest
    assert CartPoleVector(EnvironmentConfig(), 5).spec == specs[0]
