"""Specifications: what they refuse, and that their JSON is canonical."""

import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from policies.architecture import parameter_shapes
from policies.config import NetworkConfig
from policies.spaces import OBSERVATION_DTYPES, ActionSpace, SpecError, array_space, discrete, record_space
from policies.spec import PolicySpec, mismatch
from policies.testing import make_spec

shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)
specs = st.builds(
    PolicySpec,
    network=st.builds(
        NetworkConfig,
        hidden_sizes=st.lists(st.integers(1, 9), max_size=3).map(tuple),
        activation=st.sampled_from(["tanh", "relu"]),
    ),
    observation=st.one_of(
        st.builds(array_space, shapes, st.sampled_from(OBSERVATION_DTYPES)),
        st.builds(
            record_space,
            st.dictionaries(
                st.sampled_from(["a", "b/c", "b/d", "0"]),
                st.tuples(shapes, st.sampled_from(OBSERVATION_DTYPES)),
                min_size=1,
            ),
        ),
    ),
    action=st.one_of(
        st.builds(discrete, st.integers(1, 20)),
        st.builds(
            ActionSpace, st.just("multi_discrete"), st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
        ),
        st.builds(ActionSpace, st.just("box"), st.integers(1, 9).map(lambda size: (size,))),
    ),
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
        ({"network": NetworkConfig(kind="transformer")}, "one of mlp, conv, resnet"),
        ({"network": NetworkConfig(hidden_sizes=(0,))}, "network.hidden_sizes"),
        ({"network": NetworkConfig(hidden_sizes=(1,) * 40)}, "the limit is 32"),
        ({"network": NetworkConfig(hidden_sizes=(16_384, 16_384))}, "parameters, the limit"),
        ({"network": NetworkConfig(kind="conv")}, "[height, width, channels]"),
        ({"network": NetworkConfig(kind="conv"), "observation": array_space((2, 9, 1), "<f4")}, "too small"),
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
        make_spec().to_json().replace('"sizes":[2]', '"sizes":[2.0]'),
        make_spec().to_json().replace('"sizes":[2]', '"sizes":[2],"sizes":[2]'),
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
    assert mismatch(spec, make_spec((5,))) == "observations <f4 [4], the environment has <f4 [5]"
    assert mismatch(spec, make_spec(choices=3)) == "2 actions, the environment has 3 actions"
    assert mismatch(spec, make_spec(observation_dtype="<f8")) == "observations <f4 [4], the environment has <f8 [4]"
