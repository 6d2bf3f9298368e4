"""The environment contract: one environment, many stepped together, and the adapter from the first to the second.

The order of calls, where (...)* is any number of times:

    Environment:        (reset step* )* close
    VectorEnvironment:  per lane (reset step* )*, then close; step takes all lanes at once and says which of them act

Termination and truncation are different facts. A terminated episode has no future, its bootstrap value is 0; a
truncated one was only cut off, and its last observation still has a value. Cost is what the safety criteria count:
never negative, 0 where nothing went wrong.

Knows no particular environment and no policy.

Exceptions:
  EnvironmentUnsupported (a ValueError): an environment cannot be made or used; one clear line.
    UnknownEnvironment: no environment has this name; names the near ones.
    MissingExtra: its package is not installed; gives the command that installs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.spaces import ActionSpace, ObservationSpace


class EnvironmentUnsupported(ValueError):
    """An environment cannot be made or used; the message is one line for the person who named it."""


class UnknownEnvironment(EnvironmentUnsupported):
    """No environment has this name."""


class MissingExtra(EnvironmentUnsupported):
    """The package that implements an environment is not installed."""


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """What an environment is, as provenance and as the shape of what flows.

    Attributes:
      id: name under which it is made, e.g. "gym:Acrobot-v1".
      version: version of the package that implements it, e.g. "gymnasium 1.4.0".
      code_digest: SHA-256 over its source, construction arguments and version (32 bytes).
      observation: what one observation is.
      action: what one action is.
      episode_steps_max: an episode is truncated after this many steps at the latest; None where there is no limit.
    """

    id: str
    version: str
    code_digest: bytes
    observation: ObservationSpace
    action: ActionSpace
    episode_steps_max: int | None


class Transition(NamedTuple):
    """What one step of one environment led to. `observation` is never written to again by the environment."""

    observation: NDArray[Any]
    reward: float
    cost: float
    terminated: bool
    truncated: bool


class VectorStep(NamedTuple):
    """What one step of N environments led to; the entries of lanes that did not act are unspecified.

    The arrays belong to the caller: observation [N, *shape], reward f4 [N], cost f4 [N], terminated bool [N],
    truncated bool [N]. The observation of an ended lane is the last one of its episode.
    """

    observation: NDArray[Any]
    reward: NDArray[np.float32]
    cost: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Environment(Protocol):
    """One environment, wholly determined by the seed of each reset and the actions."""

    @property
    def spec(self) -> EnvironmentSpec:
        """What this environment is; constant."""

    def reset(self, seed: int) -> NDArray[Any]:
        """Starts an episode with `seed` in [0, 2**63) and returns its first observation, even in mid-episode."""

    def step(self, action: Any) -> Transition:
        """Takes one step. After a terminated or truncated one, reset comes first.

        Args:
          action: an int where actions are one choice each, else an array [D] of the action space's type.
        """

    def close(self) -> None:
        """Frees what it holds; may be called twice."""


class VectorEnvironment(Protocol):
    """N environments ("lanes") stepped together. Lanes never influence each other."""

    @property
    def spec(self) -> EnvironmentSpec:
        """What each lane is; constant."""

    @property
    def lanes(self) -> int:
        """N."""

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        """Starts an episode in each of `lanes` [K], with one seed each, and returns their observations [K, *shape]."""

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        """Steps the lanes where `active` [N] with `actions` [N, *action shape]; the others stay exactly as they are.

        A lane that has never been reset, or whose episode has ended, must not be active.
        """

    def close(self) -> None:
        """Frees what it holds; may be called twice."""


class SequentialVector:
    """A VectorEnvironment of N single environments, stepped one after the other.

    Args:
      make: makes one environment.
      lanes: N, at least 1.
    """

    def __init__(self, make: Callable[[], Environment], lanes: int) -> None:
        self._environments = [make() for _ in range(lanes)]

    @property
    def spec(self) -> EnvironmentSpec:
        """What each lane is."""
        return self._environments[0].spec

    @property
    def lanes(self) -> int:
        """N."""
        return len(self._environments)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        """Starts an episode in each of `lanes` [K] and returns their observations [K, *shape]."""
        observation = self.spec.observation.zeros(len(lanes))
        for row, (lane, seed) in enumerate(zip(lanes.tolist(), seeds, strict=True)):
            observation[row] = self._environments[lane].reset(seed)
        return observation

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        """Steps the active lanes in order."""
        count = self.lanes
        step = VectorStep(
            self.spec.observation.zeros(count),
            np.zeros(count, np.float32),
            np.zeros(count, np.float32),
            np.zeros(count, np.bool_),
            np.zeros(count, np.bool_),
        )
        chosen = actions.tolist() if actions.ndim == 1 else actions
        for lane in np.flatnonzero(active).tolist():
            transition = self._environments[lane].step(chosen[lane])
            for column, value in zip(step, transition, strict=True):
                column[lane] = value
        return step

    def close(self) -> None:
        """Closes every environment."""
        for environment in self._environments:
            environment.close()
