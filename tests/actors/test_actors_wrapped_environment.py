"""An environment in front of another is that one to whoever calls it; what is overridden is all that changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.config import EnvironmentConfig
from actors.environment import VectorEnvironment, VectorStep
from actors.environments.catalog import make_vector
from actors.testing import VectorEnvironmentContract
from actors.wrapped_environment import WrappedEnvironment

CARTPOLE = EnvironmentConfig("cartpole")


class TestWrapped(VectorEnvironmentContract):
    def make(self, lanes: int) -> VectorEnvironment:
        return WrappedEnvironment(WrappedEnvironment(make_vector(CARTPOLE, lanes)))


class Costly(WrappedEnvironment):
    def step(self, actions: Any, active: Any) -> VectorStep:
        return super().step(actions, active)._replace(cost=np.full(self.lanes, 7.0, np.float32))


class Closed(WrappedEnvironment):
    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


def play(environment: VectorEnvironment) -> list[Any]:
    seen: list[Any] = [environment.reset(np.arange(3), [1, 2, 3])]
    for index in range(20):
        seen += environment.step(np.full(3, index % 2, np.int32), np.array([True, index % 3 == 0, False]))
    return seen


def test_it_is_what_it_is_put_around() -> None:
    bare = make_vector(CARTPOLE, 3)
    wrapped = WrappedEnvironment(make_vector(CARTPOLE, 3))
    assert (wrapped.spec, wrapped.lanes) == (bare.spec, 3)
    for one, other in zip(play(bare), play(wrapped), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_what_is_overridden_changes() -> None:
    bare, costly = make_vector(CARTPOLE, 3), Costly(make_vector(CARTPOLE, 3))
    for position, (one, other) in enumerate(zip(play(bare), play(costly), strict=True)):
        # After the first observation come the columns of each step, of which cost is the third.
        if position and (position - 1) % len(VectorStep._fields) == VectorStep._fields.index("cost"):
            assert (other == 7.0).all()
        else:
            np.testing.assert_array_equal(one, other)


def test_closing_it_closes_what_is_behind_it() -> None:
    inner = Closed(make_vector(CARTPOLE, 1))
    WrappedEnvironment(inner).close()
    assert inner.closed == 1
