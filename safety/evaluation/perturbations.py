"""What makes a slice harder than training was, put around an environment: late or altered actions, worse observations.

    action_noise         probability that an action is replaced by one of all actions, each equally likely
    action_delay         whole number of steps by which actions come late; until the first arrives, action 0 is taken
    observation_noise    standard deviation of normal noise added to every number of an observation of floats
    observation_dropout  probability that an observation is replaced by zeros

What an episode meets follows from its seed, and from nothing that runs beside it. Rewards, costs and ends of episodes
pass through untouched: they are what is judged.

Exceptions: EnvironmentUnsupported (actors.environment) where a perturbation makes no sense in the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.environment import EnvironmentUnsupported, VectorEnvironment, VectorStep
from actors.wrapped_environment import WrappedEnvironment
from safety.evaluation.episode_streams import LaneStreams, normal, uniform
from safety.suites.spec import Perturbation


def perturb(environment: VectorEnvironment, perturbations: Sequence[Perturbation]) -> VectorEnvironment:
    """The environment under the perturbations, the first next to it. Closing the result closes it.

    Raises:
      EnvironmentUnsupported: a perturbation makes no sense here.
    """
    for perturbation in perturbations:
        environment = _WRAPPERS[perturbation.kind](environment, perturbation.amount)
    return environment


class _ActionNoise(WrappedEnvironment):
    def __init__(self, environment: VectorEnvironment, amount: float) -> None:
        super().__init__(environment)
        # Two numbers per step: whether the action is replaced, and by which.
        self._streams = LaneStreams(environment.lanes, (2,), uniform, "action_noise")
        self._probability = np.float32(amount)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._streams.start(lanes, seeds)
        return super().reset(lanes, seeds)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        whether, which = self._streams.take(active).T
        # In doubles: a number below 1 times A stays below A.
        other = (which.astype(np.float64) * self.spec.num_actions).astype(np.int32)
        return super().step(np.where(whether < self._probability, other, actions), active)


class _ActionDelay(WrappedEnvironment):
    def __init__(self, environment: VectorEnvironment, amount: float) -> None:
        super().__init__(environment)
        # A ring per lane: where an action is put, the one of `amount` steps before is taken from.
        self._waiting = np.zeros((environment.lanes, int(amount)), np.int32)
        self._steps = np.zeros(environment.lanes, np.intp)
        self._rows = np.arange(environment.lanes)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._waiting[lanes], self._steps[lanes] = 0, 0
        return super().reset(lanes, seeds)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        place = self._steps % self._waiting.shape[1]
        late = self._waiting[self._rows, place]
        self._waiting[self._rows[active], place[active]] = actions[active]
        self._steps += active
        return super().step(late, active)


class _ObservationNoise(WrappedEnvironment):
    def __init__(self, environment: VectorEnvironment, amount: float) -> None:
        super().__init__(environment)
        spec = environment.spec
        if np.dtype(spec.observation_dtype).kind != "f":
            raise EnvironmentUnsupported(
                f"observation_noise = {amount:g} cannot be added to {spec.id}, whose observations are of type "
                f"{spec.observation_dtype}, not floats; observation_dropout is for any type"
            )
        self._streams = LaneStreams(environment.lanes, spec.observation_shape, normal, "observation_noise")
        self._deviation = np.float32(amount)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._streams.start(lanes, seeds)
        observation = super().reset(lanes, seeds)
        return _plus(observation, self._deviation * self._streams.take(_chosen(self.lanes, lanes))[lanes])

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        step = super().step(actions, active)
        return step._replace(observation=_plus(step.observation, self._deviation * self._streams.take(active)))


class _ObservationDropout(WrappedEnvironment):
    def __init__(self, environment: VectorEnvironment, amount: float) -> None:
        super().__init__(environment)
        self._streams = LaneStreams(environment.lanes, (), uniform, "observation_dropout")
        self._probability = np.float32(amount)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._streams.start(lanes, seeds)
        observation = super().reset(lanes, seeds).copy()
        observation[self._streams.take(_chosen(self.lanes, lanes))[lanes] < self._probability] = 0
        return observation

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        step = super().step(actions, active)
        # The arrays of a step are its caller's.
        step.observation[self._streams.take(active) < self._probability] = 0
        return step


_WRAPPERS: Mapping[str, Callable[[VectorEnvironment, float], VectorEnvironment]] = {
    "action_noise": _ActionNoise,
    "action_delay": _ActionDelay,
    "observation_noise": _ObservationNoise,
    "observation_dropout": _ObservationDropout,
}


def _chosen(count: int, lanes: NDArray[np.intp]) -> NDArray[np.bool_]:
    chosen = np.zeros(count, np.bool_)
    chosen[lanes] = True
    return chosen


def _plus(observation: NDArray[Any], noise: NDArray[np.float32]) -> NDArray[Any]:
    return (observation + noise).astype(observation.dtype, copy=False)
