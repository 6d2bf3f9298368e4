"""Both backends under the contract of a policy, and what makes them."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

from policies.artifact import Artifact
from policies.inference import BackendError, make_policy
from policies.inference_jax import JaxPolicy
from policies.inference_numpy import NumpyPolicy
from policies.policy import Policy
from policies.testing import PolicyContract, make_artifact, make_spec, random_observation


class TestNumpyPolicy(PolicyContract):
    @contextlib.contextmanager
    def policy(self, artifact: Artifact) -> Iterator[Policy]:
        yield make_policy(artifact, "numpy")


class TestJaxPolicy(PolicyContract):
    @contextlib.contextmanager
    def policy(self, artifact: Artifact) -> Iterator[Policy]:
        yield make_policy(artifact, "jax")


def test_backends_are_what_they_say() -> None:
    assert isinstance(make_policy(make_artifact(), "numpy"), NumpyPolicy)
    assert isinstance(make_policy(make_artifact(), "jax"), JaxPolicy)
    with pytest.raises(BackendError, match="known are numpy, jax"):
        make_policy(make_artifact(), "torch")  # type: ignore[arg-type]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "policies.inference_jax", None)
    with pytest.raises(BackendError, match=r"pip install 'temper\[learner\]'"):
        make_policy(make_artifact(), "jax")


def test_backends_draw_the_same_actions_from_the_same_randomness() -> None:
    spec = make_spec((4,), 3)
    observation = random_observation(spec, 64, 0)
    first, second = (
        make_policy(make_artifact(spec), backend).act(observation, np.random.default_rng(1)).action
        for backend in ("numpy", "jax")
    )
    np.testing.assert_array_equal(first, second)


def test_policies_of_one_specification_do_not_share_parameters() -> None:
    spec = make_spec()
    observation, generator = random_observation(spec, 4, 0), np.random.default_rng(0)
    first, second = JaxPolicy(make_artifact(spec, 1)), JaxPolicy(make_artifact(spec, 2))
    before = first.act(observation, generator).logits
    assert np.abs(before - second.act(observation, generator).logits).max() > 1e-3
    np.testing.assert_array_equal(before, first.act(observation, generator).logits)
