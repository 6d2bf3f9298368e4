"""The learner's network: shapes, and parameters in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.typing import NDArray

from policies.architecture import parameter_shapes
from policies.artifact import Artifact
from policies.config import NetworkConfig
from policies.initialisation import initial_parameters
from policies.networks import ActorCritic, NetworkOutput, blank_model, load_parameters
from policies.spaces import ActionSpace, record_space
from policies.spec import PolicySpec
from policies.testing import make_artifact, make_spec, random_observation

CONV = make_spec((10, 9, 4), 6, "|u1", kind="conv", conv_channels=(5, 3), activation="relu")


PARTS = PolicySpec(
    NetworkConfig(
        kind="conv",
        hidden_sizes=(6,),
        conv_channels=(3,),
        activation="tanh",
        normalize_observations=True,
        cost_value=True,
        core="gru",
        core_size=4,
    ),
    record_space({"image": ((5, 4, 2), "|u1"), "inner/speed": ((2,), "<f4"), "gear": ((3,), "|b1")}),
    ActionSpace("box", (2,)),
)
RESNET = make_spec(
    (9, 8, 2), 3, "|u1", kind="resnet", resnet_channels=(2, 3), activation="tanh", core="lstm", core_size=4
)
EVERY_LAYER = (make_spec(), CONV, PARTS, RESNET)


def make_model(spec: PolicySpec, seed: int) -> ActorCritic:
    model = blank_model(spec)
    load_parameters(model, initial_parameters(spec, seed))
    return model


def along(model: ActorCritic, spec: PolicySpec, steps: int, rows: int) -> NetworkOutput:
    """What the model says of random observations, each sequence one episode that begins with zeros."""
    observation = random_observation(spec, steps * rows, 0).reshape(steps, rows, *spec.observation.shape)
    state, reset = jnp.zeros((rows, spec.state_size)), jnp.zeros((steps, rows), bool)
    return model(spec.observation.columns(observation), state, reset)


def to_parameters(model: ActorCritic) -> dict[str, NDArray[np.float32]]:
    variables = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, path)): np.asarray(variable.get_value()) for path, variable in variables}


@pytest.mark.parametrize("spec", [*EVERY_LAYER, make_spec((), hidden_sizes=())])
def test_parameters_are_those_of_the_specification(spec: PolicySpec) -> None:
    parameters = to_parameters(make_model(spec, 0))
    assert {name: array.shape for name, array in parameters.items()} == parameter_shapes(spec)
    Artifact(spec, parameters).check_finite()


@pytest.mark.parametrize("spec", EVERY_LAYER)
def test_loaded_parameters_come_back(spec: PolicySpec) -> None:
    model, artifact = make_model(spec, 0), make_artifact(spec, 7)
    load_parameters(model, artifact.parameters)
    assert Artifact(spec, to_parameters(model)).to_bytes() == artifact.to_bytes()


def test_parameters_of_another_model_are_refused() -> None:
    model = make_model(make_spec(), 0)
    with pytest.raises(KeyError, match="conv/0/bias"):
        load_parameters(model, make_artifact(CONV).parameters)
    with pytest.raises(ValueError, match="torso/0/kernel"):
        load_parameters(model, make_artifact(make_spec((5,))).parameters)


@pytest.mark.parametrize("spec", [make_spec(), CONV])
def test_along_sequences(spec: PolicySpec) -> None:
    output = along(make_model(spec, 0), spec, 4, 2)
    assert output.logits.shape == (4, 2, spec.action.parameters)
    assert output.value.shape == (4, 2)
    assert output.cost_value is None
    assert output.state.shape == (2, 0)
    assert output.logits.dtype == output.value.dtype == jnp.float32


def test_the_first_policy_is_nearly_uniform() -> None:
    spec = make_spec((4,), 5)
    logits = along(make_model(spec, 0), spec, 10, 10).logits
    np.testing.assert_allclose(jax.nn.softmax(logits), 0.2, atol=0.02)


@pytest.mark.parametrize("spec", EVERY_LAYER, ids=lambda spec: f"{spec.network.kind}-{spec.network.core}")
def test_gradients_reach_every_parameter(spec: PolicySpec) -> None:
    def loss(model: ActorCritic) -> jax.Array:
        output = along(model, spec, 3, 4)
        total = jnp.sum(jax.nn.log_softmax(output.logits)[..., 0]) + jnp.sum(output.value)
        return total if output.cost_value is None else total + jnp.sum(output.cost_value)

    gradients = nnx.to_flat_state(nnx.grad(loss)(make_model(spec, 0)))
    assert len(gradients) == len(parameter_shapes(spec))
    for path, gradient in gradients:
        assert bool(jnp.any(gradient[...] != 0)), path


def test_a_reset_forgets_and_nothing_else_does() -> None:
    spec = make_spec((3,), 2, core="lstm", core_size=5)
    model = make_model(spec, 0)
    observation = spec.observation.columns(random_observation(spec, 12, 0).reshape(6, 2, 3))
    state, reset = jnp.ones((2, spec.state_size)), np.zeros((6, 2), bool)
    reset[3, 1] = True
    whole = model(observation, state, jnp.asarray(reset))
    late = {name: part[3:] for name, part in observation.items()}
    alone = model(late, jnp.zeros((2, spec.state_size)), jnp.zeros((3, 2), bool))
    np.testing.assert_allclose(whole.logits[3:, 1], alone.logits[:, 1], rtol=1e-6, atol=1e-7)
    assert np.abs(np.asarray(whole.logits[3:, 0] - alone.logits[:, 0])).max() > 1e-4
    first = {name: part[:3] for name, part in observation.items()}
    before = model(first, state, jnp.asarray(reset[:3]))
    after = model(late, before.state, jnp.asarray(reset[3:]))
    np.testing.assert_allclose(whole.logits[3:], after.logits, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(whole.state, after.state, rtol=1e-6, atol=1e-7)
