"""What makes a slice harder than training was, put around an environment: late or altered actions, worse observations.

    action_noise         probability that an action is replaced by one of all actions, each equally likely
    action_delay         whole number of steps by which actions come late; before the first arrives, zeros are taken
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
from policies.spaces import ActionSpace
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
        # At every step, whether the action is replaced, and for each component by what.
        self._space = environment.spec.action
        self._streams = LaneStreams(environment.lanes, (1 + self._space.components,), uniform, "action_noise")
        self._probability = np.float32(amount)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._streams.start(lanes, seeds)
        return super().reset(lanes, seeds)

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        numbers = self._streams.take(active)
        noisy = numbers[:, 0] < self._probability
        changed = actions.copy()
        changed[noisy] = _any_action(self._space, numbers[noisy, 1:])
        return super().step(changed, active)


class _ActionDelay(WrappedEnvironment):
    def __init__(self, environment: VectorEnvironment, amount: float) -> None:
        super().__init__(environment)
        # A ring per lane: where an action is put, the one of `amount` steps before is taken from.
        self._waiting = environment.spec.action.zeros(environment.lanes, int(amount))
        self._steps = np.zeros(environment.lanes, np.intp)
        self._rows = np.arange(environment.lanes)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._waiting[lanes], self._steps[lanes] = 0, 0
        return super().reset(lanes, seeds)

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        place = self._steps % self._waiting.shape[1]
        late = self._waiting[self._rows, place]
        self._waiting[self._rows[active], place[active]] = actions[active]
        self._steps += active
        return super().step(late, active)


class _ObservationNoise(WrappedEnvironment):
    def __init__(self, environment: VectorEnvironment, amount: float) -> None:
        super().__init__(environment)
        spec = environment.spec
        self._parts = [part for part in spec.observation.parts if part.dtype[1] == "f"]
        if not self._parts:
            raise EnvironmentUnsupported(
                f"observation_noise = {amount:g} cannot be added to {spec.id}, whose observations are "
                f"{spec.observation.describe()}, not floats; observation_dropout is for any type"
            )
        numbers = sum(part.size for part in self._parts)
        self._streams = LaneStreams(environment.lanes, (numbers,), normal, "observation_noise")
        self._deviation = np.float32(amount)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._streams.start(lanes, seeds)
        observation = super().reset(lanes, seeds)
        return self._plus(observation, self._streams.take(_chosen(self.lanes, lanes))[lanes])

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        step = super().step(actions, active)
        return step._replace(observation=self._plus(step.observation, self._streams.take(active)))

    def _plus(self, observation: NDArray[Any], normal_numbers: NDArray[np.float32]) -> NDArray[Any]:
        """The observations [K, *shape] with noise on every number of their float parts."""
        noisy, begin = observation.copy(), 0
        columns = self.spec.observation.columns(noisy)
        for part in self._parts:
            noise = self._deviation * normal_numbers[:, begin : begin + part.size]
            columns[part.column][...] += noise.reshape(-1, *part.shape).astype(part.dtype, copy=False)
            begin += part.size
        return noisy


class _ObservationDropout(WrappedEnvironment):
    def __init__(self, environment: VectorEnvironment, amount: float) -> None:
        super().__init__(environment)
        self._streams = LaneStreams(environment.lanes, (), uniform, "observation_dropout")
        self._probability = np.float32(amount)

    def reset(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> NDArray[Any]:
        self._streams.start(lanes, seeds)
        observation = super().reset(lanes, seeds).copy()
        lost = self._streams.take(_chosen(self.lanes, lanes))[lanes] < self._probability
        observation[lost] = np.zeros((), observation.dtype)
        return observation

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> VectorStep:
        step = super().step(actions, active)
        # The arrays of a step are its caller's.
        step.observation[self._streams.take(active) < self._probability] = np.zeros((), step.observation.dtype)
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


def _any_action(space: ActionSpace, numbers: NDArray[np.float32]) -> NDArray[Any]:
    """Actions, each equally likely, from uniform numbers [K, D]; of a box, from within its bounds."""
    # In doubles: a number below 1 times A stays below A.
    sizes = np.asarray(space.sizes if space.is_discrete else 2.0)
    spread = numbers.astype(np.float64) * sizes
    if not space.is_discrete:
        spread -= 1.0
    actions: NDArray[Any] = spread.astype(space.dtype).reshape(-1, *space.shape)
    return actions
