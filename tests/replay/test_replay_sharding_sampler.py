"""Sampling from two real services: in proportion, each fresh record once, and on while one of them is down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from replay import shard_lane
from replay.client import ReplayRefused, ReplaySampler, ReplayUnavailable, SampledBatch, SampleTimeout
from replay.client_sharded import open_sampler
from replay.config import ReplayConfig
from replay.schema import SchemaError
from replay.sharded_sampler import ShardedSampler
from replay.sharding import local_position, shard_of
from replay.testing import make_columns
from tests.replay.sharded_services import TIMEOUT_S, ShardedServices, append

pytestmark = pytest.mark.usefixtures("no_thread_left_behind")

CONFIG = ReplayConfig(fresh_unconsumed_max=1000, tables=("prioritised per exponent=1.0 signal=error",))


@pytest.fixture
def two(socket_directory: Path, tmp_path: Path) -> Iterator[ShardedServices]:
    """Two services, both running."""
    with ShardedServices(socket_directory, tmp_path, [CONFIG, CONFIG]) as services:
        services.start()
        yield services


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody misses a turn because the machine is busy."""
    monkeypatch.setattr(shard_lane, "PATIENCE_S_MAX", TIMEOUT_S)


def shards_of(batch: SampledBatch) -> list[int]:
    return [shard_of(position) for position in batch.positions.tolist()]


def check_columns(batch: SampledBatch) -> None:
    """Each record's arrays are its own, whichever shard it is from."""
    for index, position in enumerate(batch.positions.tolist()):
        seed = local_position(position)
        assert batch.headers[index].sequence == seed
        for name, column in make_columns(seed=seed).items():
            np.testing.assert_array_equal(batch.columns[name][:, index], column)


def test_one_address_is_one_sampler(socket_directory: Path) -> None:
    with open_sampler(f"unix:{socket_directory}/s", "fresh", 1) as sampler:
        assert isinstance(sampler, ReplaySampler)


@pytest.mark.parametrize("same_host", [True, False])
def test_fresh_gives_every_record_of_both_once(two: ShardedServices, same_host: bool) -> None:
    append(two.each[0], 40)
    append(two.each[1], 120)
    seen: list[int] = []
    with open_sampler(two.addresses, "fresh", 16, same_host=same_host) as sampler:
        for _ in range(10):
            batch = sampler.next(TIMEOUT_S)
            check_columns(batch)
            assert batch.probabilities.tolist() == [1.0] * 16
            seen += batch.positions.tolist()
        with pytest.raises(SampleTimeout, match=r"no batch of 'fresh' from 2 shards .* 0 of 16 records are here"):
            sampler.next(0.05)
        assert sampler.waiting_s > 0.04
    assert sorted(seen) == sorted([*range(40), *(1 << 48 | position for position in range(120))])
    for shard in (0, 1):
        of_shard = [position for position in seen if shard_of(position) == shard]
        assert of_shard == sorted(of_shard), "each shard's records come in its order"


@pytest.mark.usefixtures("patient")
def test_uniform_draws_are_in_proportion_and_uniform_over_all(two: ShardedServices) -> None:
    append(two.each[0], 30)
    append(two.each[1], 90)
    drawn = Counter[int]()
    with open_sampler(two.addresses, "uniform", 32) as sampler:
        for index in range(200):
            batch = sampler.next(TIMEOUT_S)
            drawn.update(batch.positions.tolist())
            if index > 5:  # by then each has delivered, so that the shares are known
                assert Counter(shards_of(batch)) == {0: 8, 1: 24}
                assert batch.available == 120
                np.testing.assert_allclose(batch.probabilities, 1 / 120)
                np.testing.assert_allclose(batch.importance_weights(1.0), 1.0)
    by_shard = Counter[int]()
    for position, count in drawn.items():
        by_shard[shard_of(position)] += count
    # Exact over time but for the first batches and less than two parts of eight records.
    assert abs(by_shard[1] - 0.75 * 6400) < 32 * 3
    assert len(drawn) == 120
    counts = np.array(list(drawn.values()))
    statistic = float(np.sum((counts - 6400 / 120) ** 2) / (6400 / 120))
    assert statistic < 187, "chi-square with 119 degrees of freedom exceeds this once in 25,000 times"


@pytest.mark.usefixtures("patient")
def test_probabilities_of_prioritised_draws_are_those_of_the_draw(two: ShardedServices) -> None:
    append(two.each[0], 40, signal=1.0)
    append(two.each[1], 20, signal=5.0)
    batches = []
    with open_sampler(two.addresses, "per", 32) as sampler:
        for _ in range(10):
            sampler.next(TIMEOUT_S)
        batches = [sampler.next(TIMEOUT_S) for _ in range(300)]
    positions = np.concatenate([batch.positions for batch in batches])
    probabilities = np.concatenate([batch.probabilities for batch in batches])
    first = {(shard, index): share * (index + 1) / (size * (size + 1) / 2)
             for shard, size, share in ((0, 40, 2 / 3), (1, 20, 1 / 3)) for index in range(size)}  # fmt: skip
    expected = [first[shard_of(position), local_position(position)] for position in positions.tolist()]
    np.testing.assert_allclose(probabilities, expected)
    # What was said of a draw is what was done: the mean of 1 / P over draws is the number of records, 60.
    assert abs(float(np.mean(1 / probabilities)) - 60) < 5
    seen = Counter(positions.tolist())
    assert abs(seen[39] / len(positions) - first[0, 39]) < 0.01


