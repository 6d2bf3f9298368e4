"""The environments in which reward and cost pull apart: what they pay, what costs, and that the two do conflict."""

from __future__ import annotations

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment
from actors.environments.cartpole import CartPoleVector
from actors.environments.cartpole_edge import CartPoleEdgeVector
from actors.environments.catalog import make_vector
from actors.environments.minatar import MinAtar
from actors.environments.minatar_cost import CLOSED_COLUMNS, SpaceInvadersClosedColumns

LEFT, RIGHT, FIRE = 1, 3, 5


def hold(environment: VectorEnvironment, place: float) -> tuple[float, float]:
    """Balances near a place of the track: mean return, and the share of episodes with a cost."""
    lanes = environment.lanes
    observation = environment.reset(np.arange(lanes), list(range(lanes)))
    total, costs = np.zeros(lanes), np.zeros(lanes)
    active = np.ones(lanes, np.bool_)
    while active.any():
        off = np.clip(observation[:, 0] - place, -0.3, 0.3)
        lean = 0.5 * off + 0.5 * observation[:, 1] + 3.0 * observation[:, 2] + observation[:, 3]
        step = environment.step((lean > 0).astype(np.int32), active)
        total += step.reward * active
        costs += step.cost * active
        observation = step.observation
        active &= ~(step.terminated | step.truncated)
    return float(total.mean()), float((costs > 0).mean())


def test_cartpole_edge_is_cartpole_but_for_the_reward() -> None:
    lanes = 32
    plain, edge = (make(EnvironmentConfig(cart_margin=0.3), lanes) for make in (CartPoleVector, CartPoleEdgeVector))
    seeds = list(range(lanes))
    assert np.array_equal(plain.reset(np.arange(lanes), seeds), edge.reset(np.arange(lanes), seeds))
    generator, active = np.random.default_rng(0), np.ones(lanes, np.bool_)
    costs = 0.0
    for _ in range(60):
        actions = generator.integers(2, size=lanes).astype(np.int32)
        expected, step = plain.step(actions, active), edge.step(actions, active)
        for column in ("observation", "cost", "terminated", "truncated"):
            assert np.array_equal(getattr(step, column)[active], getattr(expected, column)[active])
        assert step.reward.dtype == np.float32
        np.testing.assert_allclose(step.reward[active], 1.0 + expected.observation[active, 0] / 2.4, rtol=1e-5)
        costs += float(step.cost[active].sum())
        active &= ~(step.terminated | step.truncated)
    assert costs > 0


def test_nearer_to_the_end_of_the_track_return_and_cost_both_grow() -> None:
    safe, violating = (hold(make_vector(EnvironmentConfig(name="cartpole-edge"), 16), place) for place in (1.7, 2.2))
    middle = hold(make_vector(EnvironmentConfig(name="cartpole-edge"), 16), 0.0)
    assert middle[0] < safe[0] < violating[0]
    assert middle[1] == safe[1] == 0.0
    assert violating[1] > 0.5


def test_beyond_the_end_of_the_track_no_step_pays_more_than_at_it() -> None:
    environment = CartPoleEdgeVector(EnvironmentConfig(), 1)
    environment.reset(np.arange(1), [0])
    environment._cartpole._dynamics.state[:, 0] = (2.39, 3.0, 0.0, 0.0)
    step = environment.step(np.ones(1, np.int32), np.ones(1, np.bool_))
    assert step.terminated[0] and step.observation[0, 0] > 2.4
    assert (step.reward[0], step.cost[0]) == (2.0, 1.0)


@pytest.mark.parametrize("seed", [0, 2**40 + 3])
def test_the_closed_columns_change_nothing_but_the_cost(seed: int) -> None:
    plain, costly = MinAtar("space_invaders", EnvironmentConfig()), SpaceInvadersClosedColumns(EnvironmentConfig())
    assert np.array_equal(plain.reset(seed), costly.reset(seed))
    generator = np.random.default_rng(seed)
    seen = set()
    for index in range(300):
        # Drifts right and left by turns, so that the cannon comes everywhere.
        action = int(generator.choice([RIGHT if index // 20 % 2 == 0 else LEFT, FIRE]))
        expected, transition = plain.step(action), costly.step(action)
        assert np.array_equal(transition.observation, expected.observation)
        assert transition[1] == expected[1] and transition[3:] == expected[3:]
        column = int(np.flatnonzero(transition.observation[9, :, 0])[0])
        assert transition.cost == float(column >= 10 - CLOSED_COLUMNS)
        seen.add(transition.cost)
        if transition.terminated:
            plain.reset(seed + 1)
            costly.reset(seed + 1)
    assert seen == {0.0, 1.0}


@pytest.mark.parametrize(
    ("name", "plain"), [("cartpole-edge", "cartpole"), ("minatar-cost:space_invaders", "minatar:space_invaders")]
)
def test_the_cost_is_part_of_what_the_code_digest_names(name: str, plain: str) -> None:
    digests = {
        make_vector(EnvironmentConfig(name=each, episode_steps_max=steps), 1).spec.code_digest
        for each in (name, plain)
        for steps in (0, 9)
    }
    assert len(digests) == 4


def test_the_margin_is_part_of_it() -> None:
    specs = [CartPoleEdgeVector(EnvironmentConfig(cart_margin=margin), 1).spec for margin in (1.0, 2.0, 2.0)]
    assert specs[0].code_digest != specs[1].code_digest == specs[2].code_digest
