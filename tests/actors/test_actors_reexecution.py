"""Running episodes again, against the same episodes stepped one by one."""

from __future__ import annotations

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environment import SequentialVector
from actors.environments.catalog import make_vector
from actors.environments.catch import Catch
from actors.reexecution import EpisodeOutcome, EpisodeReplay, reexecute
from tests.actors.scripted import ScriptedEnvironment, observation_of, reward_of


def scripted(lanes: int) -> SequentialVector:
    """Episodes of 1 to 5 steps; those of even seeds terminate, the others are truncated."""

    def script(seed: int) -> tuple[int, bool, bool]:
        return seed % 5 + 1, seed % 2 == 0, seed % 2 == 1

    return SequentialVector(lambda: ScriptedEnvironment(script), lanes)


@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_every_episode_is_what_it_is_alone(lanes: int) -> None:
    generator = np.random.default_rng(3)
    episodes = [
        EpisodeReplay(int(seed), generator.integers(0, 3, generator.integers(0, 8), np.int32))
        for seed in generator.integers(0, 50, 40)
    ]
    outcomes = reexecute(scripted(lanes), episodes)
    for (seed, actions), outcome in zip(episodes, outcomes, strict=True):
        steps = min(len(actions), seed % 5 + 1)
        assert outcome.steps == steps
        expected = [observation_of(seed, step).tolist() for step in range(steps + 1)]
        assert outcome.observation.tolist() == expected
        assert outcome.reward.tolist() == [reward_of(seed, step + 1, int(actions[step])) for step in range(steps)]
        ended = np.arange(steps) == seed % 5
        np.testing.assert_array_equal(outcome.terminated, ended & (seed % 2 == 0))
        np.testing.assert_array_equal(outcome.truncated, ended & (seed % 2 == 1))


def test_nothing_to_run_again() -> None:
    assert reexecute(scripted(2), []) == []


def test_an_episode_without_actions_is_its_first_observation() -> None:
    (outcome,) = reexecute(scripted(3), [EpisodeReplay(9, np.zeros(0, np.int32))])
    assert outcome.observation.tolist() == [[9, 0]]
    assert outcome.steps == 0


def same(one: EpisodeOutcome, other: EpisodeOutcome) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["cartpole", "minatar:breakout", "gym:Acrobot-v1"])
def test_the_number_of_lanes_changes_no_bit(name: str) -> None:
    """Vectorised mathematics could round differently by the place in the array; here it does not."""
    environment = make_vector(EnvironmentConfig(name), 1)
    actions = np.random.default_rng(1).integers(0, environment.spec.action.sizes[0], (11, 25), np.int32)
    episodes = [EpisodeReplay(seed, row) for seed, row in enumerate(actions)]
    alone = reexecute(environment, episodes)
    for lanes in (2, 11, 13):
        together = reexecute(make_vector(EnvironmentConfig(name), lanes), episodes)
        assert all(same(one, other) for one, other in zip(alone, together, strict=True))


def test_the_environment_is_left_as_usable_as_it_was() -> None:
    environment = SequentialVector(lambda: Catch(EnvironmentConfig("catch")), 2)
    episodes = [EpisodeReplay(seed, np.ones(5, np.int32)) for seed in range(5)]
    first, second = reexecute(environment, episodes), reexecute(environment, episodes)
    assert all(same(one, other) for one, other in zip(first, second, strict=True))
