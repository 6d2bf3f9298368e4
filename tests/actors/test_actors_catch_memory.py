"""Catch with memory: the contract, what is seen, and what policies with and without memory can reach."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment
from actors.environments.catch import COLUMNS, ROWS
from actors.environments.catch_memory import MEMORYLESS_RETURN, SEEN_ROWS, CatchMemoryVector
from actors.testing import VectorEnvironmentContract
from actors.verification import verify
from policies.architecture import parameter_shapes
from policies.artifact import Artifact
from policies.inference_numpy import NumpyPolicy
from policies.policy import ActionBatch, Policy, RandomSource
from policies.testing import make_spec
from safety.evaluation.episodes import EpisodeOutcomes, evaluate_policy
from safety.suites.spec import SeverityScale
from tests.actors.recorded_runs import record_run
from tests.replay.listed_source import ListedSource

LEFT, STAY, RIGHT = 0, 1, 2


class TestCatchMemory(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return CatchMemoryVector(EnvironmentConfig("catch-memory"), lanes)


class TestShortCatchMemory(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return CatchMemoryVector(EnvironmentConfig("catch-memory", episode_steps_max=5), lanes)


def seed_with_ball_in(column: int) -> int:
    return next(s for s in range(100) if np.random.Generator(np.random.PCG64(s)).integers(COLUMNS) == column)


def played(ball: int, actions: list[int]) -> tuple[NDArray[np.float32], float]:
    """Everything that is seen in a game, [10, ROWS, COLUMNS], and its return."""
    environment = CatchMemoryVector(EnvironmentConfig("catch-memory"), 1)
    boards = [environment.reset(np.arange(1), (seed_with_ball_in(ball),))[0]]
    total = 0.0
    for action in actions:
        step = environment.step(np.array([action], np.int32), np.ones(1, np.bool_))
        boards.append(step.observation[0])
        total += float(step.reward[0])
    assert step.terminated[0]
    return np.stack(boards), total


def test_the_ball_is_seen_in_the_first_rows_and_the_paddle_stands_still_meanwhile() -> None:
    boards, total = played(4, [RIGHT] * (ROWS - 1))
    assert total == 1.0
    for row, board in enumerate(boards):
        expected = np.zeros((ROWS, COLUMNS), np.float32)
        if row < SEEN_ROWS:
            expected[row, 4] = 1.0
        expected[ROWS - 1, min(2 + max(row - SEEN_ROWS, 0), COLUMNS - 1)] = 1.0
        np.testing.assert_array_equal(board, expected)


def test_no_policy_without_memory_does_better_or_worse_than_the_known_value() -> None:
    """Where the ball is out of sight, games with all balls look alike as long as they are played alike; so each
    sequence of moves catches one ball of all, and no mixture of them more.
    """
    for moves in itertools.product((LEFT, STAY, RIGHT), repeat=3):
        actions = [LEFT, RIGHT, LEFT, *moves, STAY, STAY, STAY]
        games = [played(ball, actions) for ball in range(COLUMNS)]
        for boards, _ in games[1:]:
            np.testing.assert_array_equal(boards[SEEN_ROWS:], games[0][0][SEEN_ROWS:])
        assert np.mean([total for _, total in games]) == pytest.approx(MEMORYLESS_RETURN)
    assert pytest.approx(-0.6) == MEMORYLESS_RETURN


def seeds_of_every_ball(games: int) -> list[int]:
    """Of as many games for each of the columns."""
    seeds: dict[int, list[int]] = {column: [] for column in range(COLUMNS)}
    for seed in range(40 * games):
        seeds[int(np.random.Generator(np.random.PCG64(seed)).integers(COLUMNS))].append(seed)
    return [seed for each in seeds.values() for seed in each[:games]]


SEEDS = seeds_of_every_ball(10)


def evaluated(policy: Policy) -> EpisodeOutcomes:
    return evaluate_policy(
        policy,
        lambda lanes: CatchMemoryVector(EnvironmentConfig("catch-memory"), lanes),
        SEEDS,
        lanes=50,
        scale=SeverityScale(),
        action_selection="greedy",
        on_progress=lambda _: None,
    )


class Forgetful:
    """A recurrent policy that is never given back what it kept."""

    state_size = 0

    def __init__(self, policy: NumpyPolicy) -> None:
        self._policy = policy
        self.spec = policy.spec

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        return self._policy.act(observation, generator)._replace(state=None)


def remembering_policy() -> NumpyPolicy:
    """A gru made by hand: five units for the ball's column, set while it is seen in the top row and kept from then on,
    five that follow the paddle, and a head that goes from the one to the other.
    """
    units = 2 * COLUMNS
    spec = make_spec((ROWS, COLUMNS), 3, hidden_sizes=(), core="gru", core_size=units)
    parameters = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(spec).items()}
    update, reset, candidate = (slice(gate * units, (gate + 1) * units) for gate in range(3))
    kernel, bias = parameters["core/input/kernel"], parameters["core/bias"]
    ball, paddle = np.arange(COLUMNS), np.arange(COLUMNS, units)
    # h' = (1 - z) n + z h. For the ball z is 1 by itself, and 0 wherever it is seen; for the paddle it is 0 always.
    bias[update][ball], bias[update][paddle] = 30.0, -30.0
    for column in range(COLUMNS):
        seen, stands = column, (ROWS - 1) * COLUMNS + column
        kernel[seen, update][ball] = -60.0
        kernel[seen, candidate][ball[column]] = 30.0
        kernel[stands, candidate][paddle[column]] = 30.0
    assert not kernel[:, reset].any()
    # Logits of left and right: where the ball is less or more than where the paddle is.
    head = parameters["policy/kernel"]
    place = np.arange(COLUMNS, dtype=np.float32)
    head[ball, RIGHT], head[paddle, RIGHT] = place, -place
    head[ball, LEFT], head[paddle, LEFT] = -place, place
    parameters["policy/bias"][STAY] = 0.5
    return NumpyPolicy(Artifact(spec, parameters))


def test_a_policy_that_remembers_catches_every_ball() -> None:
    outcomes = evaluated(remembering_policy())
    assert outcomes.returns.tolist() == [1.0] * len(SEEDS)


def test_the_same_policy_without_its_memory_does_not() -> None:
    """Its state is lost at every step, so it knows where the paddle is, and no more of the ball than anybody."""
    assert evaluated(Forgetful(remembering_policy())).returns.mean() == pytest.approx(MEMORYLESS_RETURN)


@pytest.mark.parametrize("steps_max", [0, 5])
@pytest.mark.parametrize("length", [1, 7])
def test_its_records_are_verified(steps_max: int, length: int) -> None:
    config = EnvironmentConfig("catch-memory", episode_steps_max=steps_max)
    records = record_run(config, lanes=3, length=length, unrolls=12)
    report = verify(ListedSource(records), config)
    assert (report.verified, report.mismatched, report.unverifiable) == (len(records), 0, 0)
