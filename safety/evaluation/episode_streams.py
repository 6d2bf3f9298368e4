"""The random numbers of evaluated episodes: every episode has streams of its own, which follow from its seed.

So what an episode draws depends on no other episode, on no order, and on nothing that ran before it in the process.
Lanes draw many steps at once: a generator called for one number at a time would cost more than the environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

ACTIONS = "actions"
"""Purpose of the stream from which a policy's actions are drawn."""

_NUMBERS_PER_REFILL = 256

Draw = Callable[[np.random.Generator, NDArray[np.float32]], object]
"""Fills an array from a generator, number by number: the same numbers, however many at a time."""


def episode_generator(seed: int, purpose: str) -> np.random.Generator:
    """The generator of one stream of one episode.

    PCG64 seeded with SHA-256("temper.episode-stream.v1" LF purpose LF seed) as a big-endian integer.
    """
    code = hashlib.sha256(f"temper.episode-stream.v1\n{purpose}\n{seed}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(code, "big")))


def uniform(generator: np.random.Generator, out: NDArray[np.float32]) -> object:
    """Draws from [0, 1)."""
    return generator.random(out=out, dtype=np.float32)


def normal(generator: np.random.Generator, out: NDArray[np.float32]) -> object:
    """Draws from the standard normal distribution."""
    return generator.standard_normal(out=out, dtype=np.float32)


class LaneStreams:
    """What each of N lanes draws, a fixed number of numbers at each of its steps.

    Args:
      lanes: N.
      shape: of what one lane draws at one step.
      draw: from which distribution.
      purpose: name of the stream.
    """

    def __init__(self, lanes: int, shape: tuple[int, ...], draw: Draw, purpose: str) -> None:
        steps = max(1, _NUMBERS_PER_REFILL // max(1, int(np.prod(shape))))
        self._rows = np.zeros((lanes, steps, *shape), np.float32)
        self._flat = self._rows.reshape(lanes * steps, *shape)
        # Where in the flat array each lane's next step lies; at its end, the lane is filled before it draws.
        self._ends = np.arange(1, lanes + 1) * steps
        self._next = self._ends.copy()
        self._generators: list[np.random.Generator | None] = [None] * lanes
        self._draw, self._purpose = draw, purpose

    def start(self, lanes: NDArray[np.intp], seeds: Sequence[int]) -> None:
        """Begins the streams of other episodes in `lanes`."""
        for lane, seed in zip(lanes.tolist(), seeds, strict=True):
            self._generators[lane] = episode_generator(seed, self._purpose)
        self._next[lanes] = self._ends[lanes]

    def take(self, drawing: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The next numbers of every lane that is `drawing` [N], as [N, *shape]; of the others, anything."""
        empty = (self._next == self._ends) & drawing
        if empty.any():
            for lane in np.flatnonzero(empty).tolist():
                generator = self._generators[lane]
                if generator is not None:
                    self._draw(generator, self._rows[lane])
            self._next[empty] -= self._rows.shape[1]
        taken: NDArray[np.float32] = self._flat.take(self._next, axis=0, mode="clip")
        self._next += drawing
        return taken
