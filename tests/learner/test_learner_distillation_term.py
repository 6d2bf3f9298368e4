"""The term of the loss: which divergence it is, how teachers are weighed, and that a student learns by it alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from learner.columns import core_state, observations, resets
from learner.config import LearnerConfig
from learner.distillation.config import DistillationConfig
from learner.distillation.divergence import forward_divergence, mean_over, reverse_divergence
from learner.distillation.teachers import Teacher
from learner.distillation.term import DIVERGENCE, LOGITS, DistillationTerm, recorded_columns
from learner.distributions import log_prob
from learner.train_state import TrainState, initial_state
from learner.update import Update, compile_update, make_update
from policies.networks import NetworkOutput, functional
from policies.spaces import ActionSpace
from policies.spec import PolicySpec
from policies.testing import make_artifact, make_spec
from tests.learner.taught import teachers

SPEC = make_spec((3,), 2, hidden_sizes=(4,))
BIG = make_spec((3,), 2, hidden_sizes=(16, 16))
LEARNER = LearnerConfig(batch_size=4, learning_rate=0.02, learning_rate_end=0.02, entropy_cost=0, entropy_cost_end=0)
CONFIG = DistillationConfig(teachers=("a",))
T, B = 5, 4


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Teacher]:
    artifacts = [make_artifact(BIG, seed=seed) for seed in (1, 2)]
    for artifact in artifacts:
        # One that has made up its mind.
        artifact.parameters["policy/kernel"] *= 6
    return teachers(tmp_path_factory.mktemp("teachers"), artifacts)


def make_batch(seed: int = 0, spec: PolicySpec = SPEC) -> dict[str, NDArray[Any]]:
    """Nearly on policy, with one masked row that ends an episode."""
    rng = np.random.default_rng(seed)
    mask = np.ones((T, B), bool)
    mask[2, 1] = False
    action = rng.integers(2, size=(T, B)).astype(np.int32)
    if spec.action.kind == "box":
        action = rng.normal(size=(T, B, *spec.action.shape)).astype(np.float32)
    ones = np.ones((T, B), np.float32)
    return {
        "observation": rng.normal(size=(T + 1, B, 3)).astype(np.float32),
        "action": action,
        "reward": rng.normal(size=(T, B)).astype(np.float32),
        "cost": 0 * ones,
        "discount": mask * ones,
        "mask": mask,
        "log_prob": np.full((T, B), np.log(0.5), np.float32),
        "replayed": np.zeros(B, np.bool_),
    }


def says(spec: PolicySpec, parameters: Any, batch: Any) -> NetworkOutput:
    return functional(spec)(parameters, observations(batch, spec), core_state(batch, spec), resets(batch))


def value_of(term: DistillationTerm, batch: Any, spec: PolicySpec = SPEC) -> tuple[float, dict[str, float]]:
    parameters = make_artifact(spec, seed=0).parameters
    value, figures = term(
        {name: jnp.asarray(array) for name, array in parameters.items()},
        says(spec, parameters, batch),
        batch,
        jnp.zeros((), jnp.int32),
    )
    return float(value), {name: float(figure) for name, figure in figures.items()}


def divergences(two: list[Teacher], batch: Any, *, forward: bool = False) -> list[float]:
    student = says(SPEC, make_artifact(SPEC, seed=0).parameters, batch).logits[:-1]
    found = []
    for teacher in two:
        logits = says(BIG, teacher.artifact.parameters, batch).logits[:-1]
        by_step = (forward_divergence if forward else reverse_divergence)(student, logits, SPEC.action)
        found.append(float(by_step[batch["mask"]].mean()))
    return found


@pytest.mark.parametrize("mode", ["on_policy", "offline"])
def test_it_is_the_weighted_sum_over_real_steps(two: list[Teacher], mode: str) -> None:
    config = DistillationConfig(teachers=("a", "b"), weights=(2.0, 1.0), mode=mode)
    batch = make_batch()
    one, other = divergences(two, batch, forward=mode == "offline")
    value, figures = value_of(DistillationTerm(SPEC, config, two), batch)
    assert value == pytest.approx(2 * one + other, rel=1e-4)
    expected = {DIVERGENCE: (2 * one + other) / 3, f"{DIVERGENCE}_1": one, f"{DIVERGENCE}_2": other}
    assert figures == pytest.approx(expected, rel=1e-4)


def test_one_teacher_has_one_figure(two: list[Teacher]) -> None:
    batch = make_batch()
    value, figures = value_of(DistillationTerm(SPEC, CONFIG, two[:1]), batch)
    assert figures == pytest.approx({DIVERGENCE: value})
    softer, _ = value_of(DistillationTerm(SPEC, replace(CONFIG, temperature=3.0), two[:1]), batch)
    assert softer != pytest.approx(value, rel=1e-2)


def test_recorded_targets_are_the_records_own(two: list[Teacher]) -> None:
    config = replace(CONFIG, mode="offline", targets="recorded", weights=(0.5,))
    batch = make_batch()
    batch[LOGITS] = np.random.default_rng(9).normal(size=(T, B, 2)).astype(np.float32)
    student = says(SPEC, make_artifact(SPEC, seed=0).parameters, batch).logits[:-1]
    expected = mean_over(
        forward_divergence(student, jnp.asarray(batch[LOGITS]), SPEC.action), jnp.asarray(batch["mask"], jnp.float32)
    )
    value, figures = value_of(DistillationTerm(SPEC, config, two[:1]), batch)
    assert value == pytest.approx(0.5 * float(expected))
    assert figures == pytest.approx({DIVERGENCE: float(expected)})
    assert recorded_columns(config, SPEC, T, B)[LOGITS].shape == (T, B, 2)
    assert recorded_columns(CONFIG, SPEC, T, B) == {}


def test_the_sampled_gradient_is_that_of_a_bounded_advantage(two: list[Teacher]) -> None:
    """By hand: the mean over real steps of -A log pi_S(a) with A = -min(1, rho) (log pi_S - log pi_T)."""
    term = DistillationTerm(SPEC, replace(CONFIG, kl="sampled"), two[:1])
    batch = make_batch()
    action = jnp.asarray(batch["action"])
    parameters = {name: jnp.asarray(array) for name, array in make_artifact(SPEC, seed=0).parameters.items()}
    of_teacher = log_prob(says(BIG, two[0].artifact.parameters, batch).logits[:-1], action, SPEC.action)
    now = log_prob(says(SPEC, parameters, batch).logits[:-1], action, SPEC.action)
    advantage = -np.minimum(1.0, np.exp(np.asarray(now) - batch["log_prob"])) * np.asarray(now - of_teacher)

    def by_hand(changing: dict[str, jax.Array]) -> jax.Array:
        log_student = log_prob(says(SPEC, changing, batch).logits[:-1], action, SPEC.action)
        return jnp.asarray(-(advantage * log_student * batch["mask"]).sum() / batch["mask"].sum())

    def by_term(changing: dict[str, jax.Array]) -> jax.Array:
        return term(changing, says(SPEC, changing, batch), batch, jnp.zeros((), jnp.int32))[0]

    expected, found = jax.jit(jax.grad(by_hand))(parameters), jax.jit(jax.grad(by_term))(parameters)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-6)
    assert value_of(term, batch)[1][DIVERGENCE] == pytest.approx(-float(advantage[batch["mask"]].mean()), rel=1e-4)


@pytest.mark.parametrize("kl", ["full", "sampled"])
def test_real_numbers_are_taught_as_well(tmp_path: Path, kl: str) -> None:
    spec = replace(SPEC, action=ActionSpace("box", (2,)))
    (teacher,) = teachers(tmp_path, [make_artifact(replace(BIG, action=spec.action))])
    value, figures = value_of(DistillationTerm(spec, replace(CONFIG, kl=kl), [teacher]), make_batch(spec=spec), spec)
    assert np.isfinite([value, *figures.values()]).all()


@pytest.fixture(scope="module")
def update(two: list[Teacher]) -> Update:
    return make_update(SPEC, LEARNER, (DistillationTerm(SPEC, CONFIG, two[:1]),), policy_weight=0.0)


def test_without_reward_a_student_becomes_its_teacher_and_values_what_it_sees(
    two: list[Teacher], update: Update
) -> None:
    """Rewards that would teach something else have no say; the value still learns, by V-trace."""
    state, divergence = initial_state(SPEC, LEARNER, seed=0), []
    compiled = compile_update(update, state, SPEC, T, B)
    for number in range(300):
        batch = make_batch(number)
        batch["reward"], batch["discount"] = batch["action"].astype(np.float32), 0 * batch["discount"]
        state, figures = compiled(state, batch)
        divergence.append(float(figures.terms[DIVERGENCE]))
    assert np.mean(divergence[-20:]) < 0.1 * np.mean(divergence[:20])
    assert float(figures.loss.value_mean) == pytest.approx(0.5, abs=0.25)
    assert np.isfinite(float(figures.loss.total_loss))


def test_the_policys_own_gradient_is_left_out_exactly(two: list[Teacher], update: Update) -> None:
    """With rewards that differ the policy head changes alike, to the last bit; only values may differ."""
    heads = []
    for scale in (1.0, -7.0):
        # Without clipping by the norm, in which the value's gradient has a part.
        free = make_update(
            SPEC,
            replace(LEARNER, gradient_norm_max=1e9, value_cost=0.0),
            (DistillationTerm(SPEC, CONFIG, two[:1]),),
            policy_weight=0.0,
        )
        batch = make_batch()
        batch["reward"] = scale * batch["reward"]
        state, _ = free(initial_state(SPEC, LEARNER, seed=0), batch)
        heads.append(np.asarray(state.parameters["policy/kernel"]))
    np.testing.assert_array_equal(heads[0], heads[1])


def test_a_weight_of_one_and_no_terms_is_the_update_as_it_was() -> None:
    states: list[TrainState] = []
    for made in (make_update(SPEC, LEARNER), make_update(SPEC, LEARNER, (), 1.0)):
        state, figures = made(initial_state(SPEC, LEARNER, seed=0), make_batch())
        states.append(state)
        assert figures.terms == {}
    for name, array in states[0].parameters.items():
        np.testing.assert_array_equal(array, states[1].parameters[name])
