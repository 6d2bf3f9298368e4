"""Reverb's rate limiter: keeps the ratio of samples to inserts of a table within bounds.

With `inserts` and `samples` counted over a table's whole life,

    diff = inserts * samples_per_insert - samples

is kept in [min_diff, max_diff]: an insert waits that would push it above, a sample that would push it below. Inserts
are free until the table holds min_size_to_sample records, and nothing is sampled before that. (Cassirer et al. 2021,
"Reverb: A Framework For Experience Replay", arXiv:2102.04736, section 3.4.)

A table outlives its limiter, which a restart or a live change may replace: see `samples_to_start_from` for what becomes
of its counts under another one.

Only the arithmetic: which counts go in is the business of tables/table.py, who waits that of ingest.py and draws.py.

Exceptions: LimiterError (a ValueError) for settings with which inserts and samples can wait for each other forever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


class LimiterError(ValueError):
    """With these settings both sides can end up waiting; the message names the value, the bound and what follows."""


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """The bounds of one table; min_diff and max_diff in samples. Raises LimiterError when made with a deadlock."""

    samples_per_insert: float
    min_size_to_sample: int
    min_diff: float
    max_diff: float

    def __post_init__(self) -> None:
        if not 0 < self.samples_per_insert < math.inf or self.min_size_to_sample < 1:
            raise LimiterError(
                f"samples_per_insert = {self.samples_per_insert} must be above 0 and finite, "
                f"min_size_to_sample = {self.min_size_to_sample} at least 1"
            )
        if not self.sample_batch_max >= 1:
            raise LimiterError(
                f"max_diff - min_diff = {self.max_diff - self.min_diff} is too small for samples_per_insert = "
                f"{self.samples_per_insert}: inserts and samples could end up waiting for each other; "
                f"make it at least {self.samples_per_insert + 1}"
            )

    @property
    def sample_batch_max(self) -> float:
        """Most records that one batch can hold without a chance that it waits forever, inserts being held too.

        Inserts are held from diff > max_diff - samples_per_insert on, so that much is always reached, and a batch of
        B can be drawn at diff - B >= min_diff. In whole numbers "greater than" means greater by 1.
        """
        room = self.max_diff - self.min_diff - self.samples_per_insert
        whole = all(float(value).is_integer() for value in (self.samples_per_insert, self.min_diff, self.max_diff))
        return room + 1 if whole else room

    def samples_to_start_from(self, *, inserts: int, samples: int) -> int:
        """The count of samples from which to go on with a table that has been used, under this limiter or another.

        That is `samples`, unless diff would then be out of bounds, as it is when the limiter has been changed: one side
        could be held until the other had caught up for the table's whole life. Then it is the middle of the bounds.
        """
        # Before min_size nothing is sampled, so diff counts from there.
        earned = max(inserts, self.min_size_to_sample) * self.samples_per_insert
        if self.min_diff - 1 <= earned - samples <= self.max_diff + 1:  # 1 for rounding
            return samples
        return round(earned - (self.min_diff + self.max_diff) / 2)

    def insertable(self, wanted: int, *, inserts: int, samples: int, size: int) -> int:
        """How many of `wanted` further records may be inserted now, 0 to `wanted`.

        Args:
          inserts, samples: so far.
          size: records in the table now.
        """
        if math.isinf(self.max_diff):
            return wanted
        free = self.min_size_to_sample - size
        by_ratio = math.floor((self.max_diff + samples) / self.samples_per_insert - inserts)
        return max(0, min(wanted, max(free, by_ratio)))

    def can_sample(self, count: int, *, inserts: int, samples: int, size: int) -> bool:
        """Whether `count` records may be drawn now, all of them."""
        if size < self.min_size_to_sample:
            return False
        return inserts * self.samples_per_insert - samples - count >= self.min_diff


def queue_limiter(unconsumed_max: int) -> RateLimiter:
    """Each record is sampled once, and at most `unconsumed_max` wait for it (Reverb's Queue)."""
    return RateLimiter(samples_per_insert=1.0, min_size_to_sample=1, min_diff=0.0, max_diff=float(unconsumed_max))


def min_size_limiter(min_size: int) -> RateLimiter:
    """Nothing is held back once the table holds `min_size` records (Reverb's MinSize)."""
    return RateLimiter(1.0, min_size, -math.inf, math.inf)


def ratio_limiter(samples_per_insert: float, min_size: int, error_buffer: float) -> RateLimiter:
    """Keeps to `samples_per_insert`, `error_buffer` samples early or late (Reverb's SampleToInsertRatio)."""
    start = samples_per_insert * min_size
    return RateLimiter(samples_per_insert, min_size, start - error_buffer, start + error_buffer)
