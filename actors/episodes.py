"""Where each lane stands in its episode, and what ended in the record at hand: the source of a record's provenance.

It also knows by which right the policies have acted in an episode, because that is what its violations are held
against: the tag of the episode. The tag of a policy is "lease.E" for a snapshot under a lease of epoch E, "release.N"
for release N, and "" for one of which nothing is known. Knows no policies; the rollout tells it what happened.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SeedOf = Callable[[int, int], int]
"""(lane, episode) -> environment seed."""

_LEASE = "lease."


def episode_tag(earlier: str, later: str, violated: bool) -> str:
    """The tag of an episode in which policies tagged `earlier` have acted, and now one tagged `later` does.

    The newest epoch of a lease under which a snapshot acted; otherwise the one release that acted; otherwise "". But
    once an episode of an epoch is `violated`, no later epoch answers for that.
    """
    if earlier == later:
        return earlier
    if earlier.startswith(_LEASE):
        newer = later.startswith(_LEASE) and int(later[len(_LEASE) :]) > int(earlier[len(_LEASE) :])
        return later if newer and not violated else earlier
    return later if later.startswith(_LEASE) else ""


class Episodes:
    """The episodes of N lanes.

    Attributes:
      seed, episode: seed and number (from 0) of the episode that each lane's observation belongs to (lists [N]).
      step: steps taken in it (int64 [N]).

    Args:
      lanes: N.
      seed_of: the seed of an episode.
    """

    def __init__(self, lanes: int, seed_of: SeedOf) -> None:
        self.seed = [0] * lanes
        self.episode = [-1] * lanes
        self.step = np.zeros(lanes, np.int64)
        self._seed_of = seed_of
        self._return = np.zeros(lanes)
        self._violated = np.zeros(lanes, np.bool_)
        self._ended = np.zeros(lanes)
        self._ended_return = np.zeros(lanes)
        self._ended_steps = np.zeros(lanes)
        self._ended_violating = np.zeros(lanes)
        self._acting_tag = ""
        self._tags = [""] * lanes
        self._ended_tagged: list[dict[str, float]] = [{} for _ in range(lanes)]

    def act_by(self, tag: str) -> None:
        """From the next step on, policies with this tag choose in every lane. At once where they did already."""
        if tag == self._acting_tag:
            return
        self._acting_tag = tag
        for lane, step in enumerate(self.step.tolist()):
            # Nothing has been chosen yet in an episode of no steps.
            self._tags[lane] = episode_tag(self._tags[lane], tag, bool(self._violated[lane])) if step else tag

    def start(self, lanes: NDArray[np.intp]) -> list[int]:
        """Begins the next episode in each of `lanes` [K]; returns their seeds."""
        seeds = []
        for lane in lanes.tolist():
            self.episode[lane] += 1
            self.seed[lane] = self._seed_of(lane, self.episode[lane])
            seeds.append(self.seed[lane])
            self._tags[lane] = self._acting_tag
        self.step[lanes] = 0
        self._return[lanes] = 0.0
        self._violated[lanes] = False
        return seeds

    def advance(self, active: NDArray[np.bool_], reward: NDArray[np.float32], cost: NDArray[np.float32]) -> None:
        """One step of the active lanes (bool [N]); reward and cost [N] are 0 in the others."""
        self.step += active
        self._return += reward
        self._violated |= cost > 0

    def finish(self, lanes: NDArray[np.intp]) -> None:
        """The episodes in `lanes` [K] have ended with the step just counted."""
        self._ended[lanes] += 1
        self._ended_return[lanes] += self._return[lanes]
        self._ended_steps[lanes] += self.step[lanes]
        self._ended_violating[lanes] += self._violated[lanes]
        for lane in lanes.tolist():
            if tag := self._tags[lane]:
                ended = self._ended_tagged[lane]
                name = f"{tag}.episodes"
                ended[name] = ended.get(name, 0.0) + 1.0
                if self._violated[lane]:
                    name = f"{tag}.violating_episodes"
                    ended[name] = ended.get(name, 0.0) + 1.0

    def take_ended(self) -> dict[str, list[float]]:
        """Signals about the episodes that ended since the last call, per lane (lists [N])."""
        signals: dict[str, list[float]] = {
            "episodes": self._ended.tolist(),
            "return": self._ended_return.tolist(),
            "episode_steps": self._ended_steps.tolist(),
            "violating_episodes": self._ended_violating.tolist(),
        }
        for total in (self._ended, self._ended_return, self._ended_steps, self._ended_violating):
            total[:] = 0
        return signals

    def take_ended_tagged(self) -> list[dict[str, float]]:
        """The same by tag, per lane: "TAG.episodes" and "TAG.violating_episodes", where they are not 0."""
        ended, self._ended_tagged = self._ended_tagged, [{} for _ in self._ended_tagged]
        return ended
