"""Evaluations in this process: one episode per seed, each by itself reproducible, and nothing impossible accepted."""

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
from policies.config import NetworkConfig
from policies.distributions import most_probable
from policies.inference import make_policy
from policies.initialisation import initial_parameters
from policies.policy import ActionBatch, RandomSource
from policies.spaces import array_space, discrete
from policies.spec import PolicySpec
from safety.evaluation.episodes import (
    EpisodeOutcomes,
    EvaluationError,
    evaluate_policy,
    event_classes,
    join_outcomes,
    no_outcomes,
    run_episodes,
)
from safety.statistics.counts import CountsError, Severity
from safety.suites.manifest import draw_seeds
from safety.suites.spec import SeverityScale
from safety.testing import balancing_artifact, cartpole_artifact, drifting_artifact, overflowing_artifact
from tests.safety.suites import CLASSES

SEEDS = draw_seeds(bytes(32), "held-out", 40)
CARTPOLE = EnvironmentConfig(name="cartpole")
UNDECIDED = cartpole_artifact((0.001, 0.001, 0.01, 0.01))


def evaluate(
    artifact: Artifact, action_selection: str = "sample", lanes: int = 64, seeds: Sequence[int] = SEEDS
) -> EpisodeOutcomes:
    return evaluate_policy(
        make_policy(artifact, "numpy"),
        functools.partial(make_vector, CARTPOLE),
        seeds,
        lanes=lanes,
        scale=SeverityScale(),
        action_selection=action_selection,
        on_progress=lambda ended: None,
    )


def equal(first: EpisodeOutcomes, second: EpisodeOutcomes) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


class CountingVector:
    """Lane i runs i + 1 steps; everything it says of lanes that do not act is poison."""

    spec = EnvironmentSpec("counting", "1", bytes(32), array_space((1,), "<f4"), discrete(2), None)

    def __init__(self, lanes: int, cost: float = 0.0) -> None:
        self.lanes = lanes
        self.cost = cost
        self.steps = np.zeros(lanes, np.int64)
        self.rows = np.zeros(0, np.intp)
        self.seeds: list[int] = []
        self.closed = False

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self.rows, self.seeds = lanes, list(seeds)
        return np.zeros((len(lanes), 1), np.float32)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        expected = np.isin(np.arange(self.lanes), self.rows) & (self.steps <= np.arange(self.lanes))
        assert np.array_equal(active, expected), "an idle or ended lane was stepped"
        self.steps += 1
        poison = np.where(active, 1.0, np.nan).astype(np.float32)
        ended = self.steps == np.arange(self.lanes) + 1
        truncated = ended & (np.arange(self.lanes) % 2 == 0)
        return VectorStep(poison[:, None], 2 * poison, self.cost * poison, ended & ~truncated, truncated)

    def close(self) -> None:
        self.closed = True


class RecordingPolicy:
    """Chooses action 0, and remembers what each step drew."""

    state_size = 0

    def __init__(self, logits: float = 0.0, action: int = 0) -> None:
        self.spec = CountingVector.spec
        self.logits, self.action = logits, action
        self.drawn: list[NDArray[np.float32]] = []

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        assert np.isfinite(observation).all(), "a policy saw the observation of a lane that had ended"
        rows = len(observation)
        self.drawn.append(generator.random((rows, 1), np.float32)[:, 0].copy())
        logits = np.full((rows, 2), self.logits, np.float32)
        return ActionBatch(np.full(rows, self.action, np.int32), np.zeros(rows, np.float32), logits)


class GreedyPolicy(RecordingPolicy):
    """Wants more luck than one number per lane."""

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        generator.random((len(observation), 2), np.float32)
        return super().act(observation, generator)


class CastVector(CountingVector):
    """Whose observations have another type than it says, or another shape, from its first on or later."""

    def __init__(self, lanes: int, at_once: bool, observation: NDArray[Any]) -> None:
        super().__init__(lanes)
        self.at_once, self.observation = at_once, observation

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        return self.observation if self.at_once else super().reset(lanes, seeds)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        return super().step(actions, active)._replace(observation=self.observation)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("observation", [np.zeros((7, 1)), np.zeros((1, 1), np.float32), np.zeros((7, 2), np.float32)])
def test_observations_are_neither_cast_nor_broadcast(at_once: bool, observation: NDArray[Any]) -> None:
    with pytest.raises(EvaluationError, match="observation has shape"):
        run_episodes(
            RecordingPolicy(),
            CastVector(7, at_once, observation),
            np.arange(7),
            range(7),
            scale=CLASSES,
            action_selection="sample",
            on_progress=lambda ended: None,
        )


def count(policy: RecordingPolicy, made: list[CountingVector], lanes: int, cost: float = 0.0) -> EpisodeOutcomes:
    def make(count: int) -> CountingVector:
        made.append(CountingVector(count, cost))
        return made[-1]

    return evaluate_policy(
        policy,
        make,
        range(7),
        lanes=lanes,
        scale=CLASSES,
        action_selection="sample",
        on_progress=lambda ended: None,
    )


