"""One episode run again: the same to the last bit, and every step of it shown."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment
from actors.environments.catalog import make_vector
from policies.artifact import Artifact
from policies.config import NetworkConfig
from policies.inference import make_policy
from policies.initialisation import initial_parameters
from policies.spec import PolicySpec
from safety.evaluation.episode_replay import EpisodeTrace, replay_episode
from safety.evaluation.episodes import EpisodeOutcomes, evaluate_policy
from safety.evaluation.perturbations import perturb
from safety.statistics.counts import EVENT_CLASSES
from safety.suites.manifest import draw_seeds
from safety.suites.spec import Perturbation, SeverityScale, SliceSpec
from safety.testing import drifting_artifact
from tests.safety.suites import CARTPOLE, slice_of

LANES = 16
SEEDS = draw_seeds(bytes(32), "held-out", 24)
SCALE = SeverityScale(minor=0.0, severe=2.0)
ROUGH = (Perturbation("action_noise", 0.2), Perturbation("action_delay", 2), Perturbation("observation_dropout", 0.1))


def learnt(environment: str, kind: str = "mlp") -> Artifact:
    interface = make_vector(EnvironmentConfig(name=environment), 1).spec
    network = NetworkConfig(kind=kind)
    spec = PolicySpec(network, interface.observation, interface.action)
    return Artifact(spec, initial_parameters(spec, 1))


def make(spec: SliceSpec, lanes: int) -> VectorEnvironment:
    return perturb(make_vector(spec.environment, lanes), spec.perturbations)


def evaluated(artifact: Artifact, spec: SliceSpec, selection: str) -> EpisodeOutcomes:
    return evaluate_policy(
        make_policy(artifact, "numpy"),
        functools.partial(make, spec),
        SEEDS,
        lanes=LANES,
        scale=SCALE,
        action_selection=selection,
        on_progress=lambda ended: None,
    )


def replayed(artifact: Artifact, spec: SliceSpec, selection: str, index: int) -> EpisodeTrace:
    return replay_episode(
        make_policy(artifact, "numpy"),
        make_vector,
        spec,
        lanes=LANES,
        index=index,
        seed=SEEDS[index],
        action_selection=selection,
        severity=SCALE,
    )


@pytest.mark.parametrize("perturbations", [(), ROUGH])
@pytest.mark.parametrize(
    ("environment", "kind", "selection"),
    [
        ("cartpole", "mlp", "sample"),
        ("cartpole", "mlp", "greedy"),
        ("catch", "mlp", "sample"),
        ("minatar:asterix", "conv", "sample"),
    ],
)
def test_an_episode_comes_out_as_it_was_evaluated(
    environment: str, kind: str, perturbations: tuple[Perturbation, ...], selection: str
) -> None:
    spec = slice_of(EnvironmentConfig(name=environment, episode_steps_max=30), *perturbations)
    artifact = learnt(environment, kind)
    outcomes = evaluated(artifact, spec, selection)
    for index in (0, 15, 16, 23):
        trace = replayed(artifact, spec, selection, index)
        steps = outcomes.lengths[index]
        assert len(trace.actions) == len(trace.rewards) == len(trace.costs) == len(trace.severities) == steps
        assert trace.outcome.returns[0] == outcomes.returns[index]
        assert np.add.accumulate(trace.rewards, dtype=np.float64)[-1] == outcomes.returns[index]
        assert trace.outcome.events[0].tolist() == outcomes.events[index].tolist()
    assert len(set(outcomes.lengths.tolist())) > 1 or environment == "catch"


def test_the_steps_that_cost_are_shown() -> None:
    spec = slice_of(CARTPOLE)
    outcomes = evaluated(drifting_artifact(), spec, "sample")
    index = int(np.argmax(outcomes.events[:, 0]))
    trace = replayed(drifting_artifact(), spec, "sample", index)
    assert outcomes.events[index, 0] > 0
    assert float(trace.costs.sum()) == outcomes.costs[index]
    assert [int(np.sum(trace.severities == int(each))) for each in EVENT_CLASSES] == outcomes.events[index].tolist()
    assert np.array_equal(trace.severities > 0, trace.costs > 0)


def test_how_an_episode_ended_is_told() -> None:
    ends = {}
    for limit in (5, 0):
        spec = slice_of(EnvironmentConfig(name="cartpole", episode_steps_max=limit))
        trace = replayed(learnt("cartpole"), spec, "sample", 3)
        ends[limit] = (len(trace.actions), trace.terminated)
    assert ends[5] == (5, False)
    assert ends[0][0] > 5
    assert ends[0][1]


def test_another_row_or_seed_is_another_episode() -> None:
    spec = slice_of(CARTPOLE)
    policy = make_policy(learnt("cartpole"), "numpy")
    lengths = set()
    for seed in SEEDS[:10]:
        trace = replay_episode(
            policy, make_vector, spec, lanes=LANES, index=0, seed=seed, action_selection="sample", severity=SCALE
        )
        lengths.add(len(trace.actions))
    assert len(lengths) > 3
