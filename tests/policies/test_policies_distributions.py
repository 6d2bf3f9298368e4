"""Distributions of actions: what is drawn has the probability that is said, and JAX says the same."""

import math
from typing import Any

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from learner import distributions as in_jax
from policies.distributions import LOG_STD_MAX, log_prob, most_probable, sample
from policies.spaces import ActionSpace, discrete

SPACES = (discrete(5), ActionSpace("multi_discrete", (3, 2, 4)), ActionSpace("box", (3,)))


@hypothesis.given(st.integers(1, 9), st.integers(1, 6), st.floats(0, 80), st.integers(0, 1000))
def test_log_probability_is_that_of_the_softmax(rows: int, actions: int, scale: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = (scale * generator.standard_normal((rows, actions))).astype(np.float32)
    action, log_prob = sample(logits, discrete(actions), generator)
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    assert action.dtype == np.int32
    assert log_prob.dtype == np.float32
    np.testing.assert_allclose(log_prob, exact[np.arange(rows), action], rtol=1e-6, atol=1e-6)


def test_frequencies_are_probabilities() -> None:
    probability = np.array([0.05, 0.6, 0.0, 0.35])
    logits = np.log(np.maximum(probability, 1e-30)).astype(np.float32)
    action, _ = sample(np.tile(logits, (100_000, 1)), discrete(4), np.random.default_rng(0))
    frequency = np.bincount(action, minlength=4) / 100_000
    assert frequency[2] == 0
    np.testing.assert_allclose(frequency, probability, atol=5 * np.sqrt(0.25 / 100_000))


class _Highest(np.random.Generator):
    """Draws the largest number below one each time."""

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.full(size, np.nextafter(np.float32(1), np.float32(0)), dtype)


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [5.0, 0.0, -90.0], [1e-3, 1e4, -1e4]])
def test_the_highest_draw_stays_within_the_actions(logits: list[float]) -> None:
    action, _ = sample(np.array([logits], np.float32), discrete(3), _Highest(np.random.PCG64(0)))
    assert 0 <= action[0] < 3


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_a_row_that_is_not_finite_spoils_only_itself(row: list[float]) -> None:
    action, log_prob = sample(np.array([row, [0.0, 0.0]], np.float32), discrete(2), np.random.default_rng(0))
    assert action[0] in (0, 1)
    assert np.isnan(log_prob[0])
    assert log_prob[1] == pytest.approx(-np.log(2))


def test_most_probable_takes_the_first_of_equals() -> None:
    np.testing.assert_array_equal(most_probable(np.array([[1, 3, 3], [2, 2, 1]], np.float32), discrete(3)), [1, 0])


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
def test_numpy_and_jax_agree(space: ActionSpace) -> None:
    generator = np.random.default_rng(1)
    parameters = generator.standard_normal((50, space.parameters)).astype(np.float32)
    actions, drawn = sample(parameters, space, generator)
    assert space.fault(actions) == ""
    assert actions.dtype == space.dtype
    np.testing.assert_allclose(drawn, log_prob(parameters, actions, space), atol=2e-6, rtol=1e-6)
    again = np.asarray(in_jax.log_prob(jnp.asarray(parameters), jnp.asarray(actions), space))
    np.testing.assert_allclose(drawn, again, atol=2e-6, rtol=1e-6)
    assert space.fault(most_probable(parameters, space)) == ""


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
def test_entropy_and_divergence_are_means_over_what_is_drawn(space: ActionSpace) -> None:
    generator = np.random.default_rng(2)
    one, two = (0.5 * generator.standard_normal((1, space.parameters)).astype(np.float32) for _ in range(2))
    actions, own = sample(np.repeat(one, 100_000, axis=0), space, generator)
    other = log_prob(np.repeat(two, 100_000, axis=0), actions, space)
    error = 5 / math.sqrt(100_000)
    p, q = jnp.asarray(one), jnp.asarray(two)
    assert float(in_jax.entropy(p, space)[0]) == pytest.approx(-own.mean(), abs=float(error * own.std()))
    difference = own - other
    assert float(in_jax.kl_divergence(p, q, space)[0]) == pytest.approx(
        difference.mean(), abs=float(error * difference.std())
    )
    assert float(in_jax.kl_divergence(p, p, space)[0]) == pytest.approx(0, abs=1e-6)


def test_gaussian_densities_are_those_of_scipy() -> None:
    parameters = np.array([[0.3, -2.0, 0.1, -1.0], [5.0, 0.0, 9.0, -9.0]], np.float32)
    actions = np.array([[0.0, -2.1], [1.0, 0.001]], np.float32)
    deviations = np.exp(np.array([[0.1, -1.0], [LOG_STD_MAX, -5.0]]))
    expected = scipy.stats.norm.logpdf(actions, parameters[:, :2], deviations).sum(axis=1)
    np.testing.assert_allclose(log_prob(parameters, actions, ActionSpace("box", (2,))), expected, rtol=1e-5)


def test_components_are_drawn_independently() -> None:
    space = ActionSpace("multi_discrete", (2, 3))
    parameters = np.tile(np.log(np.array([0.3, 0.7, 0.2, 0.5, 0.3], np.float32)), (100_000, 1))
    actions, _ = sample(parameters, space, np.random.default_rng(4))
    joint = np.histogram2d(actions[:, 0], actions[:, 1], bins=(2, 3))[0] / 100_000
    np.testing.assert_allclose(joint, np.outer([0.3, 0.7], [0.2, 0.5, 0.3]), atol=0.01)


def test_a_narrow_density_is_that_of_the_action_as_it_is_stored() -> None:
    """Not of the noise that it was made of, from which rounding has moved it."""
    space = ActionSpace("box", (2,))
    generator = np.random.default_rng(0)
    parameters = np.concatenate([generator.normal(size=(4000, 2)), np.full((4000, 2), -5.0)], axis=1)
    parameters = parameters.astype(np.float32)
    action, said = sample(parameters, space, generator)
    np.testing.assert_array_equal(said, log_prob(parameters, action, space))
    exact = scipy.stats.norm.logpdf(action, parameters[:, :2].astype(np.float64), np.exp(-5.0)).sum(axis=1)
    np.testing.assert_allclose(said, exact, rtol=1e-6, atol=4e-6)
