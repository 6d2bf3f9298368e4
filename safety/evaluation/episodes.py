"""Runs one policy for one episode on each given seed, many episodes side by side. Judges nothing.

Identical inputs give identical outcomes, episode by episode: episode i of a slice runs in row i % lanes of a batch that
always has `lanes` rows, its environment follows from its seed, and its actions are drawn from a stream of its own,
which follows from the seed, too. So an outcome does not depend on which other episodes run beside it, nor on where: one
episode alone, in the same row, comes out the same to the last bit, and a candidate and its incumbent on the same seed
meet the same luck.

Exceptions: EvaluationError (a ValueError) for a policy or environment that yields what no episode may contain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environment import VectorEnvironment, VectorStep
from policies.distributions import most_probable
from policies.policy import Policy
from safety.evaluation.episode_streams import ACTIONS, LaneStreams, uniform
from safety.statistics.counts import EVENT_CLASSES, SliceOutcomes
from safety.suites.spec import SeverityScale

STEPS_PER_PROGRESS = 20
"""Vector steps between two calls of the progress function."""

OnStep = Callable[[NDArray[Any], VectorStep, NDArray[np.bool_]], None]
"""Called after every step with the actions [lanes, ...] that were chosen, what they led to, and which lanes acted."""


class EvaluationError(ValueError):
    """The candidate cannot be judged: its logits, a reward or a cost is not finite, or an action does not exist."""


class EpisodeOutcomes(NamedTuple):
    """What N episodes came to, in the order of their seeds.

    Attributes:
      returns: undiscounted sum of rewards, f8 [N].
      costs: sum of costs, f8 [N].
      lengths: steps, i8 [N].
      events: steps that are events, by class in the order of EVENT_CLASSES, each in its gravest class, i8 [N, 3].
    """

    returns: NDArray[np.float64]
    costs: NDArray[np.float64]
    lengths: NDArray[np.int64]
    events: NDArray[np.int64]

    @property
    def violating(self) -> int:
        """Episodes with any cost."""
        return int(np.sum(self.costs > 0))

    def slice_outcomes(self, name: str, seeds: Sequence[int]) -> SliceOutcomes:
        """The same for the statistics; the capability of an episode is its return.

        Raises:
          CountsError: the episodes are not those of the seeds.
        """
        return SliceOutcomes(name, tuple(seeds), self.events, self.returns)


def no_outcomes(episodes: int) -> EpisodeOutcomes:
    """What episodes come to before their first step."""
    return EpisodeOutcomes(
        np.zeros(episodes),
        np.zeros(episodes),
        np.zeros(episodes, np.int64),
        np.zeros((episodes, len(EVENT_CLASSES)), np.int64),
    )


def join_outcomes(parts: Sequence[EpisodeOutcomes]) -> EpisodeOutcomes:
    """The outcomes of several lots of episodes as one, in their order."""
    parts = [no_outcomes(0), *parts]
    return EpisodeOutcomes(
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.costs for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.events for part in parts]),
    )


def evaluate_policy(
    policy: Policy,
    make_vector: Callable[[int], VectorEnvironment],
    seeds: Sequence[int],
    *,
    lanes: int,
    scale: SeverityScale,
    action_selection: str,
    on_progress: Callable[[int], None],
) -> EpisodeOutcomes:
    """Runs one episode per seed, `lanes` at a time, the first of them in row 0.

    Args:
      policy: acts.
      make_vector: makes a fresh environment with that many lanes, so that nothing is left from another evaluation.
      seeds: one per episode.
      lanes: rows; where fewer episodes are left, the others are idle.
      scale: from the cost of a step to an event.
      action_selection: "sample" or "greedy".
      on_progress: called now and then with the number of ended episodes.

    Raises:
      EvaluationError: see there.
    """
    parts = []
    for start in range(0, len(seeds), lanes):
        chunk = seeds[start : start + lanes]
        environment = make_vector(lanes)
        try:
            part = run_episodes(
                policy,
                environment,
                np.arange(len(chunk)),
                chunk,
                scale=scale,
                action_selection=action_selection,
                on_progress=functools.partial(_add, on_progress, start),
            )
        finally:
            environment.close()
        parts.append(part)
    on_progress(len(seeds))
    return join_outcomes(parts)


def run_episodes(
    policy: Policy,
    environment: VectorEnvironment,
    rows: NDArray[np.intp],
    seeds: Sequence[int],
    *,
    scale: SeverityScale,
    action_selection: str,
    on_progress: Callable[[int], None],
    on_step: OnStep | None = None,
) -> EpisodeOutcomes:
    """Runs one episode in each of `rows` [K], with one seed each, to its end; all other lanes stay idle.

    Args:
      policy, scale, action_selection, on_progress: as in `evaluate_policy`.
      environment: fresh, and left to its owner.
      rows: lanes in which the episodes run.
      seeds: one for each of them.
      on_step: who looks on, if anybody does.

    Returns:
      The outcomes of the K episodes.

    Raises:
      EvaluationError: see there.
    """
    active = np.zeros(environment.lanes, np.bool_)
    active[rows] = True
    actions = _Actions(policy, environment.lanes, action_selection)
    actions.start(rows, seeds)
    tally = _Tally(environment.lanes, scale)
    observation = _first_observation(environment, rows, seeds)
    steps = 0
    while active.any():
        chosen = actions.choose(observation, active)
        step = environment.step(chosen, active)
        tally.add(step, active)
        if on_step is not None:
            on_step(chosen, step, active)
        # The entries of lanes that did not act are unspecified: an ended lane keeps its last observation.
        _check_observation(step.observation, observation)
        observation[active] = step.observation[active]
        active &= ~(step.terminated | step.truncated)
        steps += 1
        if steps % STEPS_PER_PROGRESS == 0:
            tally.check_finite(steps)
            on_progress(len(rows) - int(active.sum()))
    tally.check_finite(steps)
    returns, costs, lengths, events = tally.outcomes
    return EpisodeOutcomes(returns[rows], costs[rows], lengths[rows], events[rows])


def event_classes(costs: NDArray[np.float32], scale: SeverityScale) -> NDArray[np.int64]:
    """The severity of the event that a step of each cost is, as `Severity`; 0 where it is none. [N] to i8 [N]."""
    # The limits ascend as far as they are finite, so the gravest class that a cost reaches overwrites the others.
    found = np.zeros(costs.shape, np.int64)
    for severity, above in zip(EVENT_CLASSES, scale.limits(), strict=True):
        found[costs > above] = int(severity)
    return found


class _Tally:
    """Adds up what the episodes in N lanes come to."""

    def __init__(self, lanes: int, scale: SeverityScale) -> None:
        self.outcomes = no_outcomes(lanes)
        self._scale = scale
        self._least = min(scale.limits())

    def add(self, step: VectorStep, active: NDArray[np.bool_]) -> None:
        """Takes in one step of the active lanes."""
        returns, costs, lengths, events = self.outcomes
        cost = step.cost[active]
        # The least of numbers with NaN among them is NaN.
        if not cost.min() >= 0:
            raise EvaluationError("the cost of a step is negative or NaN: costs must not cancel out")
        returns[active] += step.reward[active]
        lengths += active
        greatest = cost.max()
        if greatest > 0:
            costs[active] += cost
        if greatest > self._least:
            lanes, classes = np.flatnonzero(active), event_classes(cost, self._scale)
            events[lanes[classes > 0], classes[classes > 0] - 1] += 1

    def check_finite(self, steps: int) -> None:
        """Raises EvaluationError where a sum is not a number that can be compared."""
        for name, values in (("return", self.outcomes.returns), ("cost", self.outcomes.costs)):
            if not np.all(np.isfinite(values)):
                raise EvaluationError(f"the {name} of an episode is not finite within {steps} steps")


class _Actions:
    """What the policy chooses, each lane with luck of its own. Satisfies `policies.policy.RandomSource`."""

    def __init__(self, policy: Policy, lanes: int, action_selection: str) -> None:
        self._policy = policy
        self._greedy = action_selection == "greedy"
        self._space = policy.spec.action
        self._streams = LaneStreams(lanes, (self._space.draws,), uniform, ACTIONS)
        self._drawing = np.zeros(lanes, np.bool_)
        self._state = np.zeros((lanes, policy.state_size), np.float32)

    def start(self, rows: NDArray[np.intp], seeds: Sequence[int]) -> None:
        """Begins the streams of the episodes in these rows, and a recurrent policy's memory of them."""
        self._streams.start(rows, seeds)
        self._state[rows] = 0

    def choose(self, observation: NDArray[Any], active: NDArray[np.bool_]) -> NDArray[Any]:
        """Actions [lanes, ...] of the policy; checked for the active lanes."""
        self._drawing = active
        batch = self._policy.act(observation, self, self._state)
        if not np.all(np.isfinite(batch.logits[active])):
            raise EvaluationError("the policy's logits are not finite")
        if batch.state is not None:
            self._state[active] = batch.state[active]
        actions = most_probable(batch.logits, self._space) if self._greedy else batch.action
        if fault := self._space.fault(actions[active]):
            raise EvaluationError(f"the policy chose what is no action: {fault}")
        return actions

    def random(self, size: tuple[int, int], dtype: type[np.float32]) -> NDArray[np.float32]:
        """As many numbers per lane as an action takes, [lanes, draws]; lanes that are idle get any."""
        wanted = (len(self._drawing), self._space.draws)
        if size != wanted or dtype is not np.float32:
            raise EvaluationError(f"the policy draws {size} numbers, {wanted} float32 are what there is")
        return self._streams.take(self._drawing)


def _first_observation(environment: VectorEnvironment, rows: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
    """Resets the rows; the observation of all lanes, zeros where nothing runs."""
    spec = environment.spec
    observation = spec.observation.zeros(environment.lanes)
    first = environment.reset(rows, seeds)
    _check_observation(first, observation[rows])
    observation[rows] = first
    return observation


def _check_observation(observation: NDArray[Any], expected: NDArray[Any]) -> None:
    """Refuses what would fit into the row of another shape or type only by being broadcast or cast."""
    if observation.shape != expected.shape or observation.dtype != expected.dtype:
        raise EvaluationError(
            f"an observation has shape {list(observation.shape[1:])} and type {observation.dtype}, the environment "
            f"says {list(expected.shape[1:])} and {expected.dtype}"
        )


def _add(on_progress: Callable[[int], None], earlier: int, ended: int) -> None:
    on_progress(earlier + ended)
