"""A consumer of `fresh` that says how far it has come: each record once, whoever died on the way."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from replay.client import ReplayClient, ReplaySampler
from replay.client_sharded import open_sampler
from replay.config import ReplayConfig
from replay.sharding import local_position, shard_of
from replay.testing import serving
from tests.replay.sharded_services import ShardedServices, append

TIMEOUT_S = 20.0
CONFIG = ReplayConfig(fresh_unconsumed_max=10_000)


def fresh_counts(address: str) -> tuple[int, int]:
    """Records drawn, and where the cursor is."""
    with ReplayClient(address) as client:
        table = next(each for each in client.stats().tables if each.name == "fresh")
    return table.samples, table.cursor


def wait_for_cursor(address: str, position: int) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while fresh_counts(address)[1] < position:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("same_host", [True, False])
def test_what_a_dead_consumer_had_drawn_is_given_again_and_counts_once(tmp_path: Path, same_host: bool) -> None:
    with serving(CONFIG, tmp_path) as address:
        append(address, 18)
        first = ReplaySampler(address, "fresh", 4, prefetch=3, same_host=same_host)
        assert first.next(TIMEOUT_S).positions.tolist() == [0, 1, 2, 3]
        # It has asked for more than it took, and dies with that.
        wait_for_cursor(address, 12)
        first.close()
        with ReplaySampler(address, "fresh", 4, prefetch=3, same_host=same_host, again_from=4) as second:
            for start in (4, 8, 12):
                assert second.next(TIMEOUT_S).positions.tolist() == list(range(start, start + 4))
            # Partly drawn before, partly new: what comes on is drawn as ever.
            append(address, 6, run_id="run-1")
            taken = second.next(TIMEOUT_S).positions.tolist() + second.next(TIMEOUT_S).positions.tolist()
            assert taken == list(range(16, 24))
        assert fresh_counts(address) == (24, 24)


def test_a_batch_may_begin_among_what_was_drawn_and_end_in_what_was_not(tmp_path: Path) -> None:
    with serving(CONFIG, tmp_path) as address:
        append(address, 6)
        with ReplaySampler(address, "fresh", 3, prefetch=1) as first:
            first.next(TIMEOUT_S)
        samples, cursor = fresh_counts(address)
        with ReplaySampler(address, "fresh", 5, prefetch=1, again_from=1) as second:
            assert second.next(TIMEOUT_S).positions.tolist() == [1, 2, 3, 4, 5]
        assert fresh_counts(address) == (6, 6)
        assert (samples, cursor) in {(3, 3), (6, 6)}  # of the batch that was asked for ahead


def test_what_is_under_quarantine_by_then_is_not_given_again(tmp_path: Path) -> None:
    with serving(CONFIG, tmp_path) as address:
        append(address, 8)
        with ReplaySampler(address, "fresh", 4, prefetch=1) as first:
            first.next(TIMEOUT_S)
        with ReplayClient(address) as client:
            client.quarantine("position==1 or position==2", "for the test")
        with ReplaySampler(address, "fresh", 3, prefetch=1, again_from=0) as second:
            assert second.next(TIMEOUT_S).positions.tolist() == [0, 3, 4]


def test_nothing_is_lost_when_the_service_dies_with_a_draw_on_its_way(tmp_path: Path, socket_directory: Path) -> None:
    with ShardedServices(socket_directory, tmp_path, [CONFIG]) as services:
        services.start(0)
        address = services.each[0]
        append(address, 40)
        taken: list[int] = []
        with ReplaySampler(address, "fresh", 2, prefetch=4, same_host=False, again_from=0) as sampler:
            for _ in range(2):
                taken += sampler.next(TIMEOUT_S).positions.tolist()
            services.stop(0)
            services.start(0)
            for _ in range(18):
                taken += sampler.next(TIMEOUT_S).positions.tolist()
        assert taken == list(range(40))


def test_several_shards_go_on_each_from_its_own_position(tmp_path: Path, socket_directory: Path) -> None:
    with ShardedServices(socket_directory, tmp_path, [CONFIG, CONFIG]) as services:
        services.start()
        for shard, address in enumerate(services.each):
            append(address, 20, run_id=f"run-{shard}")
        with open_sampler(services.addresses, "fresh", 4, prefetch=2) as first:
            seen = first.next(TIMEOUT_S).positions.tolist() + first.next(TIMEOUT_S).positions.tolist()
        came_to = dict.fromkeys(range(2), 0)
        for position in seen:
            came_to[shard_of(position)] = max(came_to[shard_of(position)], local_position(position) + 1)
        with open_sampler(services.addresses, "fresh", 4, prefetch=2, again_from=came_to) as second:
            for _ in range(8):
                seen += second.next(TIMEOUT_S).positions.tolist()
        assert len(set(seen)) == len(seen) == 40
