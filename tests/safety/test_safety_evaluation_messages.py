"""What service and evaluators say to each other survives the way."""

from __future__ import annotations

import json

import pytest

from actors.environment import EnvironmentSpec
from policies.spaces import ActionSpace, ObservationSpace, array_space, discrete, record_space
from safety.evaluation.messages import environment_from_header, environment_to_header

RECORD = record_space({"image": ((4, 4, 2), "|u1"), "inner/speed": ((), "<f4")})


@pytest.mark.parametrize(
    ("observation", "action"),
    [(array_space((4, 4, 2), "|b1"), discrete(3)), (RECORD, ActionSpace("box", (2,)))],
    ids=["array", "record"],
)
def test_the_description_of_an_environment(observation: ObservationSpace, action: ActionSpace) -> None:
    spec = EnvironmentSpec("id", "1", bytes(range(32)), observation, action, None)
    assert environment_from_header(json.loads(json.dumps(environment_to_header(spec)))) == spec
