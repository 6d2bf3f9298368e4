"""Specifications: what they refuse, and that their JSON is canonical."""

import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from policies.config import NetworkConfig
from policies.spec import OBSERVATION_DTYPES, PolicySpec, SpecError, mismatch, parameter_shapes
from policies.testing import make_spec

specs = st.builds(
    PolicySpec,
    network=st.builds(
        NetworkConfig,
        hidden_sizes=st.lists(st.integers(1, 9), max_size=3).map(tuple),
        activation=st.sampled_from(["tanh", "relu"]),
    ),
    observation_shape=st.lists(st.integers(1, 5), max_size=4).map(tuple),
    observation_dtype=st.sampled_from(OBSERVATION_DTYPES),
    num_actions=st.integers(1, 20),
)


@hypothesis.given(specs)
def test_json_round_trip_is_canonical(spec: PolicySpec) -> None:
    text = spec.to_json()
    assert PolicySpec.from_json(text) == spec
    assert hash(PolicySpec.from_json(text)) == hash(spec)
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


def test_parameter_shapes_of_an_mlp_go_from_input_to_output() -> None:
    assert parameter_shapes(make_spec((3, 2), 5, hidden_sizes=(8, 7))) == {
        "torso/0/kernel": (6, 8),
        "torso/0/bias": (8,),
        "torso/1/kernel": (8, 7),
        "torso/1/bias": (7,),
        "policy/kernel": (7, 5),
        "policy/bias": (5,),
        "value/kernel": (7, 1),
        "value/bias": (1,),
    }


def test_parameter_shapes_of_convolutions_follow_size_and_stride() -> None:
    shapes = parameter_shapes(make_spec((10, 7, 4), 6, kind="conv", conv_channels=(3, 2), conv_stride=2))
    # 10x7 -> 4x3 -> 1x1 with kernels of 3 and a stride of 2.
    assert shapes["conv/0/kernel"] == (3, 3, 4, 3)
    assert shapes["conv/1/kernel"] == (3, 3, 3, 2)
    assert shapes["torso/0/kernel"] == (1 * 1 * 2, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"observation_dtype": "<U4"}, "'<U4' is not supported"),
        ({"observation_dtype": "object"}, "is not supported"),
        ({"observation_shape": (0,)}, "at least 1"),
        ({"observation_shape": (4.0,)}, "at least 1"),
        ({"observation_shape": [4]}, "not a tuple"),
        ({"observation_shape": (1 << 13, 1 << 13)}, "exceeds"),
        ({"num_actions": 0}, "at least 1"),
        ({"num_actions": True}, "at least 1"),
        ({"num_actions": 1 << 21}, "above the limit"),
        ({"network": NetworkConfig(kind="transformer")}, "one of mlp, conv"),
        ({"network": NetworkConfig(hidden_sizes=(0,))}, "network.hidden_sizes"),
        ({"network": NetworkConfig(hidden_sizes=(1,) * 40)}, "the limit is 32"),
        ({"network": NetworkConfig(hidden_sizes=(16_384, 16_384))}, "parameters, the limit"),
        ({"network": NetworkConfig(kind="conv")}, "[height, width, channels]"),
        ({"network": NetworkConfig(kind="conv"), "observation_shape": (2, 9, 1)}, "too small"),
    ],
)
def test_what_cannot_be_a_policy_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        dataclasses.replace(make_spec(), **change)  # type: ignore[arg-type]
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        make_spec().to_json() + " ",
        make_spec().to_json().replace('"num_actions":2', '"num_actions":2.0'),
        make_spec().to_json().replace('"num_actions":2', '"num_actions":2,"num_actions":2'),
        make_spec().to_json().replace('"kind":"mlp"', '"kind":["mlp"]'),
        make_spec().to_json().replace('"kind":"mlp"', '"kind":"mlp","extra":1'),
        make_spec().to_json().replace('"network":{', '"network":7,"other":{'),
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        PolicySpec.from_json(text)


def test_mismatch_names_what_differs() -> None:
    spec = make_spec()
    assert mismatch(spec, dataclasses.replace(spec, network=NetworkConfig(activation="relu"))) == ""
    assert mismatch(spec, make_spec((5,))) == "observation_shape = (4,), the environment has (5,)"
    assert "num_actions" in mismatch(spec, make_spec(num_actions=3))
    assert "observation_dtype" in mismatch(spec, make_spec(observation_dtype="<f8"))
