"""Runs a policy on fresh episodes, by a loop of its own: what the gate says of a release is not asked.

    python -m benchmarks.policy_evaluation '{"artifact": F, "environment": {...}, "episodes": N, "seed": S, "out": F}'

The episodes' seeds are drawn from `seed` out of the range that no training episode has, so that the policies of two
runs that are given the same seed meet the same episodes. Actions are sampled, as actors sample them. Writes a JSON
object with the return and the cost of each episode.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment
from actors.environments.catalog import make_vector
from actors.seeds import EVALUATION_SEED_END, TRAINING_SEED_END
from policies.artifact import Artifact, artifact_digest
from policies.inference import make_policy
from policies.policy import Policy

LANES_MAX = 64


class Episodes(NamedTuple):
    """Return and cost of each episode, f8 [N]."""

    returns: NDArray[np.float64]
    costs: NDArray[np.float64]


def fresh_seeds(seed: int, episodes: int) -> list[int]:
    """As many episode seeds, none of which training can have seen."""
    drawn = np.random.default_rng([seed, episodes]).integers(TRAINING_SEED_END, EVALUATION_SEED_END, episodes)
    return [int(each) for each in drawn]


def run_episodes(
    policy: Policy, environment: VectorEnvironment, seeds: Sequence[int], generator: np.random.Generator
) -> Episodes:
    """One episode for each seed, each to its end; a lane whose episode has ended takes the next.

    Args:
      policy: acts.
      environment: whose lanes are all used; it is left open.
      seeds: at least one for each lane.
      generator: draws the actions.
    """
    lanes, count = environment.lanes, len(seeds)
    episode, begun = np.arange(lanes), lanes
    returns, costs = np.zeros(count), np.zeros(count)
    active = np.ones(lanes, np.bool_)
    observation = environment.reset(np.arange(lanes), seeds[:lanes])
    while active.any():
        step = environment.step(policy.act(observation, generator).action, active)
        rows = np.flatnonzero(active)
        returns[episode[rows]] += step.reward[rows]
        costs[episode[rows]] += step.cost[rows]
        # What an idle lane shows is unspecified, and the policy looks at all of them.
        observation = np.where(active.reshape(-1, *(1,) * (step.observation.ndim - 1)), step.observation, observation)
        ended = np.flatnonzero(active & (step.terminated | step.truncated))
        again, idle = ended[: count - begun], ended[count - begun :]
        active[idle] = False
        if again.size:
            episode[again] = np.arange(begun, begun + again.size)
            observation[again] = environment.reset(again, [seeds[each] for each in episode[again]])
            begun += again.size
    return Episodes(returns, costs)


def main(argument: str) -> int:
    """The command."""
    given = json.loads(argument)
    data = Path(given["artifact"]).read_bytes()
    policy = make_policy(Artifact.from_bytes(data, artifact_digest(data)).check_finite(), "numpy")
    seeds = fresh_seeds(given["seed"], given["episodes"])
    environment = make_vector(EnvironmentConfig(**given["environment"]), min(LANES_MAX, len(seeds)))
    try:
        episodes = run_episodes(policy, environment, seeds, np.random.default_rng([given["seed"], 1]))
    finally:
        environment.close()
    result = {name: values.tolist() for name, values in episodes._asdict().items()}
    Path(given["out"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
