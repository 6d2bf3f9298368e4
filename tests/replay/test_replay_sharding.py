"""How shards are addressed, chosen and numbered."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.transport import AddressError
from replay.sharding import (
    SHARD_BITS,
    check_addresses,
    choose_shard,
    global_position,
    local_position,
    shard_of,
    shard_ranking,
)

ACTORS = [f"actor-{number:04d}" for number in range(4000)]


def test_one_address_or_several() -> None:
    assert check_addresses("unix:/a") == ("unix:/a",)
    assert check_addresses("unix:/a, host:80,unix:/b") == ("unix:/a", "host:80", "unix:/b")


@pytest.mark.parametrize("text", ["", "unix:/a,", "unix:/a,,unix:/b", "unix:/a;unix:/b,nowhere", "host:80,host:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError):
        check_addresses(text)


def test_a_shard_stands_there_once() -> None:
    with pytest.raises(AddressError, match="unix:/a stands twice"):
        check_addresses("unix:/a,unix:/b,unix:/a")


def test_many_long_paths_are_each_as_long_as_one_may_be() -> None:
    addresses = [f"unix:/{'x' * 100}{shard}" for shard in range(64)]
    assert check_addresses(",".join(addresses)) == tuple(addresses)


@given(st.integers(0, 2 ** (64 - SHARD_BITS) - 1), st.integers(0, 2**SHARD_BITS - 1))
def test_a_position_names_its_shard(shard: int, position: int) -> None:
    combined = global_position(shard, position)
    assert (shard_of(combined), local_position(combined)) == (shard, position)
    assert combined < 2**64


def test_the_first_shard_keeps_its_positions() -> None:
    assert global_position(0, 4711) == 4711


@pytest.mark.parametrize("shards", [2, 3, 8])
def test_actors_spread_evenly(shards: int) -> None:
    counts = Counter(shard_ranking(actor, shards)[0] for actor in ACTORS)
    expected = len(ACTORS) / shards
    # Five standard deviations of a binomial count.
    assert all(abs(counts[shard] - expected) < 5 * expected**0.5 for shard in range(shards))


@pytest.mark.parametrize("shards", [2, 3, 4])
def test_the_first_actors_of_a_run_leave_no_shard_out(shards: int) -> None:
    assert {shard_ranking(actor, shards)[0] for actor in ACTORS[:shards]} == set(range(shards))


def test_those_of_a_lost_shard_spread_evenly_too() -> None:
    seconds = Counter(ranking[1] for actor in ACTORS if (ranking := shard_ranking(actor, 5))[0] == 2)
    assert set(seconds) == {0, 1, 3, 4}
    assert max(seconds.values()) < 1.5 * min(seconds.values())


def test_a_shard_that_is_added_takes_its_part_and_moves_nobody_else() -> None:
    before = [shard_ranking(actor, 4)[0] for actor in ACTORS]
    after = [shard_ranking(actor, 5)[0] for actor in ACTORS]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {4}
    assert 0.15 < len(moved) / len(ACTORS) < 0.25


def test_the_choice_is_the_same_for_ever() -> None:
    """Another one would take actors away from where their records are; and another process must choose alike."""
    assert [shard_ranking(actor, 4) for actor in ACTORS[:3]] == [[0, 2, 3, 1], [1, 2, 0, 3], [2, 3, 1, 0]]


def test_an_actor_goes_to_the_first_of_its_shards_that_answers() -> None:
    addresses = ["unix:/0", "unix:/1", "unix:/2"]
    ranking = shard_ranking("a", 3)
    asked: list[str] = []

    def reachable(address: str) -> bool:
        asked.append(address)
        return address == addresses[ranking[1]]

    assert choose_shard("a", addresses, reachable) == ranking[1]
    assert asked == [addresses[shard] for shard in ranking[:2]]


def test_where_none_answers_it_waits_at_its_own() -> None:
    assert choose_shard("a", ["unix:/0", "unix:/1"], lambda _: False) == shard_ranking("a", 2)[0]


def test_a_single_shard_is_not_asked() -> None:
    def reachable(_: str) -> bool:
        raise AssertionError

    assert choose_shard("a", ["unix:/0"], reachable) == 0
