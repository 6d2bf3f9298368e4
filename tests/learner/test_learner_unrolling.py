"""Burn-in: where the state arrives, that nothing of it is trained on, and that the rest is trained as if cut out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from learner.columns import Batch, core_state, observations, resets
from learner.config import LearnerConfig
from learner.loss import impala_loss
from learner.train_state import initial_state
from learner.unrolling import BurnInError, after_burn_in
from learner.update import make_update
from policies.networks import functional
from policies.testing import make_artifact, make_spec

SPEC = make_spec((3,), 2, hidden_sizes=(6,), core="lstm", core_size=4)
CONFIG = LearnerConfig(batch_size=4, learning_rate=0.01, burn_in=3)
T, B, BURN_IN = 8, 4, CONFIG.burn_in
APPLY = functional(SPEC)
PARAMETERS = {name: jnp.asarray(array) for name, array in make_artifact(SPEC, 1).parameters.items()}


def make_batch(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Lane 0 has no ending; in lane 1 an episode begins within the burn-in, in lane 2 with the first row after it, in
    lane 3 a boundary row is that row.
    """
    rng = np.random.default_rng(seed)
    discount, mask = np.ones((T, B), np.float32), np.ones((T, B), np.bool_)
    discount[1, 1] = discount[BURN_IN - 1, 2] = discount[BURN_IN, 3] = 0.0
    mask[BURN_IN, 3] = False
    return {
        "observation": rng.normal(size=(T + 1, B, 3)).astype(np.float32),
        "action": rng.integers(2, size=(T, B)).astype(np.int32) * mask,
        "reward": rng.normal(size=(T, B)).astype(np.float32) * mask,
        "cost": np.zeros((T, B), np.float32),
        "discount": discount,
        "mask": mask,
        "log_prob": np.full((T, B), np.log(0.5), np.float32) * mask,
        "state": rng.normal(size=(1, B, SPEC.state_size)).astype(np.float32),
        "replayed": np.zeros(B, np.bool_),
    }


def loss_of(parameters: dict[str, jax.Array], batch: Batch) -> jax.Array:
    output = APPLY(parameters, observations(batch, SPEC), core_state(batch, SPEC), resets(batch))
    return impala_loss(output, batch, SPEC.action, jnp.float32(0.01), CONFIG)[0]


def test_it_arrives_where_the_network_itself_does_row_by_row() -> None:
    batch = make_batch()
    state, begins = jnp.asarray(batch["state"][0]), resets(batch)
    for row in range(BURN_IN):
        state = APPLY(PARAMETERS, {"observation": batch["observation"][row : row + 1]}, state, begins[row : row + 1])[3]
    rest = after_burn_in(APPLY, PARAMETERS, batch, SPEC, BURN_IN)
    lanes = np.array([0, 1, 3])
    np.testing.assert_allclose(rest["state"][0, lanes], state[lanes], rtol=1e-6, atol=1e-7)
    assert not np.asarray(rest["state"][0, 2]).any(), "an episode begins there: nothing is remembered"
    for name in set(batch) - {"state", "replayed"}:
        np.testing.assert_array_equal(rest[name], batch[name][BURN_IN:])
    # Run on from there, the network says of the rest what it says of it when it runs over the whole.
    whole = APPLY(PARAMETERS, observations(batch, SPEC), core_state(batch, SPEC), resets(batch))
    cut = APPLY(PARAMETERS, observations(rest, SPEC), core_state(rest, SPEC), resets(rest))
    np.testing.assert_allclose(cut.logits, whole.logits[BURN_IN:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cut.value, whole.value[BURN_IN:], rtol=1e-5, atol=1e-6)


def test_no_gradient_comes_from_the_rows_of_the_burn_in() -> None:
    batch = make_batch()
    rest = {name: column for name, column in batch.items() if name not in ("observation", "state")}

    def loss(changing: dict[str, jax.Array], burn_in: int) -> jax.Array:
        whole = {**rest, "observation": changing["observation"], "state": changing["state"]}
        return loss_of(PARAMETERS, after_burn_in(APPLY, PARAMETERS, whole, SPEC, burn_in))

    given = {name: jnp.asarray(batch[name]) for name in ("observation", "state")}
    gradient = jax.grad(loss)(given, BURN_IN)
    assert not np.asarray(gradient["observation"][:BURN_IN]).any()
    assert not np.asarray(gradient["state"]).any()
    assert all(np.asarray(row).any() for row in gradient["observation"][BURN_IN:T])
    without = jax.grad(loss)(given, 0)
    assert np.asarray(without["observation"][:BURN_IN]).any(), "or the test could not fail"
    assert np.asarray(without["state"]).any()


def test_parameters_learn_from_the_rest_alone() -> None:
    """The gradient is that of the rest with the state as a constant, also where the burn-in is inside of the loss."""
    batch = make_batch()
    rest = after_burn_in(APPLY, PARAMETERS, batch, SPEC, BURN_IN)
    constant = {name: jnp.asarray(np.asarray(column)) for name, column in rest.items()}
    expected = jax.grad(loss_of)(PARAMETERS, constant)
    inside = jax.grad(lambda p: loss_of(p, after_burn_in(APPLY, p, batch, SPEC, BURN_IN)))(PARAMETERS)
    whole = jax.grad(loss_of)(PARAMETERS, batch)
    for name, gradient in expected.items():
        np.testing.assert_allclose(inside[name], gradient, rtol=1e-4, atol=1e-7)
    assert any(np.abs(np.asarray(whole[name] - each)).max() > 1e-3 for name, each in expected.items())


def test_an_update_takes_no_notice_of_what_happened_in_the_burn_in() -> None:
    """Rewards, actions and probabilities there may be anything; what was observed there counts by the state alone."""
    update = make_update(SPEC, CONFIG)
    batch, other = make_batch(), make_batch()
    for name, value in (("reward", 100.0), ("action", 1), ("log_prob", -7.0), ("cost", 9.0)):
        other[name][:BURN_IN] = value
    results = [update(initial_state(SPEC, CONFIG, 0), each) for each in (batch, other)]
    (state, figures), (same, same_figures) = results
    for name, array in state.parameters.items():
        np.testing.assert_array_equal(array, same.parameters[name])
    np.testing.assert_array_equal(figures.loss.total_loss, same_figures.loss.total_loss)
    other["observation"][0] += 1.0
    _, changed = update(initial_state(SPEC, CONFIG, 0), other)
    assert float(changed.loss.total_loss) != float(figures.loss.total_loss)
    assert update._cache_size() == 1  # type: ignore[attr-defined]  # jax.jit's own count of compilations


def test_without_burn_in_the_batch_is_what_it_was() -> None:
    batch = make_batch()
    assert after_burn_in(APPLY, PARAMETERS, batch, SPEC, 0) is batch


def test_what_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(BurnInError, match="burn_in = 8 must be below the 8 rows of a record"):
        after_burn_in(APPLY, PARAMETERS, make_batch(), SPEC, T)
    plain = make_spec((3,), 2)
    with pytest.raises(BurnInError, match="burn_in = 3 is for recurrent policies"):
        after_burn_in(functional(plain), {}, make_batch(), plain, BURN_IN)
