"""The update: it learns, it is deterministic, it never recompiles, and it clips and anneals as configured."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.typing import NDArray

from learner.columns import trained_columns
from learner.config import LearnerConfig
from learner.train_state import initial_state
from learner.update import compile_update, make_update
from policies.architecture import parameter_shapes
from policies.testing import make_spec

SPEC = make_spec((3,), 2, hidden_sizes=(16,))
CONFIG = LearnerConfig(batch_size=4, learning_rate=0.01, learning_rate_end=0.01)
T, B = 5, 4


def rewarding_action_one(rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """Uniformly random actions; action 1 earns 1, action 0 earns 0; every step ends its episode."""
    action = rng.integers(2, size=(T, B)).astype(np.int32)
    zeros = np.zeros((T, B), np.float32)
    return {
        "observation": rng.normal(size=(T + 1, B, 3)).astype(np.float32),
        "action": action,
        "reward": action.astype(np.float32),
        "cost": zeros,
        "discount": zeros,
        "mask": np.ones((T, B), bool),
        "log_prob": np.full((T, B), np.log(0.5), np.float32),
        "replayed": np.zeros(B, bool),
    }


def test_parameters_are_those_of_the_specification() -> None:
    state = initial_state(SPEC, CONFIG, seed=3)
    assert {name: array.shape for name, array in state.parameters.items()} == parameter_shapes(SPEC)
    again = initial_state(SPEC, CONFIG, seed=3)
    for name, array in state.parameters.items():
        np.testing.assert_array_equal(array, again.parameters[name])
    other = initial_state(SPEC, CONFIG, seed=4)
    assert not np.array_equal(other.parameters["torso/0/kernel"], state.parameters["torso/0/kernel"])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_learns_the_better_action_deterministically(optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer)
    update = make_update(SPEC, config)
    outcomes = []
    for _ in range(2):
        rng, state = np.random.default_rng(0), initial_state(SPEC, config, seed=0)
        for _ in range(150):
            state, figures = update(state, rewarding_action_one(rng))
        outcomes.append({name: np.asarray(array) for name, array in state.parameters.items()})
        assert int(state.updates) == 150
    for name in outcomes[0]:
        np.testing.assert_array_equal(outcomes[0][name], outcomes[1][name])
    assert float(figures.loss.value_mean) == pytest.approx(1.0, abs=0.2)
    assert float(figures.loss.entropy) < 0.3


def test_compiles_once_and_refuses_another_shape() -> None:
    state = initial_state(SPEC, CONFIG, seed=0)
    compiled = compile_update(make_update(SPEC, CONFIG), state, SPEC, T, B)
    rng = np.random.default_rng(0)
    with jax.log_compiles(False), jax.check_tracer_leaks(False):
        for _ in range(3):
            state, _ = compiled(state, rewarding_action_one(rng))
    assert int(state.updates) == 3
    wrong = {name: column[..., :2] for name, column in rewarding_action_one(rng).items()}
    with pytest.raises(TypeError):
        compiled(state, wrong)


def test_one_jitted_update_serves_all_batches() -> None:
    update, state = make_update(SPEC, CONFIG), initial_state(SPEC, CONFIG, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(4):
        state, _ = update(state, rewarding_action_one(rng))
    assert update._cache_size() == 1  # type: ignore[attr-defined]  # jax.jit's own count of compilations


def test_step_size_and_clipping_follow_the_configuration() -> None:
    config = replace(CONFIG, learning_rate=0.1, learning_rate_end=0.0, anneal_updates=4, gradient_norm_max=1e-6)
    update, state = make_update(SPEC, config), initial_state(SPEC, config, seed=0)
    rng, rates = np.random.default_rng(0), []
    for _ in range(6):
        state, figures = update(state, rewarding_action_one(rng))
        rates.append(float(figures.learning_rate))
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025, 0.0, 0.0], atol=1e-7)


def test_only_trained_columns_travel() -> None:
    assert {*trained_columns(SPEC), "replayed"} == set(rewarding_action_one(np.random.default_rng(0)))
    assert set(trained_columns(SPEC, behaviour=True)) - set(trained_columns(SPEC)) == {"logits"}
    recurrent = make_spec((3,), 2, core="gru", core_size=4)
    assert set(trained_columns(recurrent)) - set(trained_columns(SPEC)) == {"state"}
