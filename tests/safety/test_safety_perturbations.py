"""Perturbed environments: still environments, changed in nothing but what the perturbation says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, EnvironmentUnsupported, VectorEnvironment, VectorStep
from actors.environments.catalog import make_vector
from actors.testing import VectorEnvironmentContract
from policies.spaces import array_space, discrete
from safety.evaluation.perturbations import perturb
from safety.suites.spec import PERTURBATIONS, Perturbation

ALL = (
    Perturbation("action_noise", 0.3),
    Perturbation("action_delay", 2),
    Perturbation("observation_noise", 0.1),
    Perturbation("observation_dropout", 0.2),
)


class TestPerturbedCartPole(VectorEnvironmentContract):
    steps = 60

    def make(self, lanes: int) -> VectorEnvironment:
        return perturb(make_vector(EnvironmentConfig(name="cartpole"), lanes), ALL)


class TestPerturbedMinAtar(VectorEnvironmentContract):
    steps = 20

    def make(self, lanes: int) -> VectorEnvironment:
        return perturb(make_vector(EnvironmentConfig(name="minatar:asterix"), lanes), (*ALL[:2], ALL[3]))


class Told:
    """Says what it was told: an observation is (1 + the seed's last digit, step, last action taken)."""

    def __init__(self, lanes: int, num_actions: int = 5) -> None:
        self.spec = EnvironmentSpec("told", "1", bytes(32), array_space((3,), "<f4"), discrete(num_actions), None)
        self.lanes = lanes
        self.state = np.zeros((lanes, 3), np.float32)
        self.taken: list[NDArray[np.int32]] = []
        self.steps: list[VectorStep] = []
        self.closed = 0

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self.state[lanes] = 0.0
        self.state[lanes, 0] = [1 + seed % 10 for seed in seeds]
        # Its own memory, where that is possible: nobody may write into it.
        return self.state if len(lanes) == self.lanes else self.state[lanes]

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        self.taken.append(actions.copy())
        self.state[active, 1] += 1
        self.state[active, 2] = actions[active]
        rows = np.arange(self.lanes, dtype=np.float32)
        ends = np.arange(self.lanes) % 2 == 0
        self.steps.append(VectorStep(self.state.copy(), rows + 0.5, rows + 0.25, ends, ~ends))
        return self.steps[-1]

    def close(self) -> None:
        self.closed += 1


def play(told: Told, perturbations: Sequence[Perturbation], steps: int, actions: int = 4) -> list[NDArray[Any]]:
    """The observations of lanes that take the actions 1, 2, 3, ... below `actions`, over and over."""
    environment = perturb(told, perturbations)
    observations = [environment.reset(np.arange(told.lanes), range(told.lanes)).copy()]
    everywhere = np.ones(told.lanes, np.bool_)
    for index in range(steps):
        chosen = np.full(told.lanes, 1 + index % (actions - 1), np.int32)
        step = environment.step(chosen, everywhere)
        observations.append(step.observation)
        inner = told.steps[-1]
        # The very arrays: what is judged goes through untouched.
        assert all(outer is one for outer, one in zip(step[1:], inner[1:], strict=True))
    environment.close()
    assert told.closed == 1
    return observations


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_judged_numbers_pass_untouched(kind: str) -> None:
    play(Told(4), [Perturbation(kind, 1.0)], 20)


@pytest.mark.parametrize("delay", [1, 2, 7])
def test_actions_come_late(delay: int) -> None:
    told = Told(2)
    play(told, [Perturbation("action_delay", delay)], 20)
    expected = [0] * delay + [1 + index % 3 for index in range(20 - delay)]
    assert [taken[0] for taken in told.taken] == [taken[1] for taken in told.taken] == expected


def test_actions_are_replaced_with_the_probability_that_was_asked_for() -> None:
    told = Told(50)
    play(told, [Perturbation("action_noise", 0.4)], 400, actions=2)
    taken = np.concatenate(told.taken)
    counts = np.bincount(taken, minlength=5) / len(taken)
    # Action 1 is chosen always; one in five of those that replace it is 1, too.
    assert np.allclose(counts, [0.08, 0.68, 0.08, 0.08, 0.08], atol=0.01)
    assert not np.array_equal(taken[::50], taken[1::50])


def test_every_action_is_replaced_at_the_most() -> None:
    told = Told(50)
    play(told, [Perturbation("action_noise", 1.0)], 400, actions=2)
    counts = np.bincount(np.concatenate(told.taken), minlength=5) / 20_000
    assert np.allclose(counts, 0.2, atol=0.015)


def test_noise_is_added_to_every_number_of_every_observation() -> None:
    told = Told(50)
    noisy = np.array(play(told, [Perturbation("observation_noise", 0.5)], 100))
    clean = np.array(play(Told(50), [], 100))
    noise = noisy - clean
    assert noisy.dtype == np.float32
    assert np.all(noise != 0)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 0.5) < 0.01
    assert len(np.unique(noise.round(6))) > noise.size * 0.9
    assert [taken.tolist() for taken in told.taken[:3]] == [[1] * 50, [2] * 50, [3] * 50]


def test_observations_are_dropped_whole() -> None:
    told = Told(50)
    seen = np.array(play(told, [Perturbation("observation_dropout", 0.25)], 100))
    clean = np.array(play(Told(50), [], 100))
    dropped = (seen == 0).all(axis=2)
    assert np.array_equal(seen[~dropped], clean[~dropped])
    assert abs(dropped.mean() - 0.25) < 0.02
    assert dropped[0].any(), "the first observation can be dropped, too"
    # What the environment keeps is its own.
    assert (told.state[:, 0] > 0).all()


def test_an_episode_meets_the_same_whatever_runs_beside_it_and_before() -> None:
    together = perturb(make_vector(EnvironmentConfig(name="cartpole"), 3), ALL)
    alone = perturb(make_vector(EnvironmentConfig(name="cartpole"), 3), ALL)
    # Lane 1 has had another episode before, and idles now and then beside others.
    together.reset(np.arange(3), [1, 2, 3])
    for _ in range(5):
        together.step(np.ones(3, np.int32), np.ones(3, np.bool_))
    first = together.reset(np.array([1]), [77])
    only = np.array([False, True, False])
    assert np.array_equal(first, alone.reset(np.array([1]), [77]))
    for index in range(12):
        action = np.full(3, index % 2, np.int32)
        step = together.step(action, np.array([index % 3 == 0, True, False]))
        expected = alone.step(action, only)
        assert all(np.array_equal(a[1], b[1]) for a, b in zip(step, expected, strict=True))
        if index % 4 == 0:
            together.step(action, np.array([True, False, False]))


def test_the_order_of_perturbations_counts() -> None:
    """Dropped and then made noisy is noise; made noisy and then dropped is zeros."""
    noise, dropout = Perturbation("observation_noise", 0.5), Perturbation("observation_dropout", 1.0)
    assert all((seen != 0).all() for seen in play(Told(4), [dropout, noise], 10))
    assert all((seen == 0).all() for seen in play(Told(4), [noise, dropout], 10))


def test_noise_on_what_is_not_a_float_is_refused() -> None:
    with pytest.raises(EnvironmentUnsupported, match=r"observation_noise = 0.1 .* minatar:breakout.*\|b1"):
        perturb(make_vector(EnvironmentConfig(name="minatar:breakout"), 1), [Perturbation("observation_noise", 0.1)])
