"""V-trace against a reference in the paper's notation, against rlax, and in cases whose answer is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from learner.vtrace import VTrace, vtrace

Arrays = dict[str, NDArray[np.float32]]


def trace(case: Arrays, **settings: float) -> VTrace:
    v_tm1, v_t, r_t, discount_t, rho_tm1 = (
        jnp.asarray(case[name]) for name in ("v_tm1", "v_t", "r_t", "discount_t", "rho_tm1")
    )
    return vtrace(v_tm1, v_t, r_t, discount_t, rho_tm1, **settings)


def reference(
    case: Arrays, trace_decay: float, rho_bar: float, c_bar: float, pg_bar: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Equation 1 of the paper by its double sum, O(T^2), one unroll at a time; s, t and products as printed there."""
    V, V_next, r, gamma, ratio = (case[k].astype(np.float64) for k in ("v_tm1", "v_t", "r_t", "discount_t", "rho_tm1"))
    T, B = r.shape
    rho, c = np.minimum(rho_bar, ratio), trace_decay * np.minimum(c_bar, ratio)
    v, advantage = np.zeros((T + 1, B)), np.zeros((T, B))
    for b in range(B):
        for s in range(T):
            v[s, b] = V[s, b]
            for t in range(s, T):
                weight = np.prod([gamma[i, b] * c[i, b] for i in range(s, t)])
                v[s, b] += weight * rho[t, b] * (r[t, b] + gamma[t, b] * V_next[t, b] - V[t, b])
        v[T, b] = V_next[T - 1, b]
        for s in range(T):
            advantage[s, b] = min(pg_bar, ratio[s, b]) * (r[s, b] + gamma[s, b] * v[s + 1, b] - V[s, b])
    return v[:T], advantage


