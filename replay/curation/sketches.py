"""Fixed-size memories of a stream: which key came first where, how often a code came, and codes for near vectors.

Each takes the same memory whatever passes through it, and each is seeded. They know nothing of records.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEY_SLOTS = 1 << 20
_COUNT_SLOTS = 1 << 20

DIMENSIONS_MAX = 1 << 16
"""Of vectors with more dimensions SimHash reads an evenly spaced choice of so many."""


def _digest(seed: int, *parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=8, key=seed.to_bytes(8, "little"))
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


class FirstSeen:
    """The position at which each of the newest keys was seen first: 16 MB.

    Of two keys that fall into one slot the newer one is remembered, so an old key may be forgotten. That two keys are
    taken for each other takes 64 equal bits of a keyed hash.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._hashes = np.zeros(_KEY_SLOTS, np.uint64)
        self._positions = np.full(_KEY_SLOTS, -1, np.int64)

    def first(self, key: bytes, position: int) -> int:
        """The position at which `key` was seen first; `position` where it is new, or known from a later one only."""
        hashed = _digest(self._seed, key)
        slot = hashed % _KEY_SLOTS
        first = int(self._positions[slot])
        if self._hashes[slot] == hashed and 0 <= first <= position:
            return first
        self._hashes[slot], self._positions[slot] = hashed, position
        return position


class VisitCounts:
    """How often codes came: one row of counters, 4 MB. Codes that share a counter are counted together."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts = np.zeros(_COUNT_SLOTS, np.uint32)

    def before(self, codes: NDArray[np.uint64], kind: bytes) -> NDArray[np.int64]:
        """How often each of `codes` [n] came in earlier calls with this `kind` (int64 [n]); then counts them."""
        slots = _mixed(codes ^ np.uint64(_digest(self._seed, kind))) % np.uint64(_COUNT_SLOTS)
        counts: NDArray[np.int64] = self._counts[slots].astype(np.int64)
        np.add.at(self._counts, slots, 1)
        return counts


class SimHash:
    """Codes of vectors: on which side of each of `bits` random planes through the origin a vector lies.

    Charikar, "Similarity estimation techniques from rounding algorithms" (STOC 2002), as used for counting states by
    Tang et al. (arXiv 1611.04717, section 2.2): code(s) = sign(A s), A [bits, D] standard normal.
    """

    def __init__(self, dimensions: int, bits: int, seed: int) -> None:
        if not 1 <= bits <= 64:
            raise ValueError(f"bits = {bits} must be 1 to 64")
        self._stride = max(1, -(-dimensions // DIMENSIONS_MAX))
        read = len(range(0, dimensions, self._stride))
        generator = np.random.Generator(np.random.PCG64([seed, dimensions]))
        self._planes = generator.standard_normal((read, bits), np.float32)
        self._weights = np.left_shift(np.uint64(1), np.arange(bits, dtype=np.uint64))

    def codes(self, values: NDArray[Any]) -> NDArray[np.uint64]:
        """One code (uint64 [n]) for each row of `values` [n, D]; what is not finite gives some code, too."""
        with np.errstate(all="ignore"):
            above = values[:, :: self._stride].astype(np.float32) @ self._planes > 0
        codes: NDArray[np.uint64] = (above * self._weights).sum(axis=1, dtype=np.uint64)
        return codes


def _mixed(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: every bit of the input reaches every bit of the output."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))