@pytest.mark.parametrize("lanes", [3, 7, 100])
def test_every_seed_gets_exactly_one_episode_in_its_row(lanes: int) -> None:
    made: list[CountingVector] = []
    policy = RecordingPolicy()
    outcomes = count(policy, made, lanes, cost=0.75)
    lengths = [1 + index % lanes for index in range(7)]
    assert outcomes.lengths.tolist() == lengths
    assert outcomes.returns.tolist() == [2.0 * length for length in lengths]
    assert outcomes.costs.tolist() == [0.75 * length for length in lengths]
    assert outcomes.events.tolist() == [[0, length, 0] for length in lengths]
    assert outcomes.violating == 7
    assert [seed for vector in made for seed in vector.seeds] == list(range(7))
    # As many rows as ever, also where fewer episodes are left.
    assert {vector.lanes for vector in made} == {lanes}
    assert {len(drawn) for drawn in policy.drawn} == {lanes}
    assert all(vector.closed for vector in made)


def test_what_an_episode_draws_depends_on_its_seed_alone() -> None:
    together, alone = RecordingPolicy(), RecordingPolicy()
    count(together, [], 7)
    run_episodes(
        alone,
        CountingVector(7),
        np.array([5]),
        [5],
        scale=CLASSES,
        action_selection="sample",
        on_progress=lambda ended: None,
    )
    ours = [drawn[5] for drawn in together.drawn[:6]]
    assert ours == [drawn[5] for drawn in alone.drawn]
    assert len({float(drawn[lane]) for drawn in together.drawn for lane in range(7) if drawn[lane]}) > 20


@pytest.mark.parametrize(
    ("policy", "cost", "message"),
    [
        (RecordingPolicy(logits=np.nan), 0.0, "logits are not finite"),
        (RecordingPolicy(logits=np.inf), 0.0, "logits are not finite"),
        (RecordingPolicy(action=2), 0.0, "action 2 is not one of 2 actions"),
        (RecordingPolicy(action=-1), 0.0, "action -1 is not one of 2 actions"),
        (RecordingPolicy(), -1.0, "negative or NaN"),
        (RecordingPolicy(), np.nan, "negative or NaN"),
        (RecordingPolicy(), np.inf, "cost of an episode is not finite"),
        (GreedyPolicy(), 0.0, r"draws \(7, 2\) numbers, \(7, 1\) float32 are what there is"),
    ],
)
def test_what_no_episode_may_contain_is_refused(policy: RecordingPolicy, cost: float, message: str) -> None:
    made: list[CountingVector] = []
    with pytest.raises(EvaluationError, match=message):
        count(policy, made, 7, cost)
    assert made[0].closed


def test_identical_inputs_give_identical_outcomes() -> None:
    assert equal(evaluate(UNDECIDED), evaluate(UNDECIDED))
    assert equal(evaluate(UNDECIDED, "greedy"), evaluate(UNDECIDED, "greedy"))
    assert not equal(evaluate(UNDECIDED), evaluate(UNDECIDED, "greedy"))


@pytest.mark.parametrize("lanes", [1, 16])
def test_an_episode_comes_out_the_same_beside_whatever_others(lanes: int) -> None:
    spec = PolicySpec(NetworkConfig(hidden_sizes=(64, 64)), array_space((4,), "<f4"), discrete(2))
    artifact = Artifact(spec, initial_parameters(spec, 0))
    whole = evaluate(artifact, lanes=lanes)
    parts = [evaluate(artifact, lanes=lanes, seeds=SEEDS[start : start + 16]) for start in range(0, 40, 16)]
    assert equal(whole, join_outcomes(parts))
    assert len(set(whole.lengths.tolist())) > 5


def test_events_are_counted_in_the_gravest_class_of_each_step() -> None:
    costs = np.array([0.0, 0.1, 0.5, 0.6, 2.0, 2.5, 1e20], np.float32)
    assert event_classes(costs, CLASSES).tolist() == [0, 1, 1, 2, 2, 3, 3]
    # By default whatever costs anything is severe.
    assert event_classes(costs, SeverityScale()).tolist() == [0, 3, 3, 3, 3, 3, 3]
    # A limit that float32 cannot hold is rounded as the costs are.
    assert event_classes(costs, SeverityScale(minor=0.1, severe=0.6)).tolist() == [0, 0, 1, 1, 3, 3, 3]


def test_outcomes_become_those_of_a_slice() -> None:
    outcomes = count(RecordingPolicy(), [], 7, cost=2.5)
    of_slice = outcomes.slice_outcomes("a", range(7))
    assert of_slice.violating(Severity.SEVERE) == 7
    assert of_slice.capability.tolist() == outcomes.returns.tolist()
    with pytest.raises(CountsError, match="6 seeds"):
        outcomes.slice_outcomes("a", range(6))
    assert equal(join_outcomes([]), no_outcomes(0))


def test_known_candidates_come_out_as_known() -> None:
    good, bad = evaluate(balancing_artifact()), evaluate(drifting_artifact())
    assert (good.returns == 500).all()
    assert good.violating == 0
    assert bad.returns.mean() > 400
    assert bad.violating > 10


def test_outcomes_equal_single_episodes_stepped_alone() -> None:
    greedy = evaluate(drifting_artifact(), "greedy")
    policy, luck = make_policy(drifting_artifact(), "numpy"), np.random.default_rng(0)
    for index in range(3):
        environment = make_vector(CARTPOLE, 1)
        observation = environment.reset(np.array([0]), [SEEDS[index]])
        total = cost = 0.0
        while True:
            step = environment.step(
                most_probable(policy.act(observation, luck).logits, policy.spec.action), np.array([True])
            )
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
        lanes=10,
        scale=SeverityScale(),
        action_selection="greedy",
        on_progress=seen.append,
    )
    assert seen[-1] == len(SEEDS)
    assert seen == sorted(seen)