def random_case(seed: int, T: int, B: int, ends: float = 0.2) -> Arrays:
    """Values, rewards and ratios of a random walk through several episodes; V_{s+1} is the value of the next row."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(T + 1, B)) * 3
    case = {
        "v_tm1": values[:-1],
        "v_t": values[1:],
        "r_t": rng.normal(size=(T, B)),
        "discount_t": 0.95 * (rng.random((T, B)) > ends),
        "rho_tm1": np.exp(rng.normal(size=(T, B)) * 0.8),
    }
    return {name: array.astype(np.float32) for name, array in case.items()}


@pytest.mark.parametrize("T,B", [(1, 1), (1, 5), (7, 3), (20, 4)])
@pytest.mark.parametrize(
    "trace_decay,rho_bar,c_bar,pg_bar", [(1, 1, 1, 1), (0.9, 1, 1, 1), (1, 2.5, 0.7, 1.5), (0, 1, 1, 1)]
)
def test_equals_the_double_sum_of_the_paper(
    T: int, B: int, trace_decay: float, rho_bar: float, c_bar: float, pg_bar: float
) -> None:
    case = random_case(seed=T * 10 + B, T=T, B=B)
    result = trace(case, trace_decay=trace_decay, rho_clip=rho_bar, c_clip=c_bar, policy_gradient_rho_clip=pg_bar)
    targets, advantages = reference(case, trace_decay, rho_bar, c_bar, pg_bar)
    np.testing.assert_allclose(result.targets_tm1, targets, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(result.advantages_tm1, advantages, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("trace_decay", [1.0, 0.8])
def test_equals_rlax(trace_decay: float) -> None:
    rlax = pytest.importorskip("rlax")
    case = random_case(seed=3, T=30, B=6)
    ours = trace(case, trace_decay=trace_decay, policy_gradient_rho_clip=1.3)

    def theirs(v_tm1: Any, v_t: Any, r_t: Any, discount_t: Any, rho_tm1: Any) -> Any:
        return rlax.vtrace_td_error_and_advantage(
            v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_=trace_decay, clip_pg_rho_threshold=1.3
        )

    expected = jax.vmap(theirs, in_axes=1, out_axes=1)(*(jnp.asarray(case[k]) for k in case))
    np.testing.assert_allclose(ours.targets_tm1 - case["v_tm1"], expected.errors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.advantages_tm1[-1], expected.pg_advantage[-1], rtol=1e-4, atol=1e-5)
    # rlax bootstraps its q-estimate with lambda-mixed targets; at lambda = 1 the definitions coincide on every row.
    if trace_decay == 1.0:
        np.testing.assert_allclose(ours.advantages_tm1, expected.pg_advantage, rtol=1e-4, atol=1e-5)


def test_on_policy_targets_are_n_step_returns() -> None:
    case = random_case(seed=5, T=12, B=3)
    case["rho_tm1"] = np.ones_like(case["rho_tm1"])
    returns = case["v_t"][-1].astype(np.float64)
    expected = np.zeros((12, 3))
    for t in reversed(range(12)):
        returns = case["r_t"][t] + case["discount_t"][t] * returns
        expected[t] = returns
    np.testing.assert_allclose(trace(case).targets_tm1, expected, rtol=1e-5, atol=1e-5)


def test_nothing_after_a_termination_reaches_back_over_it() -> None:
    case = random_case(seed=8, T=10, B=2, ends=0.0)
    case["discount_t"][4] = 0.0
    changed = {name: array.copy() for name, array in case.items()}
    for name in ("r_t", "v_tm1"):
        changed[name][5:] += 100.0
    changed["v_t"][4:] += 100.0
    before, after = trace(case), trace(changed)
    np.testing.assert_array_equal(before.targets_tm1[:5], after.targets_tm1[:5])
    np.testing.assert_array_equal(before.advantages_tm1[:5], after.advantages_tm1[:5])
    assert not np.allclose(before.targets_tm1[5:], after.targets_tm1[5:])


def test_a_row_of_weight_zero_hands_its_own_value_to_the_step_before() -> None:
    """The boundary row after a truncation: its value is the bootstrap, its target is its value, its advantage 0."""
    case = random_case(seed=9, T=6, B=1, ends=0.0)
    case["rho_tm1"][3] = 0.0
    case["discount_t"][3] = 0.0
    result = trace(case)
    assert result.targets_tm1[3] == case["v_tm1"][3]
    assert result.advantages_tm1[3] == 0.0
    truncated = {name: array[:3] for name, array in case.items()}
    np.testing.assert_allclose(result.targets_tm1[:3], trace(truncated).targets_tm1, rtol=1e-6)


def test_value_function_that_is_right_has_itself_as_target() -> None:
    """On a chain of known length with reward 1 a step the true values are a fixed point, whatever the ratios."""
    T, gamma = 9, 0.9
    to_go = np.arange(T, 0, -1)
    true_value = (1 - gamma**to_go) / (1 - gamma)
    v_tm1 = np.repeat(true_value[:, None], 2, axis=1).astype(np.float32)
    v_t = np.concatenate([v_tm1[1:], np.zeros((1, 2), np.float32)])
    discount = np.full((T, 2), gamma, np.float32)
    discount[-1] = 0.0
    ratios = np.exp(np.random.default_rng(0).normal(size=(T, 2))).astype(np.float32)
    rewards = np.ones((T, 2), np.float32)
    result = trace({"v_tm1": v_tm1, "v_t": v_t, "r_t": rewards, "discount_t": discount, "rho_tm1": ratios})
    np.testing.assert_allclose(result.targets_tm1, v_tm1, rtol=1e-5)
    np.testing.assert_allclose(result.advantages_tm1, np.zeros((T, 2)), atol=1e-5)


def test_no_gradient_flows_through_targets_or_advantages() -> None:
    case = random_case(seed=11, T=5, B=2)

    def total(v_tm1: Any) -> Any:
        result = trace(case | {"v_tm1": v_tm1})
        return result.targets_tm1.sum() + result.advantages_tm1.sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(case["v_tm1"])), np.zeros((5, 2)))


def test_batch_order_does_not_matter() -> None:
    case = random_case(seed=12, T=8, B=5)
    order = np.array([3, 0, 4, 1, 2])
    permuted = trace({name: array[:, order] for name, array in case.items()})
    np.testing.assert_allclose(permuted.targets_tm1, np.asarray(trace(case).targets_tm1)[:, order], rtol=1e-6)
