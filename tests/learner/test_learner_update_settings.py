"""The whole update under the settings of the loss: shapes, compilations, what it keeps, and what it learns.

Where something is learnt, the answer is known in closed form.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learner.checkpoint import Checkpointer, state_layout
from learner.columns import blank_batch, trained_columns
from learner.config import LearnerConfig, check_learner
from learner.progress import Progress
from learner.publisher import artifact_bytes
from learner.rollback import ReleaseStates
from learner.train_state import TrainState, initial_state
from learner.update import Update, make_update
from policies.artifact import artifact_digest
from policies.config import NetworkConfig
from policies.networks import functional
from policies.spaces import ActionSpace, array_space, discrete, record_space
from policies.spec import PolicySpec

T, B = 4, 6

EVERYTHING = LearnerConfig(
    batch_size=B,
    uniform_fraction=0.5,
    policy_loss="ppo",
    target_updates=3,
    upgo_cost=0.3,
    clear_policy_cost=0.1,
    clear_value_cost=0.1,
    trust_region_kl=0.5,
    cost_limit=1.0,
    multiplier_learning_rate=0.1,
    popart_rate=0.1,
    normalizer_updates=4,
)
NETWORK = NetworkConfig(hidden_sizes=(8,), core="gru", core_size=4, normalize_observations=True, cost_value=True)
SPECS = {
    "discrete": PolicySpec(NETWORK, array_space((3,), "<f4"), discrete(3)),
    "multi_discrete": PolicySpec(
        NETWORK, record_space({"a": ((2,), "<f4"), "b": ((3,), "|u1")}), ActionSpace("multi_discrete", (2, 3))
    ),
    "box": PolicySpec(NETWORK, array_space((3,), "<f4"), ActionSpace("box", (2,))),
}


def random_batch(spec: PolicySpec, rng: np.random.Generator) -> dict[str, Any]:
    """Records of this specification, with rows that are no steps."""
    batch = blank_batch(spec, T, B, behaviour=True)
    for name, column in batch.items():
        if column.dtype.kind == "f":
            batch[name] = rng.normal(size=column.shape).astype(column.dtype)
    if spec.action.is_discrete:
        batch["action"] = rng.integers(spec.action.sizes, size=batch["action"].shape + (1,) * (not spec.action.shape))
        batch["action"] = batch["action"].reshape(T, B, *spec.action.shape).astype(np.int32)
    batch |= {
        "mask": rng.random((T, B)) > 0.1,
        "discount": (rng.random((T, B)) > 0.2).astype(np.float32),
        "cost": (rng.random((T, B)) > 0.5).astype(np.float32),
        "log_prob": np.full((T, B), -1.5, np.float32),
        "replayed": np.arange(B) >= B // 2,
    }
    return batch


@functools.cache
def everything(kind: str) -> Update:
    return make_update(SPECS[kind], EVERYTHING)


def as_numpy(tree: Any) -> Any:
    return jax.tree.map(np.array, tree)


@pytest.mark.parametrize("kind", SPECS)
def test_with_everything_on_it_compiles_once_and_keeps_its_shapes(kind: str) -> None:
    spec, update, rng = SPECS[kind], everything(kind), np.random.default_rng(0)
    check_learner(EVERYTHING, spec.network)
    state = initial_state(spec, EVERYTHING, seed=0)
    layout = state_layout(state)
    for _ in range(3):
        state, figures = update(state, random_batch(spec, rng))
        assert all(np.isfinite(leaf).all() for leaf in as_numpy(jax.tree.leaves((state, figures))))
    assert update._cache_size() == 1  # type: ignore[attr-defined]  # jax.jit's own count of compilations
    assert state_layout(state) == layout
    assert set(random_batch(spec, rng)) == {*trained_columns(spec, behaviour=True), "replayed"}


def test_target_network_is_copied_by_the_clock_and_the_normalizer_freezes() -> None:
    spec, update, rng = SPECS["discrete"], everything("discrete"), np.random.default_rng(1)
    state = initial_state(spec, EVERYTHING, seed=0)
    policies, targets, means = [], [], []
    for _ in range(6):
        state, _ = update(state, random_batch(spec, rng))
        assert state.auxiliary.target is not None
        policies.append(np.array(state.parameters["policy/kernel"]))
        targets.append(np.array(state.auxiliary.target["policy/kernel"]))
        means.append(np.array(state.parameters["normalizer/mean"]))
    np.testing.assert_array_equal(targets[1], targets[0])
    assert not np.array_equal(targets[0], policies[0])
    for update_count in (2, 5):
        np.testing.assert_array_equal(targets[update_count], policies[update_count])
    np.testing.assert_array_equal(targets[4], targets[2])
    assert not np.array_equal(means[3], means[2])
    np.testing.assert_array_equal(means[5], means[3])
    assert state.auxiliary.normalizer is not None
    np.testing.assert_array_equal(means[5], state.auxiliary.normalizer["normalizer"].mean)


def test_the_target_value_is_preserved_with_the_head_when_popart_moves() -> None:
    """With the target network's head moved, too, its values stay what they were: seen at a step that is not taken."""
    spec, rng = SPECS["discrete"], np.random.default_rng(2)
    batch = random_batch(spec, rng)
    state = initial_state(spec, EVERYTHING, seed=0)
    for _ in range(2):
        before = as_numpy(state.auxiliary)
        state, _ = everything("discrete")(state, batch | {"reward": 100 * batch["reward"]})
    hidden = rng.normal(size=(7, 4))

    def values(auxiliary: Any) -> Any:
        scale = np.sqrt(auxiliary.popart.variance) if auxiliary.popart.weight else 1.0
        output = hidden @ auxiliary.target["value/kernel"] + auxiliary.target["value/bias"]
        return scale * output + auxiliary.popart.mean

    assert not np.allclose(before.popart.mean, state.auxiliary.popart.mean)  # type: ignore[union-attr]
    np.testing.assert_allclose(values(as_numpy(state.auxiliary)), values(before), rtol=1e-4)


