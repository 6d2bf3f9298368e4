"""Runs one policy for one episode on each given seed, many episodes side by side. Judges nothing.

Identical inputs give identical outcomes: the environment follows from the seeds, and the actions from a generator that
is seeded from them too. Every step draws for all lanes, also for those that have ended, so what a lane draws depends
on no other lane, and a candidate and its incumbent on the same seeds meet the same luck.

Exceptions: EvaluationError (a ValueError) for a policy or environment that yields what no episode may contain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environment import VectorEnvironment
from policies.policy import Policy
from safety.suite import seed_manifest_digest

STEPS_PER_PROGRESS = 20
"""Vector steps between two calls of the progress function."""


class EvaluationError(ValueError):
    """The candidate cannot be judged: its logits, a reward or a cost is not finite, or an action does not exist."""


class EpisodeOutcomes(NamedTuple):
    """What N episodes came to, in the order of their seeds.

    Attributes:
      returns: undiscounted sum of rewards, f8 [N].
      costs: sum of costs, f8 [N].
      lengths: steps, i8 [N].
    """

    returns: NDArray[np.float64]
    costs: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def violating(self) -> int:
        """Episodes with any cost."""
        return int(np.sum(self.costs > 0))


def evaluate_policy(
    policy: Policy,
    make_vector: Callable[[int], VectorEnvironment],
    seeds: Sequence[int],
    *,
    action_selection: str,
    lanes_max: int,
    on_progress: Callable[[int], None],
) -> EpisodeOutcomes:
    """Runs one episode per seed, at most `lanes_max` at a time.

    Args:
      policy: acts.
      make_vector: makes a fresh environment with that many lanes, so that nothing is left from another evaluation.
      seeds: one per episode; at least one.
      action_selection: "sample" or "greedy".
      lanes_max: most episodes side by side.
      on_progress: called now and then with the number of ended episodes.

    Raises:
      EvaluationError: see there.
    """
    outcomes = EpisodeOutcomes(np.zeros(len(seeds)), np.zeros(len(seeds)), np.zeros(len(seeds), np.int64))
    for start in range(0, len(seeds), lanes_max):
        chunk = seeds[start : start + lanes_max]
        lanes = slice(start, start + lanes_max)
        part = EpisodeOutcomes(outcomes.returns[lanes], outcomes.costs[lanes], outcomes.lengths[lanes])
        environment = make_vector(len(chunk))
        try:
            _run_lanes(
                policy,
                environment,
                chunk,
                part,
                action_selection=action_selection,
                on_progress=functools.partial(_add, on_progress, start),
            )
        finally:
            environment.close()
    on_progress(len(seeds))
    return outcomes


def _add(on_progress: Callable[[int], None], earlier: int, ended: int) -> None:
    on_progress(earlier + ended)


def _run_lanes(
    policy: Policy,
    environment: VectorEnvironment,
    seeds: Sequence[int],
    outcomes: EpisodeOutcomes,
    *,
    action_selection: str,
    on_progress: Callable[[int], None],
) -> None:
    """Runs one episode in every lane to its end, adding up into `outcomes` [lanes]."""
    lanes = len(seeds)
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed_manifest_digest(seeds), "big")))
    observation = environment.reset(np.arange(lanes, dtype=np.intp), seeds)
    active = np.ones(lanes, np.bool_)
    steps = 0
    while active.any():
        actions = _choose(policy, observation, active, generator, action_selection)
        step = environment.step(actions, active)
        cost = step.cost[active]
        if not np.all(cost >= 0):
            raise EvaluationError("the cost of a step is negative or NaN: costs must not cancel out")
        outcomes.returns[active] += step.reward[active]
        outcomes.costs[active] += cost
        outcomes.lengths[active] += 1
        # The entries of lanes that did not act are unspecified: an ended lane keeps its last observation.
        observation[active] = step.observation[active]
        active &= ~(step.terminated | step.truncated)
        steps += 1
        if steps % STEPS_PER_PROGRESS == 0:
            _check_finite(outcomes, steps)
            on_progress(lanes - int(active.sum()))
    _check_finite(outcomes, steps)


def _choose(
    policy: Policy,
    observation: NDArray[np.generic],
    active: NDArray[np.bool_],
    generator: np.random.Generator,
    action_selection: str,
) -> NDArray[np.int32]:
    """Actions [lanes] of the policy; checked for the active lanes."""
    batch = policy.act(observation, generator)
    if not np.all(np.isfinite(batch.logits[active])):
        raise EvaluationError("the policy's logits are not finite")
    actions = batch.action if action_selection == "sample" else np.argmax(batch.logits, axis=1).astype(np.int32)
    if np.any((actions < 0) | (actions >= policy.spec.num_actions)):
        raise EvaluationError(f"the policy chose an action outside [0, {policy.spec.num_actions})")
    return actions


def _check_finite(outcomes: EpisodeOutcomes, steps: int) -> None:
    for name, values in (("return", outcomes.returns), ("cost", outcomes.costs)):
        if not np.all(np.isfinite(values)):
            raise EvaluationError(f"the {name} of an episode is not finite within {steps} steps")
