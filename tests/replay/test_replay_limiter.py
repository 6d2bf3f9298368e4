"""The rate limiter against Reverb's rules written out one record at a time, and against every reachable state."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.limiter import LimiterError, RateLimiter, min_size_limiter, queue_limiter, ratio_limiter


def _one_insert_allowed(limiter: RateLimiter, inserts: int, samples: int, size: int) -> bool:
    """Reverb's CanInsert for one item."""
    if size + 1 <= limiter.min_size_to_sample:
        return True
    return (inserts + 1) * limiter.samples_per_insert - samples <= limiter.max_diff


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    spi=st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]),
    min_size=st.integers(1, 6),
    buffer=st.integers(5, 20),
    inserts=st.integers(0, 40),
    samples=st.integers(0, 60),
    evicted=st.integers(0, 10),
    wanted=st.integers(0, 30),
)
def test_insertable_is_one_by_one(
    spi: float, min_size: int, buffer: int, inserts: int, samples: int, evicted: int, wanted: int
) -> None:
    limiter = ratio_limiter(spi, min_size, buffer)
    size = max(0, inserts - evicted)
    expected = 0
    while expected < wanted and _one_insert_allowed(limiter, inserts + expected, samples, size + expected):
        expected += 1
    assert limiter.insertable(wanted, inserts=inserts, samples=samples, size=size) == expected


def test_sampling_waits_for_min_size_and_min_diff() -> None:
    limiter = ratio_limiter(2.0, 3, 4.0)  # diff within [2, 10]
    assert not limiter.can_sample(1, inserts=2, samples=0, size=2)
    assert limiter.can_sample(4, inserts=3, samples=0, size=3)
    assert not limiter.can_sample(5, inserts=3, samples=0, size=3)


def test_a_queue_hands_each_record_out_once() -> None:
    limiter = queue_limiter(4)
    assert limiter.insertable(10, inserts=0, samples=0, size=0) == 4
    assert limiter.insertable(10, inserts=4, samples=0, size=4) == 0
    assert limiter.insertable(10, inserts=4, samples=3, size=1) == 3
    assert limiter.can_sample(4, inserts=4, samples=0, size=4)
    assert not limiter.can_sample(2, inserts=4, samples=3, size=1)
    assert limiter.sample_batch_max == 4


def test_min_size_never_holds_an_insert() -> None:
    limiter = min_size_limiter(3)
    assert limiter.insertable(10**9, inserts=0, samples=0, size=0) == 10**9
    assert not limiter.can_sample(1, inserts=2, samples=0, size=2)
    assert limiter.can_sample(10**9, inserts=3, samples=0, size=3)
    assert limiter.sample_batch_max == math.inf


def _deadlocks(limiter: RateLimiter, batch: int) -> bool:
    """Whether a state is reachable in which neither one insert nor a batch can go on."""
    reached, border = set[tuple[int, int]](), [(0, 0)]
    while border:
        inserts, samples = state = border.pop()
        if state in reached or inserts > 40:
            continue
        reached.add(state)
        insert = limiter.insertable(1, inserts=inserts, samples=samples, size=inserts) == 1
        sample = limiter.can_sample(batch, inserts=inserts, samples=samples, size=inserts)
        if not insert and not sample:
            return True
        border += [(inserts + 1, samples)] * insert + [(inserts, samples + batch)] * sample
    return False


def test_accepted_settings_never_deadlock() -> None:
    accepted = 0
    grid = itertools.product(
        [0.3, 0.5, 1.0, 1.5, 2.0, 3.0], [1, 2, 4], [-2.0, 0.0, 0.5, 3.0], [0.5, 1.0, 2.0, 2.5, 4.0, 6.0]
    )
    for spi, min_size, min_diff, width in grid:
        try:
            limiter = RateLimiter(spi, min_size, min_diff, min_diff + width)
        except LimiterError:
            continue
        accepted += 1
        for batch in {1, int(limiter.sample_batch_max)}:
            assert not _deadlocks(limiter, batch), (limiter, batch)
    assert accepted > 100


def test_refused_settings_do_deadlock() -> None:
    """The refusal is not over-cautious where it matters: these would hang, seen by turning the check off."""
    for spi, width in [(1.5, 1.5), (2.0, 1.0), (3.0, 2.0)]:
        with pytest.raises(LimiterError, match="waiting for each other"):
            RateLimiter(spi, 1, 0.0, width)
        limiter = object.__new__(RateLimiter)
        for name, value in (
            ("samples_per_insert", spi),
            ("min_size_to_sample", 1),
            ("min_diff", 0.0),
            ("max_diff", width),
        ):
            object.__setattr__(limiter, name, value)
        assert _deadlocks(limiter, 1)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    spi=st.sampled_from([0.3, 0.5, 1.0, 3.0]), min_size=st.integers(1, 50), steps=st.lists(st.booleans(), max_size=300)
)
def test_a_restart_under_the_same_limiter_changes_no_count(spi: float, min_size: int, steps: list[bool]) -> None:
    limiter, inserts, samples = ratio_limiter(spi, min_size, 5.0), 0, 0
    for insert in steps:
        if insert:
            inserts += limiter.insertable(1, inserts=inserts, samples=samples, size=inserts)
        else:
            samples += limiter.can_sample(1, inserts=inserts, samples=samples, size=inserts)
        assert limiter.samples_to_start_from(inserts=inserts, samples=samples) == samples


@pytest.mark.parametrize(("inserts", "samples"), [(1_000_000, 0), (1_000, 1_000_000), (0, 50), (5, 500)])
def test_under_another_limiter_both_sides_can_go_on(inserts: int, samples: int) -> None:
    limiter = ratio_limiter(2.0, 10, 8.0)
    samples = limiter.samples_to_start_from(inserts=inserts, samples=samples)
    reached = max(inserts, 10)
    assert limiter.insertable(100, inserts=reached, samples=samples, size=reached) == 4
    assert limiter.can_sample(8, inserts=reached, samples=samples, size=reached)
    assert min_size_limiter(3).samples_to_start_from(inserts=inserts, samples=7) == 7


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    spi=st.sampled_from([0.3, 1.0, 4.0]),
    min_size=st.integers(1, 50),
    buffer=st.integers(10, 100),
    inserts=st.integers(0, 10_000),
    samples=st.integers(0, 100_000),
)
def test_under_any_other_limiter_counts_begin_within_its_bounds(
    spi: float, min_size: int, buffer: int, inserts: int, samples: int
) -> None:
    """So neither side is held for longer than the limiter lets the other run ahead; 1 either way for rounding."""
    limiter = ratio_limiter(spi, min_size, buffer)
    diff = max(inserts, min_size) * spi - limiter.samples_to_start_from(inserts=inserts, samples=samples)
    assert limiter.min_diff - 1 <= diff <= limiter.max_diff + 1


@pytest.mark.parametrize(("spi", "min_size"), [(0.0, 1), (-1.0, 1), (math.inf, 1), (math.nan, 1), (1.0, 0)])
def test_senseless_settings_are_refused(spi: float, min_size: int) -> None:
    with pytest.raises(LimiterError, match="must be above 0"):
        RateLimiter(spi, min_size, -100.0, 100.0)
