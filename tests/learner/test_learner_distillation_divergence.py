"""Divergences as losses against optax, closed forms, finite differences, and each other's expectations."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learner.distillation.divergence import (
    forward_divergence,
    mean_over,
    reverse_divergence,
    sampled_reverse_divergence,
)
from learner.distributions import kl_divergence, log_prob
from policies.spaces import ActionSpace, discrete

SPACES = (discrete(5), ActionSpace("multi_discrete", (3, 2, 4)), ActionSpace("box", (3,)))
Divergence = Callable[..., jax.Array]


def logits(space: ActionSpace, seed: int, rows: int = 6) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, space.parameters)), jnp.float32)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_over_choices_both_are_those_of_optax(temperature: float) -> None:
    student, teacher = logits(SPACES[0], 0), logits(SPACES[0], 1)
    log_student, log_teacher = (jax.nn.log_softmax(each / temperature) for each in (student, teacher))
    # optax takes what is predicted first, and what it is to be second: KL(second || first).
    forward = temperature**2 * optax.losses.kl_divergence(log_student, jnp.exp(log_teacher))
    reverse = temperature**2 * optax.losses.kl_divergence_with_log_targets(log_teacher, log_student)
    np.testing.assert_allclose(forward_divergence(student, teacher, SPACES[0], temperature), forward, rtol=1e-5)
    np.testing.assert_allclose(reverse_divergence(student, teacher, SPACES[0], temperature), reverse, rtol=1e-5)


def test_of_independent_choices_they_are_the_sum() -> None:
    space = SPACES[1]
    student, teacher = logits(space, 0), logits(space, 1)
    parts = [
        optax.losses.kl_divergence(jax.nn.log_softmax(one), jax.nn.softmax(other))
        for one, other in zip(jnp.split(student, (3, 5), axis=1), jnp.split(teacher, (3, 5), axis=1), strict=True)
    ]
    np.testing.assert_allclose(forward_divergence(student, teacher, space), sum(parts), rtol=1e-5)


def test_of_real_numbers_they_are_the_closed_form() -> None:
    """KL of normal distributions, by numerical integration in each component."""
    space = ActionSpace("box", (1,))
    student, teacher = jnp.array([[0.3, -0.5]]), jnp.array([[-0.6, 0.2]])
    grid = jnp.linspace(-12, 12, 20_001)[:, None]
    log_student, log_teacher = log_prob(student, grid, space), log_prob(teacher, grid, space)
    step = float(grid[1, 0] - grid[0, 0])
    forward = step * float((jnp.exp(log_teacher) * (log_teacher - log_student)).sum())
    reverse = step * float((jnp.exp(log_student) * (log_student - log_teacher)).sum())
    assert float(forward_divergence(student, teacher, space)[0]) == pytest.approx(forward, rel=1e-3)
    assert float(reverse_divergence(student, teacher, space)[0]) == pytest.approx(reverse, rel=1e-3)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
@pytest.mark.parametrize("divergence", [forward_divergence, reverse_divergence])
def test_the_gradient_is_that_of_finite_differences_and_the_students_alone(
    space: ActionSpace, divergence: Divergence
) -> None:
    student, teacher = logits(space, 0, rows=1), logits(space, 1, rows=1)
    of_student, of_teacher = jax.grad(lambda one, other: divergence(one, other, space).sum(), argnums=(0, 1))(
        student, teacher
    )
    np.testing.assert_array_equal(of_teacher, 0)
    step = 1e-2
    for index in range(space.parameters):
        nudge = jnp.zeros_like(student).at[0, index].set(step)
        difference = divergence(student + nudge, teacher, space) - divergence(student - nudge, teacher, space)
        assert float(of_student[0, index]) == pytest.approx(float(difference[0]) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
def test_at_the_teacher_itself_nothing_is_left_to_learn(space: ActionSpace) -> None:
    same = logits(space, 0)
    for divergence in (forward_divergence, reverse_divergence):
        value, gradient = jax.value_and_grad(lambda one, of=divergence: of(one, same, space).sum())(same)
        assert float(value) == pytest.approx(0.0, abs=1e-5)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


def test_the_sampled_estimate_has_the_gradient_of_the_whole_divergence_in_expectation() -> None:
    space = SPACES[0]
    student, teacher = logits(space, 0, rows=1), logits(space, 1, rows=1)
    actions = jnp.arange(5)
    chances = jax.nn.softmax(student[0])

    def expected(one: jax.Array) -> jax.Array:
        log_student = log_prob(jnp.tile(one, (5, 1)), actions, space)
        log_teacher = log_prob(jnp.tile(teacher, (5, 1)), actions, space)
        return (chances * sampled_reverse_divergence(log_student, log_teacher, jnp.ones(5))).sum()

    whole = jax.grad(lambda one: reverse_divergence(one, teacher, space).sum())(student)
    np.testing.assert_allclose(jax.grad(expected)(student), whole, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_in_the_gradient_of_the_sampled_estimate() -> None:
    """Differentiating log pi_S - log pi_T itself would give the same gradient whoever teaches."""
    space, action = SPACES[0], jnp.array([2])

    def gradient(seed: int, scale: float = 1.0) -> jax.Array:
        log_teacher = log_prob(logits(space, seed, rows=1), action, space)

        def loss(one: jax.Array) -> jax.Array:
            return sampled_reverse_divergence(log_prob(one, action, space), log_teacher, scale * jnp.ones(1)).sum()

        found: jax.Array = jax.grad(loss)(logits(space, 0, rows=1))
        return found

    assert not np.allclose(gradient(1), gradient(2))
    np.testing.assert_allclose(gradient(1, 0.5), 0.5 * gradient(1), rtol=1e-6)
    np.testing.assert_array_equal(gradient(0), 0.0)


def test_reverse_seeks_one_mode_where_forward_covers_both() -> None:
    """A student that cannot have two modes: the mean of a normal distribution against one far wider."""
    space = ActionSpace("box", (1,))
    teacher, narrow, wide = jnp.array([[0.0, 1.0]]), jnp.array([[0.0, -1.0]]), jnp.array([[0.0, 1.5]])
    assert reverse_divergence(narrow, teacher, space) < forward_divergence(narrow, teacher, space)
    assert reverse_divergence(wide, teacher, space) > forward_divergence(wide, teacher, space)
    np.testing.assert_allclose(reverse_divergence(wide, teacher, space), kl_divergence(wide, teacher, space))


def test_the_mean_is_over_real_steps() -> None:
    values, mask = jnp.array([[1.0, 50.0], [3.0, 70.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    assert float(mean_over(values, mask)) == 2.0
    assert float(mean_over(values, jnp.zeros_like(mask))) == 0.0
