"""The two ways to draw from the log: `fresh`, a queue consumed once, and `uniform`, at random.

Both tables hold every record in the store; what differs is which may be drawn next.

fresh    First in, first out, each record at most once, ever. The position up to which the log is consumed is committed
         BEFORE a batch leaves the service, so no crash can deliver a record twice. The price: a batch that was
         committed as consumed and then lost on its way (the service or the learner was killed) is not delivered by
         `fresh` again; it stays in the store for `uniform`. A record evicted before it was consumed counts as gone:
         it is inserts - samples - available of the table's counters.
uniform  Every draw is independent and uniform over the records in the store: with replacement, within a batch too, so
         each has probability exactly 1 / records. Seeded; a restart begins the seeded sequence anew.

A table knows its counters and its limiter; it neither waits nor reads nor commits (see handlers.py).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from replay.limiter import RateLimiter
from replay.store import StoreCounters, TableState


class Pick(NamedTuple):
    """Positions chosen for one batch, the probability of each, and the table's state once they are drawn."""

    positions: Sequence[int]
    probability: float
    state: TableState


class Table(abc.ABC):
    """One table of a service. Used from one thread."""

    kind: str

    def __init__(self, name: str, limiter: RateLimiter, state: TableState) -> None:
        self.name = name
        self.limiter = limiter
        self.state = state
        """Draws included whose commit is still under way."""
        self._committed = state
        self._draws = 0
        self.insert_wait_s = 0.0
        self.sample_wait_s = 0.0
        self._reserved = 0

    @abc.abstractmethod
    def available(self, counters: StoreCounters) -> int:
        """Records that could be drawn now."""

    @abc.abstractmethod
    def pick(self, count: int, counters: StoreCounters) -> Pick:
        """Chooses `count` records, without changing the table; `can_sample` was true for them."""

    @abc.abstractmethod
    def _limiter_samples(self, counters: StoreCounters) -> int:
        """Records that are no longer owed to a sampler."""

    def insertable(self, wanted: int, counters: StoreCounters) -> int:
        """How many of `wanted` records may be appended now, those reserved before counted in."""
        return self.limiter.insertable(
            wanted,
            inserts=counters.next_position + self._reserved,
            samples=self._limiter_samples(counters),
            size=self.available(counters) + self._reserved,
        )

    def reserve(self, count: int) -> None:
        """Counts `count` records as inserted until they are `settled`: they are on the way into the store."""
        self._reserved += count

    def settle(self, count: int) -> None:
        """Ends a reservation: the records are in the store, were duplicates, or failed."""
        self._reserved -= count

    def begin_draw(self, state: TableState) -> None:
        """Moves on to a pick's state; it is being committed."""
        self.state = state
        self._draws += 1

    def end_draw(self, state: TableState, *, committed: bool) -> None:
        """A draw's commit ended. Once none is under way, draws whose commits failed are taken back.

        A failed one is not taken back if a later one was committed: records are skipped then, never drawn twice.
        """
        self._draws -= 1
        if committed:
            self._committed = state
        if not self._draws:
            self.state = self._committed

    def can_sample(self, count: int, counters: StoreCounters) -> bool:
        """Whether `count` records may be drawn now."""
        return self.limiter.can_sample(
            count,
            inserts=counters.next_position,
            samples=self._limiter_samples(counters),
            size=self.available(counters),
        )


class FreshTable(Table):
    """First in, first out, once."""

    kind = "fresh"

    def available(self, counters: StoreCounters) -> int:
        """Records neither consumed nor evicted."""
        return counters.next_position - self._next(counters)

    def pick(self, count: int, counters: StoreCounters) -> Pick:
        """The next `count` in log order."""
        start = self._next(counters)
        return Pick(range(start, start + count), 1.0, TableState(start + count, self.state.samples + count))

    def _limiter_samples(self, counters: StoreCounters) -> int:
        return self._next(counters)

    def _next(self, counters: StoreCounters) -> int:
        return max(self.state.cursor, counters.first_position)


class UniformTable(Table):
    """Independent uniform draws over the store.

    A draw's random numbers come from the seed and the number of samples before it, which is stored with every draw: so
    a restarted service goes on where it was, and does not repeat the draws that it began with.
    """

    kind = "uniform"

    def __init__(self, name: str, limiter: RateLimiter, state: TableState, *, inserts: int, seed: int) -> None:
        super().__init__(name, limiter, state)
        self._seed = seed
        start = limiter.samples_to_start_from(inserts=inserts, samples=state.samples)
        self._samples_of_other_limiters = state.samples - start

    def available(self, counters: StoreCounters) -> int:
        """Every record in the store."""
        return counters.records

    def pick(self, count: int, counters: StoreCounters) -> Pick:
        """`count` draws with replacement."""
        generator = np.random.default_rng((self._seed, self.state.samples))
        drawn = generator.integers(counters.first_position, counters.next_position, size=count)
        state = TableState(self.state.cursor, self.state.samples + count)
        return Pick(drawn.tolist(), 1.0 / counters.records, state)

    def _limiter_samples(self, counters: StoreCounters) -> int:
        del counters  # what was evicted after it was inserted was owed all the same
        return self.state.samples - self._samples_of_other_limiters
