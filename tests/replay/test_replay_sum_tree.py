"""The sum tree against a plain list of weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.sum_tree import SumTree


def _found_in(weights: list[float], mass: float) -> int:
    """The slot in which a mass falls, one after another."""
    for slot, weight in enumerate(weights):
        if mass < weight:
            return slot
        mass -= weight
    return max(slot for slot, weight in enumerate(weights) if weight)


_updates = st.lists(
    st.lists(
        st.tuples(st.integers(0, 31), st.integers(0, 1_000)), min_size=1, max_size=20, unique_by=lambda item: item[0]
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(updates=_updates, fractions=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_the_same_as_a_list(updates: list[list[tuple[int, int]]], fractions: list[float]) -> None:
    """Whole weights, so that sums are exact in any order."""
    tree, weights = SumTree(32), [0.0] * 32
    for update in updates:
        for slot, weight in update:
            weights[slot] = float(weight)
        tree.set(np.array([slot for slot, _ in update]), np.array([float(weight) for _, weight in update]))
        assert tree.weights.tolist() == weights
        assert tree.total == sum(weights)
    if tree.total:
        masses = np.floor(np.array(fractions) * tree.total)
        assert tree.find(masses).tolist() == [_found_in(weights, mass) for mass in masses.tolist()]


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 64))
def test_no_error_piles_up(seed: int, size: int) -> None:
    """After a thousand updates over thirty orders of magnitude the sum is that of a tree made anew, to the bit."""
    generator = np.random.default_rng(seed)
    tree = SumTree(64)
    for _ in range(1_000):
        slots = generator.choice(64, size, replace=False)
        tree.set(slots, 10.0 ** generator.uniform(-15, 15, size))
    anew = SumTree(64)
    anew.fill(tree.weights)
    assert tree.total == anew.total == pytest.approx(tree.weights.sum(), rel=1e-14)
    tree.set(np.arange(64), np.zeros(64))
    assert tree.total == 0.0


def test_a_slot_without_weight_is_never_found() -> None:
    """Also where rounding leaves a mass that is not below the sum of what is left."""
    tree = SumTree(8)
    tree.set(np.array([1, 4, 6]), np.array([0.1, 0.2, 0.3]))
    masses = np.concatenate([[0.0, tree.total, np.nextafter(tree.total, 1.0)], np.linspace(0.0, tree.total, 1_000)])
    assert set(tree.find(masses).tolist()) == {1, 4, 6}
    assert tree.find(np.array([0.0, 0.1, tree.total])).tolist() == [1, 4, 6]


def test_a_tree_of_one_slot() -> None:
    tree = SumTree(1)
    tree.set(np.array([0]), np.array([2.0]))
    assert (tree.total, tree.find(np.array([0.0, 2.0])).tolist()) == (2.0, [0, 0])


@pytest.mark.parametrize("capacity", [0, -4, 3, 12])
def test_the_capacity_is_a_power_of_two(capacity: int) -> None:
    with pytest.raises(ValueError, match="must be a power of two"):
        SumTree(capacity)
