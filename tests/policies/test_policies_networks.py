"""The learner's network: shapes, and parameters in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.initialisation import initial_parameters
from policies.networks import ActorCritic, blank_model, load_parameters
from policies.spec import PolicySpec, parameter_shapes
from policies.testing import make_artifact, make_spec, random_observation

CONV = make_spec((10, 9, 4), 6, "|u1", kind="conv", conv_channels=(5, 3), activation="relu")


def make_model(spec: PolicySpec, seed: int) -> ActorCritic:
    model = blank_model(spec)
    load_parameters(model, initial_parameters(spec, seed))
    return model


def to_parameters(model: ActorCritic) -> dict[str, NDArray[np.float32]]:
    variables = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, path)): np.asarray(variable.get_value()) for path, variable in variables}


@pytest.mark.parametrize("spec", [make_spec(), CONV, make_spec((), hidden_sizes=())])
def test_parameters_are_those_of_the_specification(spec: PolicySpec) -> None:
    parameters = to_parameters(make_model(spec, 0))
    assert {name: array.shape for name, array in parameters.items()} == parameter_shapes(spec)
    Artifact(spec, parameters).check_finite()


@pytest.mark.parametrize("spec", [make_spec(), CONV])
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
@pytest.mark.parametrize("batch", [(), (3,), (4, 2)])
def test_any_leading_axes(spec: PolicySpec, batch: tuple[int, ...]) -> None:
    model = make_model(spec, 0)
    observation = random_observation(spec, int(np.prod(batch)), 0).reshape(*batch, *spec.observation_shape)
    logits, value = model(jnp.asarray(observation))
    assert logits.shape == (*batch, spec.num_actions)
    assert value.shape == batch
    assert logits.dtype == value.dtype == jnp.float32


def test_the_first_policy_is_nearly_uniform() -> None:
    spec = make_spec((4,), 5)
    logits, _ = make_model(spec, 0)(jnp.asarray(random_observation(spec, 100, 0)))
    np.testing.assert_allclose(jax.nn.softmax(logits), 0.2, atol=0.02)


def test_gradients_reach_every_parameter() -> None:
    model = make_model(CONV, 0)
    observation = jnp.asarray(random_observation(CONV, 8, 0))

    def loss(model: ActorCritic) -> jax.Array:
        logits, value = model(observation)
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0]) + jnp.sum(value)

    gradients = jax.tree.leaves(nnx.grad(loss)(model))
    assert len(gradients) == len(parameter_shapes(CONV))
    assert all(bool(jnp.any(gradient != 0)) for gradient in gradients)
