"""The environment contract as tests: subclass one class per environment, and run pytest.

    from actors.testing import EnvironmentContract

    class TestMyEnvironment(EnvironmentContract):
        def make(self) -> Environment:
            return MyEnvironment()

VectorEnvironmentContract does the same for N lanes (`make(lanes)`). Needs no pytest itself: the methods are plain.

Exceptions: ContractViolation (an AssertionError) says which clause was broken, by what value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environment import Environment, EnvironmentSpec, VectorEnvironment, VectorStep
from policies.spaces import ActionSpace

_SEEDS = (0, 1, 7, 2**32, 2**62 - 1, 2**63 - 1)
"""Small ones, one beyond 32 bits, and the ends of the training and the evaluation range."""


class ContractViolation(AssertionError):
    """An environment breaks a clause of its contract."""


class _Recorded(NamedTuple):
    observation: NDArray[Any]
    reward: float
    cost: float
    terminated: bool
    truncated: bool


class EnvironmentContract:
    """Tests of `actors.environment.Environment`. Subclasses define `make`, and may change `steps`.

    Attributes:
      steps: most steps taken in one tested episode.
    """

    steps: int = 200

    def make(self) -> Environment:
        """Returns a new environment."""
        raise NotImplementedError

    def test_spec_is_complete(self) -> None:
        """The spec names the environment, its version, its code, and shapes that an agent can use."""
        environment = self.make()
        _check_spec(environment.spec)
        _expect(environment.spec == self.make().spec, "two environments made alike have different specs")
        environment.close()

    def test_transitions_are_well_formed(self) -> None:
        """Every observation has the spec's shape and dtype; rewards are finite, costs finite and not negative."""
        environment = self.make()
        for seed in _SEEDS:
            _check_observation(environment.spec, environment.reset(seed))
            for transition in _play(environment, seed, self.steps):
                _check_observation(environment.spec, transition.observation)
                _check_numbers(transition.reward, transition.cost)
                _expect(
                    isinstance(transition.terminated, bool) and isinstance(transition.truncated, bool),
                    f"terminated and truncated must be bool, are {transition.terminated!r}, {transition.truncated!r}",
                )
        environment.close()

    def test_an_episode_is_determined_by_its_seed(self) -> None:
        """The same seed and actions give the same episode in a new environment and in a used one."""
        used = self.make()
        for seed in _SEEDS:
            fresh = self.make()
            first_fresh, first_used = fresh.reset(seed), used.reset(seed)
            _expect(np.array_equal(first_fresh, first_used), f"seed {seed}: first observation depends on the past")
            _expect_same(list(_play(fresh, seed, self.steps)), list(_play(used, seed, self.steps)), f"seed {seed}")
            fresh.close()
        used.close()

    def test_a_reset_in_mid_episode_starts_over(self) -> None:
        """Nothing of an abandoned episode reaches the next one."""
        environment = self.make()
        environment.reset(3)
        expected = list(_play(environment, 3, self.steps))
        environment.reset(4)
        list(_play(environment, 4, 3))
        environment.reset(3)
        _expect_same(expected, list(_play(environment, 3, self.steps)), "after an abandoned episode")
        environment.close()

    def test_observations_are_never_written_to_again(self) -> None:
        """An observation keeps its values when the environment goes on."""
        environment = self.make()
        observation = environment.reset(5)
        kept = observation.copy()
        for transition in _play(environment, 5, self.steps):
            _expect(np.array_equal(observation, kept), "a later step wrote into an earlier observation")
            observation, kept = transition.observation, transition.observation.copy()
        environment.reset(6)
        _expect(np.array_equal(observation, kept), "a reset wrote into an earlier observation")
        environment.close()

    def test_every_action_is_accepted(self) -> None:
        """Every choice of every component, and the bounds of a box, can be taken in the first state."""
        environment = self.make()
        for action in _corners(environment.spec.action):
            environment.reset(8)
            _check_observation(environment.spec, environment.step(action).observation)
        environment.close()

    def test_episodes_end_within_the_limit(self) -> None:
        """No episode is longer than `episode_steps_max`, where the spec promises one that a test can reach."""
        environment = self.make()
        limit = environment.spec.episode_steps_max
        if limit is not None and limit <= 10_000:
            environment.reset(9)
            length = sum(1 for _ in _play(environment, 9, limit + 1))
            _expect(length <= limit, f"an episode took more than episode_steps_max = {limit} steps")
        environment.close()

    def test_close_may_be_called_twice(self) -> None:
        """Closing a closed environment does nothing."""
        environment = self.make()
        environment.reset(0)
        environment.close()
        environment.close()


