"""The contract tests themselves: each clause is broken by an environment that breaks nothing else, and notices."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import Environment, SequentialVector, Transition, VectorEnvironment, VectorStep
from actors.environments.catch import Catch
from actors.testing import ContractViolation, EnvironmentContract, VectorEnvironmentContract
from policies.spaces import discrete


class Sound(Catch):
    def __init__(self) -> None:
        super().__init__(EnvironmentConfig(name="catch"))


class EmptyVersion(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = dataclasses.replace(self.spec, version="")


class OneAction(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = dataclasses.replace(self.spec, action=discrete(1))


class WrongDtype(Sound):
    def step(self, action: int) -> Transition:
        transition = super().step(action)
        return transition._replace(observation=transition.observation.astype(np.float64))


class NotFinite(Sound):
    def step(self, action: int) -> Transition:
        return super().step(action)._replace(reward=float("nan"))


class NegativeCost(Sound):
    def step(self, action: int) -> Transition:
        return super().step(action)._replace(cost=-1.0)


class NumberAsFlag(Sound):
    def step(self, action: int) -> Transition:
        transition = super().step(action)
        return transition._replace(terminated=int(transition.terminated))  # type: ignore[arg-type]


class RemembersEpisodes(Sound):
    resets = 0

    def reset(self, seed: int) -> NDArray[np.float32]:
        self.resets += 1
        return super().reset(seed + (self.resets > 2))


class RemembersThePaddle(Sound):
    def reset(self, seed: int) -> NDArray[np.float32]:
        paddle = getattr(self, "_paddle", None)
        super().reset(seed)
        self._paddle = self._paddle if paddle is None else paddle
        return self._observe()


class OneBuffer(Sound):
    board = np.zeros((10, 5), np.float32)

    def _observe(self) -> NDArray[np.float32]:
        self.board[:] = super()._observe()
        return self.board


class RefusesAnAction(Sound):
    def step(self, action: int) -> Transition:
        if action == 2 and self._row == 0:
            raise ContractViolation("no")
        return super().step(action)


class LongerThanItSays(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.spec = dataclasses.replace(self.spec, episode_steps_max=5)


def violations(contract: EnvironmentContract | VectorEnvironmentContract) -> set[str]:
    broken = set()
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except (ContractViolation, IndexError):
                broken.add(name)
    return broken


@pytest.mark.parametrize(
    ("environment", "clause"),
    [
        (EmptyVersion, "test_spec_is_complete"),
        (OneAction, "test_spec_is_complete"),
        (WrongDtype, "test_transitions_are_well_formed"),
        (NotFinite, "test_transitions_are_well_formed"),
        (NegativeCost, "test_transitions_are_well_formed"),
        (NumberAsFlag, "test_transitions_are_well_formed"),
        (RemembersEpisodes, "test_an_episode_is_determined_by_its_seed"),
        (RemembersThePaddle, "test_a_reset_in_mid_episode_starts_over"),
        (OneBuffer, "test_observations_are_never_written_to_again"),
        (RefusesAnAction, "test_every_action_is_accepted"),
        (LongerThanItSays, "test_episodes_end_within_the_limit"),
    ],
)
def test_a_broken_clause_is_noticed(environment: type[Sound], clause: str) -> None:
    class Broken(EnvironmentContract):
        def make(self) -> Environment:
            return environment()

    assert clause in violations(Broken())


class Leaky:
    """A sound vector of lanes but for what a subclass breaks."""

    def __init__(self, lanes: int) -> None:
        self.inner = SequentialVector(Sound, lanes)
        self.spec, self.lanes = self.inner.spec, lanes

    def reset(self, lanes: NDArray[np.intp], seeds: Any) -> NDArray[Any]:
        return self.inner.reset(lanes, seeds)

    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        return self.inner.step(actions, active)

    def close(self) -> None:
        self.inner.close()


class SeedsByLane(Leaky):
    def reset(self, lanes: NDArray[np.intp], seeds: Any) -> NDArray[Any]:
        return super().reset(lanes, [seed + int(lane) for lane, seed in zip(lanes, seeds, strict=True)])


class StepsEveryLane(Leaky):
    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        return super().step(actions, np.ones(self.lanes, np.bool_))


class WideReward(Leaky):
    def step(self, actions: NDArray[np.int32], active: NDArray[np.bool_]) -> VectorStep:
        step = super().step(actions, active)
        return step._replace(reward=step.reward.astype(np.float64))


class SpecByLanes(Leaky):
    def __init__(self, lanes: int) -> None:
        super().__init__(lanes)
        self.spec = dataclasses.replace(self.spec, id=f"catch of {lanes}")


@pytest.mark.parametrize(
    ("environment", "clause"),
    [
        (SpecByLanes, "test_spec_is_complete"),
        (WideReward, "test_steps_are_well_formed"),
        (SeedsByLane, "test_a_lane_is_determined_by_its_seed_alone"),
        (StepsEveryLane, "test_inactive_lanes_stay_as_they_are"),
    ],
)
def test_a_broken_clause_of_the_vector_is_noticed(environment: type[Leaky], clause: str) -> None:
    class Broken(VectorEnvironmentContract):
        def make(self, lanes: int) -> VectorEnvironment:
            return environment(lanes)

    assert clause in violations(Broken())