def test_it_goes_on_while_one_is_down_and_has_it_back_afterwards(two: ShardedServices) -> None:
    append(two.each[0], 50)
    append(two.each[1], 50)
    with open_sampler(two.addresses, "uniform", 8, prefetch=1) as sampler:
        while set(shards_of(sampler.next(TIMEOUT_S))) != {0, 1}:
            pass
        two.stop(1)
        start_s = time.monotonic()
        batches = [sampler.next(TIMEOUT_S) for _ in range(100)]
        assert set(shards_of(batches[-1])) == {0}
        assert batches[-1].available == 50
        assert time.monotonic() - start_s < TIMEOUT_S / 2, "nobody waits for one that is down"
        two.start(1)
        deadline_s = time.monotonic() + TIMEOUT_S
        while 1 not in shards_of(sampler.next(TIMEOUT_S)):
            assert time.monotonic() < deadline_s


def test_one_that_is_down_from_the_beginning(socket_directory: Path, tmp_path: Path) -> None:
    with ShardedServices(socket_directory, tmp_path, [CONFIG, CONFIG]) as services:
        services.start(1)
        append(services.each[1], 10)
        with open_sampler(services.addresses, "fresh", 4) as sampler:
            assert sampler.next(TIMEOUT_S).positions.tolist() == [1 << 48 | position for position in range(4)]
            services.start(0)
            append(services.each[0], 10)
            seen = [position for _ in range(4) for position in sampler.next(TIMEOUT_S).positions.tolist()]
    assert sorted(seen) == [*range(10), *(1 << 48 | position for position in range(4, 10))]


def test_where_all_are_down_it_says_why(socket_directory: Path) -> None:
    with open_sampler(f"unix:{socket_directory}/a,unix:{socket_directory}/b", "fresh", 4) as sampler:
        deadline_s = time.monotonic() + TIMEOUT_S
        why = ""
        while why.count("UNAVAILABLE") < 2 and time.monotonic() < deadline_s:
            with pytest.raises(SampleTimeout) as raised:
                sampler.next(0.2)
            why = str(raised.value)
    assert f"{socket_directory}/a" in why
    assert f"{socket_directory}/b" in why
    assert raised.value.why.count("(UNAVAILABLE)") == 2
    assert "no batch of" not in raised.value.why


def test_one_that_lacks_the_table_is_left_out(socket_directory: Path, tmp_path: Path) -> None:
    with ShardedServices(socket_directory, tmp_path, [CONFIG, ReplayConfig()]) as services:
        services.start()
        for address in services.each:
            append(address, 20)
        with open_sampler(services.addresses, "per", 4) as sampler:
            assert {shard for _ in range(20) for shard in shards_of(sampler.next(TIMEOUT_S))} == {0}
            services.stop(1)
            services.configure(1, tables=CONFIG.tables)
            services.start(1)
            deadline_s = time.monotonic() + TIMEOUT_S
            while 1 not in shards_of(sampler.next(TIMEOUT_S)):
                assert time.monotonic() < deadline_s


def test_what_every_shard_refuses_is_refused(two: ShardedServices) -> None:
    with (
        open_sampler(two.addresses, "good", 4) as sampler,
        pytest.raises(ReplayRefused, match=r"'good'.*fresh, per, uniform"),
    ):
        sampler.next(TIMEOUT_S)


def test_records_that_cannot_be_stacked_are_an_error_and_the_next_batch_is_none(two: ShardedServices) -> None:
    append(two.each[0], 2, steps=2)
    append(two.each[1], 2, steps=3)
    with open_sampler(two.addresses, "fresh", 4) as sampler:
        with pytest.raises(SchemaError, match="T = "):
            sampler.next(TIMEOUT_S)
        append(two.each[0], 4, steps=2, run_id="run-1")
        assert [header.steps for header in sampler.next(TIMEOUT_S).headers] == [2, 2, 2, 2]


def test_a_timeout_loses_nothing(two: ShardedServices) -> None:
    append(two.each[0], 6)
    with open_sampler(two.addresses, "fresh", 8) as sampler:
        deadline_s = time.monotonic() + TIMEOUT_S
        why = ""
        while "6 of 8 records are here" not in why and time.monotonic() < deadline_s:
            with pytest.raises(SampleTimeout) as raised:
                sampler.next(0.05)
            why = str(raised.value)
        append(two.each[1], 2)
        assert sorted(sampler.next(TIMEOUT_S).positions.tolist()) == [*range(6), 1 << 48, 1 << 48 | 1]


def test_an_empty_shard_holds_up_nobody(two: ShardedServices) -> None:
    append(two.each[0], 400)
    with open_sampler(two.addresses, "fresh", 8) as sampler:
        start_s = time.monotonic()
        for _ in range(50):
            sampler.next(TIMEOUT_S)
        assert time.monotonic() - start_s < TIMEOUT_S / 2


def test_it_is_closed_once_and_for_all(two: ShardedServices) -> None:
    sampler = open_sampler(two.addresses, "fresh", 4)
    assert isinstance(sampler, ShardedSampler)
    sampler.close()
    sampler.close()
    with pytest.raises(ReplayUnavailable, match="is closed"):
        sampler.next(1.0)


def test_nothing_asked_for_ahead_is_nothing_at_all(two: ShardedServices) -> None:
    with pytest.raises(ValueError, match="prefetch = 0 must be at least 1"):
        open_sampler(two.addresses, "fresh", 4, prefetch=0)
