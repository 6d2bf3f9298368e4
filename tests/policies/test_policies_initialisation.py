"""First parameters: orthogonal with their gains, zero biases, equal for equal seeds, jax not needed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.architecture import parameter_shapes
from policies.artifact import Artifact
from policies.initialisation import initial_parameters
from policies.spec import PolicySpec
from policies.testing import make_spec

CONV = make_spec((10, 9, 4), 6, "|u1", kind="conv", conv_channels=(5, 3), activation="relu")


@pytest.mark.parametrize("spec", [make_spec((16,), 3, hidden_sizes=(16, 16)), make_spec((3,), 2), CONV])
def test_kernels_are_orthogonal_with_their_gains(spec: PolicySpec) -> None:
    parameters = initial_parameters(spec, 0)
    assert {name: array.shape for name, array in parameters.items()} == parameter_shapes(spec)
    for name, array in parameters.items():
        if name.endswith("/bias"):
            np.testing.assert_array_equal(array, 0)
            continue
        gain = {"policy": 0.01, "value": 1.0}.get(name.partition("/")[0], math.sqrt(2))
        kernel = array.reshape(-1, array.shape[-1]).astype(np.float64)
        tall = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
        np.testing.assert_allclose(tall.T @ tall, gain**2 * np.eye(tall.shape[1]), atol=1e-5)


def test_equal_seeds_give_equal_parameters() -> None:
    first, again, other = (Artifact(CONV, initial_parameters(CONV, seed)).to_bytes() for seed in (1, 1, 2))
    assert first == again != other


def test_directions_are_uniform() -> None:
    """Over many seeds the entries of a kernel have mean 0: QR's sign convention leaves no trace."""
    spec = make_spec((2,), 2, hidden_sizes=(2,))
    kernels = np.stack([initial_parameters(spec, seed)["torso/0/kernel"] for seed in range(2000)])
    np.testing.assert_allclose(kernels.mean(axis=0), 0, atol=5 / math.sqrt(2000))
