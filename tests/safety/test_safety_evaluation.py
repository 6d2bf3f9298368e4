"""Evaluations in this process: one episode per seed, reproducible, and nothing impossible accepted."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec, VectorStep
from actors.environments.catalog import make_vector
from policies.artifact import Artifact
from policies.inference import make_policy
from policies.policy import ActionBatch
from safety.evaluation import EpisodeOutcomes, EvaluationError, evaluate_policy
from safety.suite import draw_seeds
from safety.testing import balancing_artifact, cartpole_artifact, drifting_artifact, overflowing_artifact

SEEDS = draw_seeds(bytes(32), 40)
CARTPOLE = EnvironmentConfig(name="cartpole")


def evaluate(artifact: Artifact, action_selection: str = "sample", lanes_max: int = 256) -> EpisodeOutcomes:
    return evaluate_policy(
        make_policy(artifact, "numpy"),
        functools.partial(make_vector, CARTPOLE),
        SEEDS,
        action_selection=action_selection,
        lanes_max=lanes_max,
        on_progress=lambda ended: None,
    )


def equal(first: EpisodeOutcomes, second: EpisodeOutcomes) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


class CountingVector:
    """Lane i of n runs i + 1 steps; everything it says of lanes that do not act is poison."""

    spec = EnvironmentSpec("counting", "1", bytes(32), (1,), "<f4", 2, None)

    def __init__(self, lanes: int, cost: float = 0.0) -> None:
        self.lanes = lanes
        self.cost = cost
        self.steps = np.zeros(lanes, np.int64)
        self.seeds: list[int] = []
        self.closed = False

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        assert lanes.tolist() == list(range(self.lanes))
        self.seeds = list(seeds)
        return np.zeros((self.lanes, 1), np.float32)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        assert np.array_equal(active, self.steps <= np.arange(self.lanes)), "an ended lane was stepped again"
        self.steps += 1
        poison = np.where(active, 1.0, np.nan).astype(np.float32)
        ended = self.steps == np.arange(self.lanes) + 1
        truncated = ended & (np.arange(self.lanes) % 2 == 0)
        return VectorStep(poison[:, None], 2 * poison, self.cost * poison, ended & ~truncated, truncated)

    def close(self) -> None:
        self.closed = True


class RecordingPolicy:
    """Chooses action 0, and remembers how many random numbers each step could have drawn."""

    def __init__(self, logits: float = 0.0, action: int = 0) -> None:
        self.spec = CountingVector.spec
        self.logits, self.action = logits, action
        self.rows: list[int] = []

    def act(self, observation: NDArray[Any], generator: np.random.Generator) -> ActionBatch:
        assert np.isfinite(observation).all(), "a policy saw the observation of a lane that had ended"
        rows = len(observation)
        self.rows.append(rows)
        logits = np.full((rows, 2), self.logits, np.float32)
        return ActionBatch(np.full(rows, self.action, np.int32), np.zeros(rows, np.float32), logits)

    def greedy(self, observation: NDArray[Any]) -> NDArray[np.int32]:
        raise NotImplementedError


def count(policy: RecordingPolicy, made: list[CountingVector], lanes_max: int, cost: float = 0.0) -> EpisodeOutcomes:
    def make(lanes: int) -> CountingVector:
        made.append(CountingVector(lanes, cost))
        return made[-1]

    return evaluate_policy(
        policy, make, range(7), action_selection="sample", lanes_max=lanes_max, on_progress=lambda ended: None
    )


@pytest.mark.parametrize("lanes_max", [3, 7, 100])
def test_every_seed_gets_exactly_one_episode(lanes_max: int) -> None:
    made: list[CountingVector] = []
    outcomes = count(RecordingPolicy(), made, lanes_max, cost=0.5)
    lengths = [1 + index % lanes_max for index in range(7)]
    assert outcomes.lengths.tolist() == lengths
    assert outcomes.returns.tolist() == [2.0 * length for length in lengths]
    assert outcomes.costs.tolist() == [0.5 * length for length in lengths]
    assert outcomes.violating == 7
    assert [seed for vector in made for seed in vector.seeds] == list(range(7))
    assert all(vector.closed for vector in made)


def test_every_step_draws_for_all_lanes_so_that_lanes_share_no_luck() -> None:
    policy = RecordingPolicy()
    count(policy, [], 7)
    assert policy.rows == [7] * 7


@pytest.mark.parametrize(
    ("policy", "cost", "message"),
    [
        (RecordingPolicy(logits=np.nan), 0.0, "logits are not finite"),
        (RecordingPolicy(logits=np.inf), 0.0, "logits are not finite"),
        (RecordingPolicy(action=2), 0.0, r"outside \[0, 2\)"),
        (RecordingPolicy(action=-1), 0.0, r"outside \[0, 2\)"),
        (RecordingPolicy(), -1.0, "negative or NaN"),
        (RecordingPolicy(), np.nan, "negative or NaN"),
        (RecordingPolicy(), np.inf, "cost of an episode is not finite"),
    ],
)
def test_what_no_episode_may_contain_is_refused(policy: RecordingPolicy, cost: float, message: str) -> None:
    made: list[CountingVector] = []
    with pytest.raises(EvaluationError, match=message):
        count(policy, made, 7, cost)
    assert made[0].closed


def test_identical_inputs_give_identical_outcomes() -> None:
    undecided = cartpole_artifact((0.001, 0.001, 0.01, 0.01))
    assert equal(evaluate(undecided), evaluate(undecided))
    assert equal(evaluate(undecided, "greedy"), evaluate(undecided, "greedy"))
    assert not equal(evaluate(undecided), evaluate(undecided, "greedy"))


def test_known_candidates_come_out_as_known() -> None:
    good, bad = evaluate(balancing_artifact()), evaluate(drifting_artifact())
    assert (good.returns == 500).all()
    assert good.violating == 0
    assert bad.returns.mean() > 400
    assert bad.violating > 10


def test_outcomes_equal_single_episodes_stepped_alone() -> None:
    greedy = evaluate(drifting_artifact(), "greedy")
    policy = make_policy(drifting_artifact(), "numpy")
    for index in range(3):
        environment = make_vector(CARTPOLE, 1)
        observation = environment.reset(np.array([0]), [SEEDS[index]])
        total = cost = 0.0
        while True:
            step = environment.step(policy.greedy(observation), np.array([True]))
            observation = step.observation
            total, cost = total + float(step.reward[0]), cost + float(step.cost[0])
            if step.terminated[0] or step.truncated[0]:
                break
        assert (greedy.returns[index], greedy.costs[index]) == (total, cost)


def test_logits_that_overflow_are_refused() -> None:
    with np.errstate(all="ignore"), pytest.raises(EvaluationError, match="logits are not finite"):
        evaluate(overflowing_artifact())


def test_progress_counts_ended_episodes() -> None:
    seen: list[int] = []
    evaluate_policy(
        make_policy(cartpole_artifact((0.0, 0.0, -1.0, -1.0)), "numpy"),
        functools.partial(make_vector, CARTPOLE),
        SEEDS,
        action_selection="greedy",
        lanes_max=10,
        on_progress=seen.append,
    )
    assert seen[-1] == len(SEEDS)
    assert seen == sorted(seen)