class VectorEnvironmentContract:
    """Tests of `actors.environment.VectorEnvironment`. Subclasses define `make`, and may change `steps`."""

    steps: int = 200

    def make(self, lanes: int) -> VectorEnvironment:
        """Returns a new environment with N = `lanes`."""
        raise NotImplementedError

    def test_spec_is_complete(self) -> None:
        """The spec does not depend on the number of lanes."""
        one, three = self.make(1), self.make(3)
        _check_spec(one.spec)
        _expect(one.spec == three.spec, "the spec depends on the number of lanes")
        _expect((one.lanes, three.lanes) == (1, 3), f"made 1 and 3 lanes, got {one.lanes} and {three.lanes}")
        one.close()
        three.close()

    def test_steps_are_well_formed(self) -> None:
        """Shapes, dtypes and ranges of everything that a step returns."""
        environment = self.make(len(_SEEDS))
        spec, count = environment.spec, environment.lanes
        observation = environment.reset(np.arange(count), _SEEDS)
        expected = (count, *spec.observation.shape)
        _expect(observation.shape == expected, f"reset returned the shape {observation.shape}, not {expected}")
        active = np.ones(count, np.bool_)
        for index in range(self.steps):
            step = environment.step(_actions(spec, _SEEDS, index), active)
            _check_step(spec, count, step, active)
            active &= ~(step.terminated | step.truncated)
            if not active.any():
                break
        environment.close()

    def test_a_lane_is_determined_by_its_seed_alone(self) -> None:
        """An episode is the same alone, among others, and in another lane."""
        alone = [_play_lanes(self.make(1), (seed,), self.steps)[0] for seed in _SEEDS]
        together = _play_lanes(self.make(len(_SEEDS)), _SEEDS, self.steps)
        reversed_lanes = _play_lanes(self.make(len(_SEEDS)), _SEEDS[::-1], self.steps)[::-1]
        for seed, first, second, third in zip(_SEEDS, alone, together, reversed_lanes, strict=True):
            _expect_same(first, second, f"seed {seed}, alone and among others")
            _expect_same(first, third, f"seed {seed}, in another lane")

    def test_inactive_lanes_stay_as_they_are(self) -> None:
        """A lane that pauses while others step and are reset goes on as if nothing had happened."""
        expected = _play_lanes(self.make(1), (11,), self.steps)[0]
        environment = self.make(2)
        environment.reset(np.arange(2), (11, 12))
        recorded: list[_Recorded] = []
        other_ended = False
        for index in range(len(expected)):
            if other_ended or index % 5 == 4:
                environment.reset(np.array([1]), (12 + index,))
            other = environment.step(_actions(environment.spec, (0, 0), index), np.array([False, True]))
            other_ended = bool(other.terminated[1] | other.truncated[1])
            step = environment.step(_actions(environment.spec, (11, 0), index), np.array([True, False]))
            recorded.append(_record(step, 0))
        _expect_same(expected, recorded, "a lane that paused between its steps")
        environment.close()

    def test_close_may_be_called_twice(self) -> None:
        """Closing a closed environment does nothing."""
        environment = self.make(2)
        environment.reset(np.arange(2), (0, 1))
        environment.close()
        environment.close()


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ContractViolation(message)


def _action(spec: EnvironmentSpec, seed: int, index: int) -> Any:
    """Arbitrary but fixed actions, different from seed to seed."""
    generator, space = np.random.Generator(np.random.PCG64([seed, index])), spec.action
    if not space.is_discrete:
        return generator.uniform(-1, 1, space.shape).astype(np.float32)
    chosen = generator.integers(space.sizes).astype(np.int32)
    return chosen if space.shape else int(chosen[0])


