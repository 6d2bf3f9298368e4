"""A sum tree: weights in slots, changed and drawn in proportion in logarithmic time, many at once.

A complete binary tree in one array: node 1 is the root, the children of node i are 2i and 2i + 1, the last `capacity`
nodes are the slots. A parent is always computed anew from its children, never by adding differences: so what is at the
root is the sum of the weights, in one fixed order of addition, whatever went before, and no error piles up. (Schaul et
al. 2016, "Prioritized Experience Replay", arXiv:1511.05952, appendix B.2.1.)

Knows neither records nor priorities: tables/prioritised.py does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class SumTree:
    """Weights, all 0 at first. Takes 16 bytes a slot.

    Args:
      capacity: number of slots, a power of two.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"capacity = {capacity} must be a power of two: the slots are the last level of a tree")
        self.capacity = capacity
        self._depth = capacity.bit_length() - 1
        self._nodes = np.zeros(2 * capacity, np.float64)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._nodes[1])

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights [capacity] by slot; a view, not to be written to."""
        return self._nodes[self.capacity :]

    def set(self, slots: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Sets the weights [n] of different slots [n]; finite and not negative, as their sum must be too."""
        nodes = self._nodes
        if len(slots) == 1:
            self._set_one(int(slots[0]), float(weights[0]))
            return
        index = slots + self.capacity
        nodes[index] = weights
        if len(slots) * self._depth > self.capacity:
            self._sum_all()
            return
        for _ in range(self._depth):
            index >>= 1  # parents that occur twice are computed twice: cheaper than to sort them out
            nodes[index] = nodes[2 * index] + nodes[2 * index + 1]

    def fill(self, weights: NDArray[np.float64]) -> None:
        """Sets all weights [capacity]."""
        self._nodes[self.capacity :] = weights
        self._sum_all()

    def find(self, masses: NDArray[np.float64]) -> NDArray[np.int64]:
        """The slots [n] in which masses [n] in [0, total] fall, the weights being laid end to end by slot.

        A slot of weight 0 is never found, whatever rounding does; `total` must be above 0.
        """
        nodes = self._nodes
        masses = masses.copy()
        index = np.ones(len(masses), np.int64)
        for _ in range(self._depth):
            index *= 2
            left = nodes[index]
            right = (masses >= left) & (nodes[index + 1] > 0.0)
            masses -= np.where(right, left, 0.0)
            index += right
        return index - self.capacity

    def _set_one(self, slot: int, weight: float) -> None:
        nodes, index = self._nodes, slot + self.capacity
        nodes[index] = weight
        while index > 1:
            index >>= 1
            nodes[index] = nodes[2 * index] + nodes[2 * index + 1]

    def _sum_all(self) -> None:
        nodes, width = self._nodes, self.capacity
        while width > 1:
            level = nodes[width : 2 * width]
            nodes[width // 2 : width] = level[0::2] + level[1::2]
            width //= 2
