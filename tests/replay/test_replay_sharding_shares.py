"""Turns in proportion: exact over time, whatever the shares, and whoever is missing meanwhile."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay.shard_shares import Shares


def turns(shares: Shares, weights: dict[int, float], count: int) -> list[int]:
    taken = []
    for _ in range(count):
        shard = shares.turn(weights)
        shares.take(shard, weights)
        taken.append(shard)
    return taken


@given(st.lists(st.floats(1.0, 1e6), min_size=2, max_size=6), st.integers(1, 300))
def test_no_shard_is_ever_a_turn_for_each_shard_away_from_its_due(weights: list[float], count: int) -> None:
    by_shard = dict(enumerate(weights))
    counts = Counter(turns(Shares(len(weights)), by_shard, count))
    for shard, weight in by_shard.items():
        assert abs(counts[shard] - count * weight / sum(weights)) < len(weights)


def test_equal_shares_take_turns() -> None:
    assert turns(Shares(2), {0: 5.0, 1: 5.0}, 6) == [0, 1, 0, 1, 0, 1]


def test_a_small_share_comes_to_its_turn() -> None:
    taken = turns(Shares(2), {0: 999.0, 1: 1.0}, 2000)
    assert Counter(taken) == {0: 1998, 1: 2}


def test_shares_that_change_are_followed() -> None:
    generator = np.random.default_rng(0)
    shares, due, counts = Shares(3), np.zeros(3), Counter[int]()
    for _ in range(3000):
        weights = dict(enumerate(generator.uniform(1.0, 100.0, 3).tolist()))
        shard = shares.turn(weights)
        shares.take(shard, weights)
        counts[shard] += 1
        due += np.array(list(weights.values())) / sum(weights.values())
    assert all(abs(counts[shard] - due[shard]) < 3 for shard in range(3))


def test_who_is_missing_makes_up_for_nothing_when_it_is_back() -> None:
    shares = Shares(2)
    turns(shares, {0: 1.0, 1: 1.0}, 10)
    assert turns(shares, {0: 1.0}, 100) == [0] * 100
    assert Counter(turns(shares, {0: 1.0, 1: 1.0}, 10)) == {0: 5, 1: 5}


def test_a_share_is_the_probability_of_a_turn() -> None:
    shares = Shares(2)
    assert shares.take(1, {0: 30.0, 1: 90.0}) == 0.75