def _actions(spec: EnvironmentSpec, seeds: Sequence[int], index: int) -> NDArray[Any]:
    return np.array([_action(spec, seed, index) for seed in seeds], spec.action.dtype)


def _corners(space: ActionSpace) -> Iterator[Any]:
    """Each choice of one component, the others at 0; of a box, both bounds of each, the others in the middle."""
    if space.kind == "discrete":
        yield from range(space.sizes[0])
        return
    for component in range(space.components):
        choices = range(space.sizes[component]) if space.is_discrete else (-1, 1)
        for choice in choices:
            action = space.zeros()
            action[component] = choice
            yield action


def _play(environment: Environment, seed: int, steps: int) -> Iterator[_Recorded]:
    """Steps an environment that was just reset with `seed`, until its episode ends."""
    for index in range(steps):
        transition = environment.step(_action(environment.spec, seed, index))
        yield _Recorded(*transition)
        if transition.terminated or transition.truncated:
            return


def _play_lanes(environment: VectorEnvironment, seeds: Sequence[int], steps: int) -> list[list[_Recorded]]:
    """One episode in each lane, each until it ends, the last step of all at `steps`."""
    environment.reset(np.arange(len(seeds)), seeds)
    recorded: list[list[_Recorded]] = [[] for _ in seeds]
    active = np.ones(len(seeds), np.bool_)
    for index in range(steps):
        if not active.any():
            break
        step = environment.step(_actions(environment.spec, seeds, index), active.copy())
        for lane in np.flatnonzero(active).tolist():
            recorded[lane].append(_record(step, lane))
        active &= ~(step.terminated | step.truncated)
    environment.close()
    return recorded


def _record(step: VectorStep, lane: int) -> _Recorded:
    return _Recorded(
        step.observation[lane].copy(),
        float(step.reward[lane]),
        float(step.cost[lane]),
        bool(step.terminated[lane]),
        bool(step.truncated[lane]),
    )


def _expect_same(first: list[_Recorded], second: list[_Recorded], where: str) -> None:
    _expect(len(first) == len(second), f"{where}: one episode took {len(first)} steps, the other {len(second)}")
    for index, (left, right) in enumerate(zip(first, second, strict=True)):
        same = np.array_equal(left.observation, right.observation) and left[1:] == right[1:]
        _expect(same, f"{where}: step {index} differs: {left} and {right}")


def _check_spec(spec: EnvironmentSpec) -> None:
    _expect(bool(spec.id) and bool(spec.version), f"id and version must not be empty: {spec}")
    _expect(len(spec.code_digest) == 32, f"code_digest must have 32 bytes, has {len(spec.code_digest)}")
    _expect(spec.action.kind != "discrete" or spec.action.sizes[0] >= 2, f"{spec.action.describe()}: at least 2")


def _check_observation(spec: EnvironmentSpec, observation: NDArray[Any]) -> None:
    _expect(
        observation.shape == spec.observation.shape and observation.dtype == spec.observation.dtype,
        f"observation is {observation.dtype} {observation.shape}, the spec says {spec.observation.describe()}",
    )
    for name, part in spec.observation.columns(observation).items():
        _expect(bool(np.isfinite(part).all()), f"{name} is not finite")


def _check_numbers(reward: float, cost: float) -> None:
    _expect(bool(np.isfinite(reward)), f"reward {reward} is not finite")
    _expect(bool(np.isfinite(cost)) and cost >= 0, f"cost {cost} is not a finite number of at least 0")


def _check_step(spec: EnvironmentSpec, count: int, step: VectorStep, active: NDArray[np.bool_]) -> None:
    for name, dtype in (("reward", "<f4"), ("cost", "<f4"), ("terminated", "|b1"), ("truncated", "|b1")):
        column = getattr(step, name)
        _expect(
            column.shape == (count,) and column.dtype.str == dtype,
            f"{name} is {column.dtype.str} {column.shape}, the contract says {dtype} {(count,)}",
        )
    for lane in np.flatnonzero(active).tolist():
        _check_observation(spec, step.observation[lane])
        _check_numbers(float(step.reward[lane]), float(step.cost[lane]))