def test_all_that_an_update_changes_is_checkpointed_and_rolled_back(tmp_path: Path) -> None:
    spec, rng = SPECS["box"], np.random.default_rng(3)
    update, state = everything("box"), initial_state(spec, EVERYTHING, seed=0)
    for _ in range(2):
        state, _ = update(state, random_batch(spec, rng))
    kept = as_numpy(state)
    like = initial_state(spec, EVERYTHING, seed=9)
    checkpoints = Checkpointer(tmp_path / "checkpoints", kept=1)
    checkpoints.save(state, Progress(seed=0, updates=2))
    checkpoints.wait()
    restored = checkpoints.restore(like)
    checkpoints.close()
    assert restored is not None
    states = ReleaseStates(tmp_path / "states", spec)
    digest = artifact_digest(artifact_bytes(spec, state))
    states.offered(digest, state)
    states.released(1, digest)
    released = states.restore(1, digest, like)
    states.close()
    assert released is not None
    following, _ = update(state, batch := random_batch(spec, rng))
    for found in (restored[0], released):
        assert state_layout(found) == state_layout(kept)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(kept), strict=True):
            np.testing.assert_array_equal(one, other)
    again, _ = update(released, batch)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(following), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_without_a_step_moves_no_figures() -> None:
    spec, rng = SPECS["discrete"], np.random.default_rng(4)
    state, _ = everything("discrete")(initial_state(spec, EVERYTHING, seed=0), random_batch(spec, rng))
    before = as_numpy(state.auxiliary)
    empty = random_batch(spec, rng) | {"mask": np.zeros((T, B), bool)}
    state, figures = everything("discrete")(state, empty)
    assert float(figures.gradient_norm) == 0.0
    assert state.auxiliary.popart is not None
    assert state.auxiliary.normalizer is not None
    np.testing.assert_array_equal(state.auxiliary.popart.mean, before.popart.mean)
    np.testing.assert_array_equal(state.auxiliary.normalizer["normalizer"].mean, before.normalizer["normalizer"].mean)
    np.testing.assert_array_equal(state.auxiliary.multiplier, before.multiplier)


CHAIN = 5


def chain_batch(rng: np.random.Generator, rows: int, records: int) -> dict[str, Any]:
    """A chain of five states: action 1 earns 1 and goes on, action 0 ends it; a coin decides."""
    states = np.zeros((rows + 1, records), int)
    states[0] = rng.integers(CHAIN, size=records)
    action = rng.integers(2, size=(rows, records)).astype(np.int32)
    goes_on = np.zeros((rows, records), bool)
    for row in range(rows):
        goes_on[row] = (action[row] == 1) & (states[row] < CHAIN - 1)
        states[row + 1] = np.where(goes_on[row], states[row] + 1, rng.integers(CHAIN, size=records))
    return {
        "observation": np.eye(CHAIN, dtype=np.float32)[states],
        "action": action,
        "reward": action.astype(np.float32),
        "cost": np.zeros((rows, records), np.float32),
        "discount": goes_on.astype(np.float32),
        "mask": np.ones((rows, records), bool),
        "log_prob": np.full((rows, records), math.log(0.5), np.float32),
        "replayed": np.zeros(records, bool),
    }


