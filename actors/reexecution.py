"""Runs episodes again: from a seed and the actions taken, what the environment answers.

Many episodes at once, one in each lane; a lane whose episode is over takes the next one. An environment is wholly
determined by the seed of each reset and the actions since (actors.environment), so this is what a record of the
episode must hold. Knows nothing of records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environment import VectorEnvironment


class EpisodeReplay(NamedTuple):
    """An episode to run again, from its reset on: its seed and its first k actions ([k, *action shape])."""

    seed: int
    actions: NDArray[Any]


class EpisodeOutcome(NamedTuple):
    """What happened. m = k steps were made, or fewer where the episode ended before: its last one says how."""

    observation: NDArray[Any]
    """[m + 1, *shape]; row t is what action t was taken in, row m the last observation."""
    reward: NDArray[np.float32]
    """[m]"""
    cost: NDArray[np.float32]
    """[m]"""
    terminated: NDArray[np.bool_]
    """[m]"""
    truncated: NDArray[np.bool_]
    """[m]"""

    @property
    def steps(self) -> int:
        """m."""
        return len(self.reward)


def reexecute(environment: VectorEnvironment, episodes: Sequence[EpisodeReplay]) -> list[EpisodeOutcome]:
    """Runs every episode again, and returns what came of each, in their order.

    Actions must be of the action space, seeds in [0, 2**63). Whatever the environment raises is passed on.
    """
    courses = Courses(environment, episodes)
    while courses.step():
        pass
    return courses.outcomes()


class Courses:
    """Episodes being run again, step by step. For whoever must look meanwhile; others call `reexecute`."""

    # The episodes' rows, one after another: k + 1 for each, its observations in all and its steps in the first k.

    def __init__(self, environment: VectorEnvironment, episodes: Sequence[EpisodeReplay]) -> None:
        lengths = np.array([len(episode.actions) for episode in episodes], np.int64)
        self._environment = environment
        self._episodes = episodes
        self._base = np.concatenate([[0], np.cumsum(lengths + 1)]).astype(np.int64)
        # The long ones first, so that in the end few lanes are left waiting for few others.
        self._waiting = np.argsort(lengths, kind="stable").tolist()
        rows, spec, lanes = int(self._base[-1]), environment.spec, environment.lanes
        self._action = spec.action.zeros(rows)
        for base, episode in zip(self._base.tolist(), episodes, strict=False):
            self._action[base : base + len(episode.actions)] = episode.actions
        self._observation: NDArray[Any] = spec.observation.zeros(rows)
        self._reward, self._cost = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
        self._terminated, self._truncated = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
        self._made = np.zeros(len(episodes), np.int64)
        self._episode = np.zeros(lanes, np.int64)
        self._row, self._end = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self._active = np.zeros(lanes, np.bool_)
        self._chosen = spec.action.zeros(lanes)

    def step(self) -> bool:
        """Begins episodes in idle lanes, and steps all that have one; False once nothing is left to do."""
        if self._waiting and not self._active.all():
            self._begin()
        if not self._active.any():
            return bool(self._waiting)
        active = self._active.copy()
        rows = self._row[active]
        self._chosen[active] = self._action[rows]
        step = self._environment.step(self._chosen, active)
        self._observation[rows + 1] = step.observation[active]
        self._reward[rows], self._cost[rows] = step.reward[active], step.cost[active]
        self._terminated[rows], self._truncated[rows] = step.terminated[active], step.truncated[active]
        self._row[active] += 1
        self._made[self._episode[active]] += 1
        self._active &= (self._row < self._end) & ~(step.terminated | step.truncated)
        return True

    def _begin(self) -> None:
        lanes = np.flatnonzero(~self._active)[: len(self._waiting)]
        chosen = [self._waiting.pop() for _ in lanes]
        self._episode[lanes] = chosen
        self._row[lanes], self._end[lanes] = self._base[chosen], self._base[np.add(chosen, 1)] - 1
        seeds = [self._episodes[index].seed for index in chosen]
        self._observation[self._row[lanes]] = self._environment.reset(lanes, seeds)
        self._active[lanes] = self._row[lanes] < self._end[lanes]

    def unfinished(self) -> frozenset[int]:
        """Which of the episodes are not over, by their index."""
        return frozenset((*self._waiting, *self._episode[self._active].tolist()))

    def outcomes(self) -> list[EpisodeOutcome]:
        """What has come of each so far."""
        found = []
        for base, made in zip(self._base.tolist(), self._made.tolist(), strict=False):
            steps = slice(base, base + made)
            found.append(
                EpisodeOutcome(
                    self._observation[base : base + made + 1],
                    self._reward[steps],
                    self._cost[steps],
                    self._terminated[steps],
                    self._truncated[steps],
                )
            )
        return found
