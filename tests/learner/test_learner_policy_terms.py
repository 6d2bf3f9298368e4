"""The clipped surrogate and UPGO's returns against rlax, and where the answer is known; the price of cost by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learner.constraint import balanced, cost_excess, next_multiplier
from learner.surrogate import clipped_loss, log_likelihood_loss
from learner.upgo import upgo_returns
from tests.learner.loss_reference import upgo


def random_unroll(T: int = 8, B: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(T + 1, B)).astype(np.float32)
    return {
        "v_tm1": values[:-1],
        "v_t": values[1:],
        "r_t": rng.normal(size=(T, B)).astype(np.float32),
        "discount_t": (0.9 * (rng.random((T, B)) > 0.2)).astype(np.float32),
    }


def test_clipped_surrogate_equals_rlax_in_value_and_gradient() -> None:
    rlax = pytest.importorskip("rlax")
    rng = np.random.default_rng(1)
    log_ratio, advantage = (jnp.asarray(rng.normal(size=40), jnp.float32) for _ in range(2))

    def theirs(log_ratio: jax.Array) -> jax.Array:
        loss: jax.Array = rlax.clipped_surrogate_pg_loss(jnp.exp(log_ratio), advantage, 0.2)
        return loss

    def ours(log_ratio: jax.Array) -> jax.Array:
        return clipped_loss(log_ratio, advantage, 0.2).mean()

    for one, other in zip(jax.value_and_grad(ours)(log_ratio), jax.value_and_grad(theirs)(log_ratio), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_at_a_ratio_of_one_both_policy_losses_have_the_same_gradient() -> None:
    advantage = jnp.asarray([-2.0, 0.5, 3.0])
    log_pi = jnp.asarray([-1.0, -0.1, -3.0])
    clipped = jax.grad(lambda x: clipped_loss(x - log_pi, advantage, 0.1).sum())(log_pi)
    likelihood = jax.grad(lambda x: log_likelihood_loss(x, advantage).sum())(log_pi)
    np.testing.assert_allclose(clipped, likelihood)
    np.testing.assert_allclose(clipped, -advantage)


def test_upgo_equals_lambda_returns_of_rlax_that_follow_where_it_went_better() -> None:
    rlax = pytest.importorskip("rlax")
    case = random_unroll()
    followed: Any = np.ones_like(case["r_t"], bool)
    better = case["r_t"] + case["discount_t"] * case["v_t"] >= case["v_tm1"]
    follows = np.concatenate([better[1:], np.ones_like(better[:1])]).astype(np.float32)
    expected = jax.vmap(rlax.lambda_returns, 1, 1)(case["r_t"], case["discount_t"], case["v_t"], follows)
    np.testing.assert_allclose(upgo_returns(**case, followed_tm1=followed), expected, rtol=1e-5, atol=1e-6)
    assert 0.2 < better.mean() < 0.8


def test_upgo_bootstraps_at_a_row_that_may_not_be_followed() -> None:
    case = random_unroll()
    followed: Any = np.ones_like(case["r_t"], bool)
    followed[4] = False
    values = np.concatenate([case["v_tm1"], case["v_t"][-1:]])
    actual = upgo_returns(**case, followed_tm1=followed)
    np.testing.assert_allclose(actual, upgo(values, case["r_t"], case["discount_t"], followed), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual[3], case["r_t"][3] + case["discount_t"][3] * case["v_t"][3], rtol=1e-6)


def test_upgo_is_the_whole_return_where_all_goes_better_and_one_step_where_none_does() -> None:
    case = random_unroll() | {"discount_t": np.full((8, 3), 0.9, np.float32)}
    followed: Any = np.ones((8, 3), bool)
    case["r_t"] = case["r_t"] + 100.0
    rewards = case["r_t"][::-1].astype(np.float64)
    after, expected = case["v_t"][-1].astype(np.float64), []
    for reward in rewards:
        after = reward + 0.9 * after
        expected.append(after)
    np.testing.assert_allclose(upgo_returns(**case, followed_tm1=followed), expected[::-1], rtol=1e-5)
    case["r_t"] = case["r_t"] - 200.0
    one_step = case["r_t"] + 0.9 * case["v_t"]
    np.testing.assert_allclose(upgo_returns(**case, followed_tm1=followed), one_step, rtol=1e-5)


def test_episodes_that_end_are_counted_however_they_end_and_only_in_fresh_records() -> None:
    """Four records of four rows: a termination, a boundary row, a replayed one, and one that was dropped."""
    mask, discount, cost = np.ones((4, 4), bool), np.ones((4, 4)), np.ones((4, 4))
    discount[1, 0] = 0.0
    mask[2, 1] = discount[2, 1] = cost[2, 1] = False
    discount[:, 2] = 0.0
    mask[:, 3], discount[1, 3] = False, 0.0
    batch = {
        name: jnp.asarray(array)
        for name, array in {
            "mask": mask,
            "discount": discount,
            "cost": cost,
            "replayed": np.array([False, False, True, False]),
        }.items()
    }
    # Seven steps of cost 1 and two ends.
    np.testing.assert_allclose(cost_excess(batch, 2.5), (7 - 2 * 2.5) / 7, rtol=1e-6)
    np.testing.assert_allclose(cost_excess(batch, 3.5), 0.0, atol=1e-7)


def test_the_price_rises_with_what_is_beyond_the_bound_and_is_never_negative() -> None:
    np.testing.assert_allclose(next_multiplier(jnp.asarray(0.5), jnp.asarray(2.0), 0.1), 0.7)
    np.testing.assert_allclose(next_multiplier(jnp.asarray(0.5), jnp.asarray(-9.0), 0.1), 0.0)
    np.testing.assert_allclose(balanced(jnp.asarray(3.0), jnp.asarray(2.0), jnp.asarray(0.5)), 2.0 / 1.5)