@pytest.mark.parametrize("popart_rate", [0.0, 0.05])
def test_values_of_a_chain_are_learnt_off_policy_to_one_percent(popart_rate: float) -> None:
    """Going on is always right: v(s) = (1 - g^(5 - s)) / (1 - g), although a coin plays."""
    spec = PolicySpec(NetworkConfig(hidden_sizes=(16,)), array_space((CHAIN,), "<f4"), discrete(2))
    updates, discount = 400, 0.9
    config = LearnerConfig(
        discount=discount,
        learning_rate=0.03,
        learning_rate_end=1e-4,
        anneal_updates=updates,
        entropy_cost=0.0,
        entropy_cost_end=0.0,
        popart_rate=popart_rate,
    )
    update, state, rng = make_update(spec, config), initial_state(spec, config, seed=0), np.random.default_rng(0)
    for _ in range(updates):
        state, _ = update(state, chain_batch(rng, 8, 16))
    output = outputs(spec, state, np.eye(CHAIN, dtype=np.float32))
    value = np.asarray(output.value[0])
    if state.auxiliary.popart is not None:
        value = value * np.sqrt(state.auxiliary.popart.variance) + np.asarray(state.auxiliary.popart.mean)
    expected = (1 - discount ** np.arange(CHAIN, 0, -1)) / (1 - discount)
    np.testing.assert_allclose(value, expected, rtol=0.01)


@functools.cache
def applied(spec: PolicySpec) -> Any:
    return jax.jit(functional(spec))


def outputs(spec: PolicySpec, state: TrainState, observation: Any) -> Any:
    rows = len(observation)
    return applied(spec)(
        state.parameters, {"observation": observation[None]}, jnp.zeros((rows, 0)), jnp.zeros((1, rows), bool)
    )


def test_the_price_of_cost_converges_to_the_multiplier_of_a_bandit() -> None:
    """Arm 1 earns 1 and costs 1, arm 0 neither; it may be taken in 30 of 100 episodes.

    With an entropy bonus of weight w the policy stands still where (1 - price) / (1 + price) = w logit(p), and the
    price does at p = 0.3.
    """
    limit, bonus, updates = 0.3, 0.1, 400
    network = NetworkConfig(hidden_sizes=(4,), cost_value=True)
    spec = PolicySpec(network, array_space((1,), "<f4"), discrete(2))
    config = LearnerConfig(
        learning_rate=0.05,
        learning_rate_end=0.002,
        anneal_updates=updates,
        entropy_cost=bonus,
        entropy_cost_end=bonus,
        cost_limit=limit,
        multiplier_learning_rate=0.02,
    )
    update, state = make_update(spec, config), initial_state(spec, config, seed=0)
    one, rows = np.ones((1, 1), np.float32), 100
    ones = np.ones((1, rows), np.float32)
    for _ in range(updates):
        log_pi = np.asarray(jax.nn.log_softmax(outputs(spec, state, one).logits[0, 0]))
        # As many of each as the policy would take on average: no noise of sampling in the way.
        action = (np.arange(rows) < round(rows * math.exp(log_pi[1])))[None].astype(np.int32)
        batch = {
            "observation": np.ones((2, rows, 1), np.float32),
            "action": action,
            "reward": action.astype(np.float32),
            "cost": action.astype(np.float32),
            "discount": 0 * ones,
            "mask": ones.astype(bool),
            "log_prob": log_pi[action],
            "replayed": np.zeros(rows, bool),
        }
        state, _ = update(state, batch)
    slope = bonus * math.log(limit / (1 - limit))
    expected = (1 - slope) / (1 + slope)
    assert state.auxiliary.multiplier is not None
    assert float(state.auxiliary.multiplier) == pytest.approx(expected, rel=0.02)
    probability = float(jax.nn.softmax(outputs(spec, state, one).logits[0, 0])[1])
    assert probability == pytest.approx(limit, abs=0.02)
