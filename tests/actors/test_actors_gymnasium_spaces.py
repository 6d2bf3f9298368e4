"""Spaces of Gymnasium: what observations and actions become, and what environments are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from actors.config import EnvironmentConfig
from actors.environment import Environment, EnvironmentUnsupported
from actors.environments.gymnasium_adapter import GymnasiumEnvironment
from actors.environments.gymnasium_spaces import ActionCodec, ObservationCodec
from actors.testing import EnvironmentContract
from policies.spaces import ActionSpace, discrete

NESTED = Dict(
    {
        "image": Box(0, 255, (2, 2, 1), np.uint8),
        "inner": Dict({"gear": Discrete(3, start=1), "keys": MultiBinary(2)}),
        "pair": Tuple((MultiDiscrete([2, 3]), Box(-1, 1, (), np.float64))),
    }
)


class TestPendulum(EnvironmentContract):
    def make(self) -> Environment:
        return GymnasiumEnvironment("Pendulum-v1", EnvironmentConfig())


class TestBlackjack(EnvironmentContract):
    def make(self) -> Environment:
        return GymnasiumEnvironment("Blackjack-v1", EnvironmentConfig())


def test_a_nested_observation_becomes_a_record_of_parts() -> None:
    codec = ObservationCodec("mine", NESTED)
    assert {part.name: (part.shape, part.dtype) for part in codec.space.parts} == {
        "image": ((2, 2, 1), "|u1"),
        "inner/gear": ((3,), "<f4"),
        "inner/keys": ((2,), "|b1"),
        "pair/0": ((5,), "<f4"),
        "pair/1": ((), "<f4"),
    }
    image = np.full((2, 2, 1), 7, np.uint8)
    record = codec({"image": image, "inner": {"gear": 2, "keys": [1, 0]}, "pair": (np.array([1, 2]), 0.5)})
    image[:] = 9
    assert record["image"].ravel().tolist() == [7] * 4
    assert record["inner/gear"].tolist() == [0, 1, 0]
    assert record["inner/keys"].tolist() == [True, False]
    assert record["pair/0"].tolist() == [0, 1, 0, 0, 1]
    assert float(record["pair/1"]) == 0.5


def test_a_part_of_another_shape_than_its_space_is_refused() -> None:
    codec = ObservationCodec("mine", Dict({"speed": Box(-1, 1, (2,))}))
    with pytest.raises(EnvironmentUnsupported, match=r"mine returned an observation/speed of shape \(1,\).*\(2,\)"):
        codec({"speed": [0.5]})


@pytest.mark.parametrize(
    ("space", "expected", "action", "taken"),
    [
        (Discrete(3, start=-1), discrete(3), 2, 1),
        (MultiDiscrete([2, 3], start=[0, 5]), ActionSpace("multi_discrete", (2, 3)), [1, 2], [1, 7]),
        (MultiDiscrete(np.array([[2], [3]])), ActionSpace("multi_discrete", (2, 3)), [1, 2], [[1], [2]]),
        (MultiBinary(2), ActionSpace("multi_discrete", (2, 2)), [1, 0], [1, 0]),
        (Box(-2, 6, (2,)), ActionSpace("box", (2,)), [-1.0, 0.5], [-2.0, 4.0]),
        (Box(-2, 6, (2,)), ActionSpace("box", (2,)), [-7.0, 9.0], [-2.0, 6.0]),
        (Box(-np.inf, np.inf, (1,)), ActionSpace("box", (1,)), [3.5], [3.5]),
        (
            Box(np.array([0.0, -1.0]), np.array([np.inf, 1.0]), dtype=np.float64),
            ActionSpace("box", (2,)),
            [-3, 3],
            [0, 1],
        ),
    ],
)
def test_actions_become_what_the_environment_takes(space: Any, expected: ActionSpace, action: Any, taken: Any) -> None:
    codec = ActionCodec("mine", space)
    assert codec.space == expected
    given = codec(np.asarray(action, expected.dtype))
    np.testing.assert_allclose(given, taken)
    assert given in space


def test_real_actions_beyond_the_largest_float_are_not_scaled_to_nothing() -> None:
    codec = ActionCodec("mine", Box(-3e38, 3e38, (1,)))
    assert float(codec(np.zeros(1, np.float32))[0]) == pytest.approx(0.0)
