"""Evaluations of recurrent policies, of dict observations, and of actions of several choices or real numbers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment
from actors.environments.catalog import make_vector
from policies.config import NetworkConfig
from policies.inference_numpy import NumpyPolicy
from policies.policy import ActionBatch, Policy, RandomSource
from policies.spec import PolicySpec
from policies.testing import make_artifact
from safety.evaluation.episode_replay import replay_episode
from safety.evaluation.episodes import EpisodeOutcomes, EvaluationError, evaluate_policy
from safety.evaluation.perturbations import perturb
from safety.evaluation.plants import count_plants, draw_plants, run_plants
from safety.suites.manifest import draw_seeds
from safety.suites.spec import Perturbation, SeverityScale, SliceSpec
from tests.actors.spaces_environment import STEERED, SWITCHED
from tests.safety.suites import CLASSES, slice_of

LANES = 6
SEEDS = draw_seeds(bytes(32), "held-out", 2 * LANES + 3)
SCALE = SeverityScale(minor=0.0, severe=2.0)
CATCH_MEMORY = EnvironmentConfig("catch-memory")
PENDULUM = EnvironmentConfig("gym:Pendulum-v1", episode_steps_max=15)
ROUGH = (Perturbation("action_noise", 0.2), Perturbation("action_delay", 1), Perturbation("observation_dropout", 0.2))

CASES: dict[str, tuple[EnvironmentConfig, dict[str, Any]]] = {
    "lstm, parts, real numbers": (STEERED, {"kind": "conv", "core": "lstm", "core_size": 5}),
    "gru, parts, choices": (SWITCHED, {"core": "gru", "core_size": 4, "normalize_observations": True}),
    "gru, real numbers": (PENDULUM, {"core": "gru", "core_size": 4}),
    "lstm, one choice": (CATCH_MEMORY, {"core": "lstm", "core_size": 6}),
    "no core, parts, real numbers": (STEERED, {}),
}
cases = pytest.mark.parametrize("case", CASES)


def policy_for(case: str) -> NumpyPolicy:
    config, network = CASES[case]
    spec = make_vector(config, 1).spec
    settings = NetworkConfig(**{"hidden_sizes": (7,), "conv_channels": (3,), **network})
    return NumpyPolicy(make_artifact(PolicySpec(settings, spec.observation, spec.action), 3))


def make(spec: SliceSpec, lanes: int) -> VectorEnvironment:
    return perturb(make_vector(spec.environment, lanes), spec.perturbations)


def evaluated(policy: Policy, spec: SliceSpec, selection: str = "sample") -> EpisodeOutcomes:
    return evaluate_policy(
        policy,
        functools.partial(make, spec),
        SEEDS,
        lanes=LANES,
        scale=SCALE,
        action_selection=selection,
        on_progress=lambda _: None,
    )


def alone(policy: Policy, spec: SliceSpec, index: int, selection: str = "sample") -> Any:
    return replay_episode(
        policy,
        make_vector,
        spec,
        lanes=LANES,
        index=index,
        seed=SEEDS[index],
        action_selection=selection,
        severity=SCALE,
    )


def same(policy: Policy, spec: SliceSpec, selection: str = "sample") -> list[bool]:
    """Whether each episode alone is, to the last bit, what it is among others."""
    outcomes = evaluated(policy, spec, selection)
    traces = [alone(policy, spec, index, selection) for index in range(len(SEEDS))]
    return [
        all(np.array_equal(one[0], many[index]) for one, many in zip(trace.outcome, outcomes, strict=True))
        for index, trace in enumerate(traces)
    ]


@pytest.mark.parametrize("selection", ["sample", "greedy"])
@cases
def test_an_episode_alone_is_the_same_as_among_others(case: str, selection: str) -> None:
    assert all(same(policy_for(case), slice_of(CASES[case][0]), selection))


@cases
def test_under_perturbations_too(case: str) -> None:
    assert all(same(policy_for(case), slice_of(CASES[case][0], *ROUGH)))


class Tampered:
    """A policy whose state is tampered with on its way back."""

    def __init__(self, policy: NumpyPolicy, how: str) -> None:
        self._policy, self._how = policy, how
        self._first: NDArray[np.float32] | None = None
        self.spec, self.state_size = policy.spec, policy.state_size

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        batch = self._policy.act(observation, generator, state)
        kept = batch.state
        assert kept is not None
        if self._how == "of another lane":
            kept = np.roll(kept, 1, axis=0)
        elif self._how == "not begun anew":
            # What was kept of the episodes before is there again at the beginning of the next ones.
            assert state is not None
            if self._first is not None and not state.any():
                kept = kept + self._first
            self._first = kept
        return batch._replace(state=kept)


@pytest.mark.parametrize("how", ["of another lane", "not begun anew"])
def test_the_comparison_would_tell_states_that_are_mixed_up(how: str) -> None:
    case = "lstm, parts, real numbers"
    assert not all(same(Tampered(policy_for(case), how), slice_of(CASES[case][0])))
    assert all(same(Tampered(policy_for(case), "not at all"), slice_of(CASES[case][0])))


@cases
def test_the_state_is_what_decides(case: str) -> None:
    """Without what a recurrent policy kept, its episodes come out otherwise: so it does reach it."""

    class Forgetful(Tampered):
        def act(
            self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
        ) -> ActionBatch:
            return self._policy.act(observation, generator)._replace(state=None)

    policy, spec = policy_for(case), slice_of(CASES[case][0])
    with_state = [alone(policy, spec, index).actions for index in range(4)]
    without = [alone(Forgetful(policy, ""), spec, index).actions for index in range(4)]
    changed = [not np.array_equal(one, other) for one, other in zip(with_state, without, strict=True)]
    assert any(changed) == (policy.state_size > 0)


@cases
def test_actions_of_an_episode_are_those_of_the_space(case: str) -> None:
    policy, spec = policy_for(case), slice_of(CASES[case][0])
    trace, space = alone(policy, spec, 0), policy.spec.action
    assert trace.actions.shape == (len(trace.rewards), *space.shape)
    assert trace.actions.dtype == space.dtype
    assert space.fault(trace.actions) == ""


@pytest.mark.parametrize(
    ("case", "component", "value"),
    [
        ("gru, parts, choices", 1, 2),
        ("gru, parts, choices", 0, -1),
        ("no core, parts, real numbers", 1, np.nan),
        ("no core, parts, real numbers", 0, np.inf),
    ],
)
def test_a_component_that_is_none_is_refused(case: str, component: int, value: float) -> None:
    policy = policy_for(case)

    class Faulty(Tampered):
        def act(
            self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
        ) -> ActionBatch:
            batch = self._policy.act(observation, generator, state)
            batch.action[2, component] = value
            return batch

    with pytest.raises(EvaluationError, match="the policy chose what is no action"):
        evaluated(Faulty(policy, ""), slice_of(CASES[case][0]))


@pytest.mark.parametrize("config", [STEERED, SWITCHED, PENDULUM, CATCH_MEMORY], ids=lambda config: config.name[-12:])
def test_plants_are_found_in_any_space(config: EnvironmentConfig) -> None:
    plants = draw_plants(bytes(32), "held-out", 9, 4, CLASSES)
    outcomes = run_plants(
        functools.partial(make_vector, config),
        functools.partial(perturb, perturbations=slice_of(config, *ROUGH).perturbations),
        plants,
        lanes=5,
        scale=CLASSES,
        on_progress=lambda _: None,
    )
    counts = count_plants(plants, outcomes)
    assert (counts.found, counts.violating, counts.false_alarms, counts.clean) == (9, 9, 0, 4)
