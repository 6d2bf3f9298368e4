"""The unrolls that every system under measurement stores: made once, from a seed, and read from files by all of them.

T = 20 steps; every column has T rows. The observation is what the sizes differ in:

    cartpole     f4 [4]            a random walk
    sprites      u1 [84, 84, 4]    a frame stack as Atari's: a textured background that stands still, six sprites that
                                   move, a score that changes; the newest frame of each stack is new
    noise        u1 [84, 84, 4]    every pixel is new in every step: nothing that any compression could use
    tiny         f4 [4], T = 1     for millions of records

No two unrolls of a file are alike, and a writer goes round the whole file before it repeats itself. Making them is no
part of what is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]

SIZES: Mapping[str, int] = {"cartpole": 1024, "sprites": 128, "noise": 128, "tiny": 8192}
"""Unrolls in the file of each size."""

_EDGE = 84
_STACK = 4
_BLOCK = 7
_SPRITE_EDGES = (4, 6, 8, 8, 10, 12)


def steps_of(size: str) -> int:
    """T of the unrolls of a size."""
    return 1 if size == "tiny" else 20


def make(size: str, seed: int) -> Columns:
    """Columns [N, T, ...] of a size's N unrolls."""
    generator = np.random.default_rng(seed)
    unrolls, steps = SIZES[size], steps_of(size)
    if size == "sprites":
        observation = _sprites(unrolls, steps, generator)
    elif size == "noise":
        observation = generator.integers(0, 256, (unrolls, steps, _EDGE, _EDGE, _STACK), np.uint8)
    else:
        observation = np.cumsum(generator.standard_normal((unrolls, steps, 4), np.float32), axis=1, dtype=np.float32)
    rows = (unrolls, steps)
    return {
        "observation": observation,
        "action": generator.integers(0, 2, rows, np.int32),
        "reward": generator.standard_normal(rows, np.float32),
        "discount": np.full(rows, 0.99, np.float32),
        "log_prob": -generator.random(rows, np.float32),
        "logits": generator.standard_normal((*rows, 2), np.float32),
    }


def save(columns: Columns, directory: Path) -> None:
    """Writes one file for each column."""
    directory.mkdir(parents=True)
    for name, column in columns.items():
        np.save(directory / f"{name}.npy", column, allow_pickle=False)


def load(directory: Path) -> Columns:
    """What `save` wrote, in memory."""
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(directory.glob("*.npy"))}


def _sprites(unrolls: int, steps: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    coarse = generator.integers(0, 160, (_EDGE // _BLOCK, _EDGE // _BLOCK), np.uint8)
    background = np.kron(coarse, np.ones((_BLOCK, _BLOCK), np.uint8)) + generator.integers(
        0, 12, (_EDGE, _EDGE), np.uint8
    )
    sprites = [generator.integers(60, 255, (edge, edge), np.uint8) for edge in _SPRITE_EDGES]
    observation = np.empty((unrolls, steps, _EDGE, _EDGE, _STACK), np.uint8)
    for unroll in range(unrolls):
        place = generator.uniform(0, _EDGE, (len(sprites), 2))
        velocity = generator.uniform(-3, 3, (len(sprites), 2))
        frames = np.repeat(background[None], steps + _STACK - 1, axis=0)
        for row, frame in enumerate(frames):
            frame[:8, 50:74] = 200 * generator.integers(0, 2, (8, 24), np.uint8)
            for sprite, at in zip(sprites, place + velocity * row, strict=True):
                # Off one edge and back in at the other.
                top, left = (int(value) % (_EDGE - len(sprite)) for value in at)
                frame[top : top + len(sprite), left : left + len(sprite)] = sprite
        for row in range(steps):
            observation[unroll, row] = np.moveaxis(frames[row : row + _STACK], 0, -1)
    return observation
