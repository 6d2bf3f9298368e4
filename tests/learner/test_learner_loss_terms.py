"""Every term of the loss, in every combination that is its own formula, against the reference in NumPy and float64.

Values, and gradients by finite differences, for all kinds of actions, with masked rows and several episodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learner.config import LearnerConfig
from learner.loss import LossFigures, impala_loss
from learner.moments import Moments
from learner.train_state import Auxiliary
from policies.networks import NetworkOutput
from policies.spaces import ActionSpace, discrete
from tests.learner.loss_reference import Arrays, Figures, make_batch, make_parameters, reference_terms

SPACES = {
    "discrete": discrete(3),
    "multi_discrete": ActionSpace("multi_discrete", (2, 3)),
    "box": ActionSpace("box", (2,)),
}
BASE: dict[str, Any] = {"discount": 0.9, "value_cost": 0.4, "reward_scale": 2.0, "trace_decay": 0.9}
ENTROPY_COST = 0.03
PRICE = 0.8
POPART = Figures(weight=0.3, mean=1.5, variance=4.0)

CASES: dict[str, dict[str, Any]] = {
    "vtrace": {
        "rho_clip": 1.5,
        "c_clip": 0.8,
        "policy_gradient_rho_clip": 1.2,
        "cost_coefficient": 0.3,
        "reward_clip": 1.5,
        "upgo_cost": 0.7,
    },
    "ppo": {"policy_loss": "ppo", "ppo_clip": 0.3, "upgo_cost": 0.7},
    "impact": {"policy_loss": "ppo", "target_updates": 5},
    "laser": {"trust_region_kl": 0.9, "upgo_cost": 0.3, "clear_policy_cost": 0.1},
    "popart": {"popart_rate": 0.1},
    "all": {
        "policy_loss": "ppo",
        "target_updates": 5,
        "upgo_cost": 0.2,
        "clear_policy_cost": 0.5,
        "clear_value_cost": 0.2,
        "trust_region_kl": 0.9,
        "cost_limit": 0.5,
        "popart_rate": 0.1,
    },
}
WEIGHTS: dict[str, Callable[[LearnerConfig], float]] = {
    "policy_loss": lambda config: 1.0,
    "value_loss": lambda config: config.value_cost,
    "cost_value_loss": lambda config: config.value_cost,
    "upgo_loss": lambda config: config.upgo_cost,
    "policy_cloning_loss": lambda config: config.clear_policy_cost,
    "value_cloning_loss": lambda config: config.clear_value_cost,
    "entropy": lambda config: -ENTROPY_COST,
}


def output(parameters: Mapping[str, Any], batch: Mapping[str, Any]) -> NetworkOutput:
    x = batch["observation"]
    value, cost_value = (x @ parameters[name] for name in ("value", "cost_value"))
    return NetworkOutput(x @ parameters["policy"], value[..., 0], cost_value[..., 0], jnp.zeros((x.shape[1], 0)))


class Case:
    """Settings, a batch, and what else the loss takes."""

    def __init__(self, name: str, kind: str = "discrete") -> None:
        self.config, self.space = LearnerConfig(**BASE | CASES[name]), SPACES[kind]
        self.key = name, kind
        self.batch = make_batch(self.space)
        self.parameters = make_parameters(self.space, seed=1)
        self.target = make_parameters(self.space, seed=2) if self.config.target_updates else None
        self.popart = POPART if self.config.popart_rate else None
        self.price = PRICE if self.config.is_constrained else None

    def reference(self, parameters: Arrays) -> dict[str, float]:
        return reference_terms(
            parameters,
            self.batch,
            self.space,
            self.config,
            frozen=self.parameters,
            target=self.target,
            popart=self.popart,
            price=self.price,
        )

    def reference_total(self, parameters: Arrays) -> float:
        terms = self.reference(parameters)
        return sum(weight(self.config) * terms[name] for name, weight in WEIGHTS.items() if name in terms)

    def slope(self, direction: Arrays, step: float = 1e-6) -> float:
        """Central difference of the reference along a direction in the parameters."""
        ends = [
            self.reference_total({name: x + sign * step * direction[name] for name, x in self.parameters.items()})
            for sign in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * step)

    def gradient(self) -> tuple[Arrays, LossFigures]:
        """Of the loss of the learner, and its figures, in float64."""
        with jax.enable_x64(True):
            figures: Any = self.popart
            popart = figures and Moments(figures.weight, figures.mean, figures.variance)
            arguments = jax.tree.map(jnp.asarray, (self.parameters, self.batch, self.target, popart, self.price))
            return jax.tree.map(np.asarray, compiled(*self.key)(*arguments))  # type: ignore[no-any-return]


@functools.cache
def compiled(name: str, kind: str) -> Callable[..., tuple[Any, LossFigures]]:
    """The gradient of the loss with these settings; compiled once for all tests."""
    config, space = LearnerConfig(**BASE | CASES[name]), SPACES[kind]

    def loss(parameters: Any, batch: Any, target: Any, popart: Any, price: Any) -> tuple[Any, LossFigures]:
        return impala_loss(
            output(parameters, batch),
            batch,
            space,
            jnp.asarray(ENTROPY_COST),
            config,
            target=None if target is None else output(target, batch),
            auxiliary=Auxiliary(popart=popart, multiplier=price),
        )

    return jax.jit(jax.grad(loss, has_aux=True))


KINDS = [*((name, "discrete") for name in CASES), ("all", "multi_discrete"), ("all", "box")]


@pytest.mark.parametrize("name,kind", KINDS)
def test_terms_and_gradient_are_those_of_the_reference(name: str, kind: str) -> None:
    case = Case(name, kind)
    slopes, figures = case.gradient()
    terms, given = case.reference(case.parameters), figures._asdict()
    compared = [term for term in WEIGHTS if given[term] is not None]
    assert {"policy_loss", "value_loss", "cost_value_loss", "entropy"} <= set(compared)
    for term in compared:
        np.testing.assert_allclose(given[term], terms[term], rtol=1e-9, err_msg=term)
    np.testing.assert_allclose(figures.total_loss, case.reference_total(case.parameters), rtol=1e-9)
    rng = np.random.default_rng(3)
    for moved in case.parameters:
        for _ in range(3):
            direction = {key: (key == moved) * rng.normal(size=x.shape) for key, x in case.parameters.items()}
            along = float((slopes[moved] * direction[moved]).sum())
            np.testing.assert_allclose(along, case.slope(direction), rtol=1e-5, atol=1e-8, err_msg=moved)


def test_terms_that_are_not_asked_for_are_not_there() -> None:
    _, figures = Case("popart").gradient()
    optional = {"clipped_fraction", "upgo_loss", "policy_cloning_loss", "value_cloning_loss", "trusted_fraction"}
    assert {name for name, value in figures._asdict().items() if value is None} == optional
    _, figures = Case("all").gradient()
    assert all(value is not None for value in figures)
    assert figures.trusted_fraction is not None
    assert 0.4 < float(figures.trusted_fraction) < 1.0
    assert figures.clipped_fraction is not None
    assert 0.0 < float(figures.clipped_fraction) < 1.0


@pytest.mark.parametrize("kind", SPACES)
def test_what_stands_in_rows_without_a_step_does_not_matter(kind: str) -> None:
    case = Case("all", kind)
    expected, _ = case.gradient()
    rows = ~case.batch["mask"]
    for name, garbage in (("action", 1), ("reward", 9.0), ("cost", 9.0), ("log_prob", -3.0), ("logits", 7.0)):
        case.batch[name][rows] = garbage
    actual, _ = case.gradient()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-12)


def test_neither_the_order_of_records_nor_a_constant_in_all_logits_matters() -> None:
    case = Case("all")
    expected, figures = case.gradient()
    order = np.array([2, 0, 3, 1])
    case.batch = {name: array[order] if name == "replayed" else array[:, order] for name, array in case.batch.items()}
    case.batch["logits"] = case.batch["logits"] + 4.0
    actual, permuted = case.gradient()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(permuted.total_loss, figures.total_loss, rtol=1e-12)
    # A feature that is 1 everywhere, with one weight to all logits, adds a constant to each row of them.
    case.batch["observation"][..., 0] = 1.0
    before = case.gradient()[1]
    case.parameters["policy"][0] += 3.0
    after = case.gradient()[1]
    np.testing.assert_allclose(after.total_loss, before.total_loss, rtol=1e-10)


def test_scaled_rewards_leave_advantages_and_losses_as_they_are_where_popart_knows_the_scale() -> None:
    case, factor = Case("popart"), 1000.0
    expected, figures = case.gradient()
    case.batch["reward"] = factor * case.batch["reward"]
    case.popart = Figures(POPART.weight, factor * POPART.mean, factor**2 * POPART.variance)
    slopes, scaled = case.gradient()
    for name in ("advantage_std", "policy_loss", "value_loss"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(figures, name), rtol=1e-9)
    np.testing.assert_allclose(scaled.target_mean, factor * figures.target_mean, rtol=1e-9)
    for name in ("policy", "value"):
        np.testing.assert_allclose(slopes[name], expected[name], rtol=1e-8)
