"""The loss against a hand-written one in NumPy, and the properties that masked rows must have."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learner.columns import Batch
from learner.config import LearnerConfig
from learner.loss import impala_loss, shape_reward
from learner.vtrace import vtrace
from policies.networks import NetworkOutput
from policies.spaces import discrete

CONFIG = LearnerConfig(reward_scale=0.5, cost_coefficient=0.3, discount=0.9, value_cost=0.4)
T, B, A = 6, 3, 4
SPACE = discrete(A)


def linear_network(parameters: dict[str, jax.Array], observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    return observation @ parameters["policy"], (observation @ parameters["value"])[..., 0]


def output(parameters: dict[str, jax.Array], batch: Batch) -> NetworkOutput:
    return NetworkOutput(*linear_network(parameters, batch["observation"]), None, jnp.zeros((B, 0)))


@pytest.fixture
def parameters() -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    return {
        "policy": jnp.asarray(rng.normal(size=(5, A)), jnp.float32),
        "value": jnp.asarray(rng.normal(size=(5, 1)), jnp.float32),
    }


def make_batch(seed: int = 0, masked: bool = False) -> Batch:
    rng = np.random.default_rng(seed)
    mask = np.ones((T, B), bool)
    discount = (rng.random((T, B)) > 0.2).astype(np.float32)
    if masked:
        mask[3, 1] = False
        discount[3, 1] = 0.0
    return {
        "observation": jnp.asarray(rng.normal(size=(T + 1, B, 5)), jnp.float32),
        "action": jnp.asarray(rng.integers(A, size=(T, B)) * mask, jnp.int32),
        "reward": jnp.asarray(rng.normal(size=(T, B)) * mask, jnp.float32),
        "cost": jnp.asarray((rng.random((T, B)) > 0.5) * mask, jnp.float32),
        "discount": jnp.asarray(discount),
        "mask": jnp.asarray(mask),
        "log_prob": jnp.asarray(-rng.random((T, B)) * mask, jnp.float32),
    }


def test_equals_its_parts_by_hand(parameters: dict[str, jax.Array]) -> None:
    batch = make_batch(masked=True)
    total, figures = impala_loss(output(parameters, batch), batch, SPACE, jnp.asarray(0.02), CONFIG)

    logits, values = (np.asarray(x, np.float64) for x in linear_network(parameters, batch["observation"]))
    log_policy = logits[:-1] - np.log(np.exp(logits[:-1]).sum(-1, keepdims=True))
    log_pi = np.take_along_axis(log_policy, np.asarray(batch["action"])[..., None], -1)[..., 0]
    mask = np.asarray(batch["mask"])
    rho = np.exp(log_pi - np.asarray(batch["log_prob"])) * mask
    reward = 0.5 * np.asarray(batch["reward"]) - 0.3 * np.asarray(batch["cost"])
    trace = vtrace(
        *(jnp.asarray(x, jnp.float32) for x in (values[:-1], values[1:], reward, 0.9 * batch["discount"], rho))
    )
    n = mask.sum()
    policy_loss = -(log_pi * np.asarray(trace.advantages_tm1))[mask].sum() / n
    value_loss = 0.5 * ((np.asarray(trace.targets_tm1) - values[:-1]) ** 2)[mask].sum() / n
    entropy = -(np.exp(log_policy) * log_policy).sum(-1)[mask].sum() / n
    np.testing.assert_allclose(figures.policy_loss, policy_loss, rtol=1e-5)
    np.testing.assert_allclose(figures.value_loss, value_loss, rtol=1e-5)
    np.testing.assert_allclose(figures.entropy, entropy, rtol=1e-5)
    np.testing.assert_allclose(total, policy_loss + 0.4 * value_loss - 0.02 * entropy, rtol=1e-5)


def test_policy_term_is_the_cross_entropy_of_optax_at_unit_advantages(parameters: dict[str, jax.Array]) -> None:
    """On policy, one step, value 0 and reward 1: the loss is the cross entropy of the actions taken."""
    batch = dict(make_batch())
    batch = {k: v[:2] if k == "observation" else v[:1] for k, v in batch.items()}
    logits, _ = linear_network(parameters, batch["observation"][:1])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch["action"])
    batch |= {
        "reward": jnp.ones((1, B)),
        "cost": jnp.zeros((1, B)),
        "discount": jnp.zeros((1, B)),
        "log_prob": -cross_entropy,
    }
    zero_value = parameters | {"value": jnp.zeros((5, 1))}
    _, figures = impala_loss(output(zero_value, batch), batch, SPACE, jnp.asarray(0.0), LearnerConfig())
    np.testing.assert_allclose(figures.policy_loss, cross_entropy.mean(), rtol=1e-5)
    np.testing.assert_allclose(figures.effective_sample_size, 1.0, rtol=1e-5)
    np.testing.assert_allclose(figures.divergence, 0.0, atol=1e-6)


def test_what_stands_in_a_masked_row_does_not_matter(parameters: dict[str, jax.Array]) -> None:
    batch = make_batch(masked=True)
    garbage = dict(batch)
    for name in ("action", "reward", "cost", "log_prob"):
        garbage[name] = batch[name].at[3, 1].set(3)

    def gradient(columns: Batch) -> dict[str, jax.Array]:
        def loss(p: dict[str, jax.Array]) -> jax.Array:
            return impala_loss(output(p, columns), columns, SPACE, jnp.asarray(0.01), CONFIG)[0]

        slope: dict[str, jax.Array] = jax.grad(loss)(parameters)
        return slope

    expected, actual = gradient(batch), gradient(garbage)
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-6)


def test_gradient_is_that_of_finite_differences_with_frozen_targets(parameters: dict[str, jax.Array]) -> None:
    """The value gradient treats the targets as constants: it is (V - v) dV, not the gradient of the whole residual."""
    batch = make_batch()
    config = replace(CONFIG, value_cost=1.0)

    def value_only(p: dict[str, jax.Array]) -> jax.Array:
        return impala_loss(output(p, batch), batch, SPACE, jnp.asarray(0.0), config)[1].value_loss

    gradient = jax.grad(value_only)(parameters)["value"]
    _, values = linear_network(parameters, batch["observation"])
    logits, _ = linear_network(parameters, batch["observation"][:-1])
    log_pi = -optax.softmax_cross_entropy_with_integer_labels(logits, batch["action"])
    rho = jnp.exp(log_pi - batch["log_prob"])
    reward = shape_reward(batch["reward"], batch["cost"], config)
    targets = vtrace(values[:-1], values[1:], reward, 0.9 * batch["discount"], rho).targets_tm1
    expected = jnp.einsum("tb,tbo->o", values[:-1] - targets, batch["observation"][:-1]) / (T * B)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_reward_is_scaled_then_clipped_then_charged_for_cost() -> None:
    config = LearnerConfig(reward_scale=0.1, reward_clip=1.0, cost_coefficient=0.5)
    reward, cost = jnp.array([[5.0, 50.0, -50.0]]), jnp.array([[0.0, 1.0, 2.0]])
    np.testing.assert_allclose(shape_reward(reward, cost, config), [[0.5, 0.5, -2.0]])
