"""Writers to several services: each actor to its own, through its service's absence, and to another under a new run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.common.v1 import common_pb2
from replay.client import ReplayUnavailable, ReplayWriter
from replay.client_sharded import open_client, open_writer
from replay.config import ReplayConfig
from replay.schema import PayloadLayout
from replay.sharding import shard_of, shard_ranking
from replay.testing import make_columns, make_header, make_origin
from tests.replay.sharded_services import TIMEOUT_S, ShardedServices

pytestmark = pytest.mark.usefixtures("no_thread_left_behind")

CONFIG = ReplayConfig(fresh_unconsumed_max=10_000)


@pytest.fixture
def two(socket_directory: Path, tmp_path: Path) -> Iterator[ShardedServices]:
    """Two services, neither running yet."""
    with ShardedServices(socket_directory, tmp_path, [CONFIG, CONFIG]) as services:
        yield services


def actor_of(shard: int) -> str:
    """An actor whose own shard of two this is."""
    return next(actor for number in range(100) if shard_ranking(actor := f"a-{number}", 2)[0] == shard)


def open_for(services: ShardedServices, origin: common_pb2.Origin, *, window_records: int = 1000) -> ReplayWriter:
    return open_writer(
        services.addresses,
        origin,
        window_records=window_records,
        window_bytes=2**20,
        reconnect_ms_max=100,
        preferred_s=2.0,
    )


def append(writer: ReplayWriter, count: int, timeout_s: float = TIMEOUT_S) -> None:
    payload = PayloadLayout(make_origin().schema).encode(make_columns())
    writer.append([make_header() for _ in range(count)], [payload] * count, timeout_s)


def written(services: ShardedServices) -> Counter[tuple[int, str, int]]:
    """How often (shard, run, sequence) is in the log."""
    with open_client(services.addresses) as client:
        return Counter(
            (shard_of(record.position), record.origin.run_id, record.header.sequence) for record in client.records()
        )


def test_each_actor_writes_to_its_own(two: ShardedServices) -> None:
    two.start()
    for shard in (0, 1):
        with open_for(two, make_origin(actor_of(shard), f"run-{shard}")) as writer:
            append(writer, 5)
            assert writer.flush(TIMEOUT_S)
    assert written(two) == Counter((shard, f"run-{shard}", sequence) for shard in (0, 1) for sequence in range(5))


def test_a_writer_waits_for_its_service_and_the_others_go_on(two: ShardedServices) -> None:
    two.start()
    runs = [make_origin(actor_of(shard), f"run-{shard}") for shard in (0, 1)]
    with open_for(two, runs[0], window_records=8) as first, open_for(two, runs[1], window_records=8) as second:
        append(first, 4)
        append(second, 4)
        assert first.flush(TIMEOUT_S)
        assert second.flush(TIMEOUT_S)
        two.stop(1)
        append(second, 8)
        with pytest.raises(ReplayUnavailable, match="window full"):
            append(second, 1, timeout_s=0.1)
        for _ in range(20):
            append(first, 4)
        assert first.flush(TIMEOUT_S)
        two.start(1)
        append(second, 4)
        assert second.flush(TIMEOUT_S)
        assert second.statistics.reconnects > 0
    expected = [(0, "run-0", sequence) for sequence in range(84)] + [(1, "run-1", sequence) for sequence in range(16)]
    assert written(two) == Counter(expected)


def test_a_new_run_of_an_actor_whose_service_is_down_goes_to_another(two: ShardedServices) -> None:
    two.start(0)
    with open_for(two, make_origin(actor_of(1), "run-1")) as writer:
        append(writer, 3)
        assert writer.flush(TIMEOUT_S)
        two.start(1)
        append(writer, 3)
        assert writer.flush(TIMEOUT_S), "the run stays where it is"
    with open_for(two, make_origin(actor_of(1), "run-2")) as writer:
        append(writer, 3)
        assert writer.flush(TIMEOUT_S)
    moved = [(0, "run-1", sequence) for sequence in range(6)] + [(1, "run-2", sequence) for sequence in range(3)]
    assert written(two) == Counter(moved)


def test_where_none_answers_it_waits_for_its_own(two: ShardedServices) -> None:
    start_s = time.monotonic()
    with open_for(two, make_origin(actor_of(1), "run-1")) as writer:
        assert time.monotonic() - start_s < TIMEOUT_S
        append(writer, 3)
        two.start(1)
        assert writer.flush(TIMEOUT_S)
        two.start(0)
    assert written(two) == Counter((1, "run-1", sequence) for sequence in range(3))


def test_one_address_is_asked_nothing(socket_directory: Path) -> None:
    start_s = time.monotonic()
    with open_writer(f"unix:{socket_directory}/s", make_origin(), window_records=1, window_bytes=2**20):
        assert time.monotonic() - start_s < 1.0
