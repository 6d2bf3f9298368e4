"""Several services as one log: everything reaches the shard that it is about, and who does not answer is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from protos.replay.v1 import replay_pb2
from replay.client import ReplayClient, ReplayRefused, ReplayUnavailable
from replay.client_sharded import open_client
from replay.config import ReplayConfig
from replay.sharded_client import ShardedClient
from replay.sharding import global_position
from tests.replay.sharded_services import TIMEOUT_S, ShardedServices, append

CONFIG = ReplayConfig(
    fresh_unconsumed_max=1000, tables=("prioritised per exponent=1.0",), signal_totals=("error", "steps")
)
SECOND = global_position(1, 0)


@pytest.fixture
def two(socket_directory: Path, tmp_path: Path) -> Iterator[ShardedServices]:
    """Two services with three and two records."""
    with ShardedServices(socket_directory, tmp_path, [CONFIG, CONFIG]) as services:
        services.start()
        append(services.each[0], 3)
        append(services.each[1], 2)
        yield services


@pytest.fixture
def client(two: ShardedServices) -> Iterator[ShardedClient]:
    """A client of both."""
    with open_client(two.addresses, timeout_s=1.0) as client:
        assert isinstance(client, ShardedClient)
        yield client


def test_one_address_is_one_client(socket_directory: Path) -> None:
    with open_client(f"unix:{socket_directory}/s") as client:
        assert isinstance(client, ReplayClient)


def test_one_log(client: ShardedClient) -> None:
    everything = [0, 1, 2, SECOND, SECOND + 1]
    assert [record.position for record in client.records()] == everything
    assert [record.position for record in client.records(from_position=2, limit=2)] == [2, SECOND]
    found = client.get([1, SECOND + 1, SECOND + 7])
    assert [(record.position, record.header.sequence) for record in found] == [(1, 1), (SECOND + 1, 1)]


def test_marks_and_quarantines_reach_their_shard(client: ShardedClient) -> None:
    assert client.annotate({0: {"success": 1.0}, SECOND + 1: {"success": 1.0}, SECOND + 9: {"success": 1.0}}) == 2
    result = client.quarantine("signals.success == 1", "too good")
    assert list(result.positions) == [0, SECOND + 1]
    assert result.entry.records == 2
    assert [record.position for record in client.records(filter_text="quarantined")] == [0, SECOND + 1]
    assert client.stats().quarantined_records == 2


def test_filters_see_the_positions_that_are_shown(client: ShardedClient) -> None:
    assert [record.position for record in client.records(filter_text=f"position == {SECOND}")] == [SECOND]
    assert [record.position for record in client.records(filter_text="position < 2 or position > 2")] == [
        *(0, 1, SECOND, SECOND + 1)
    ]
    result = client.quarantine("position > 0 and position < 2", "too good")
    assert (list(result.positions), result.entry.filter) == ([1], "position > 0 and position < 2")
    assert [record.position for record in client.records(filter_text="quarantined")] == [1]
    assert client.stats().quarantined_records == 1
    assert [entry.filter for entry in client.quarantines()] == ["position > 0 and position < 2"]


def test_a_curated_table_holds_what_its_filter_lists(client: ShardedClient) -> None:
    text = f"position == 1 or position >= {SECOND + 1}"
    spec = replay_pb2.TableSpec(name="some", kind="curated", min_size=1, filter=text)
    assert client.set_table(spec).available == len(list(client.records(filter_text=text))) == 2


def test_counters_add_up(client: ShardedClient) -> None:
    stats = client.stats()
    assert (stats.records, stats.appended_steps) == (5, 10)
    assert dict(stats.signal_totals) == {"error": 1 + 2 + 3 + 1 + 2, "steps": 0.0}
    assert {table.name: table.available for table in stats.tables} == {"fresh": 5, "uniform": 5, "per": 5}
    assert stats.durability == "sync"


def test_priorities_reach_their_shard(client: ShardedClient, two: ShardedServices) -> None:
    positions = np.array([0, SECOND, SECOND + 1, SECOND + 5, global_position(7, 0)], np.uint64)
    assert client.update_priorities("per", positions.tolist(), [0.0, 0.0, 2.0, 1.0, 1.0]) == 3
    with pytest.raises(ReplayRefused, match="'uniform' is uniform"):
        client.update_priorities("uniform", [0], [1.0])
    with pytest.raises(ValueError, match="2 positions with 1 priorities"):
        client.update_priorities("per", [0, 1], [1.0])
    two.stop(0)
    with pytest.raises(ReplayUnavailable, match=two.each[0]):
        client.update_priorities("per", [0, SECOND], [1.0, 3.0])


def test_a_table_is_set_on_all(client: ShardedClient, two: ShardedServices) -> None:
    spec = replay_pb2.TableSpec(name="old", kind="uniform", min_size=1, error_buffer=10.0)
    assert client.set_table(spec).available == 5
    for address in two.each:
        with ReplayClient(address) as one:
            assert "old" in {table.name for table in one.stats().tables}
    spec.kind = "fresh"
    with pytest.raises(ReplayRefused, match=r"'old' is set on 0 of 2 shards"):
        client.set_table(spec)


def test_who_does_not_answer_is_named_and_the_others_can_be_asked(client: ShardedClient, two: ShardedServices) -> None:
    two.stop(1)
    with pytest.raises(ReplayUnavailable, match=two.each[1]):
        client.stats(timeout_s=0.2)
    first, second = client.stats_of_each(timeout_s=0.2)
    assert isinstance(first, replay_pb2.StatsResponse)
    assert first.records == 3
    assert isinstance(second, ReplayUnavailable)
    with pytest.raises(ReplayUnavailable, match=two.each[1]):
        list(client.records())
    with pytest.raises(ReplayUnavailable, match=two.each[1]):
        client.quarantine("position >= 0", "all of it")
    two.start(1)
    with open_client(two.addresses, TIMEOUT_S) as another:
        assert another.stats().records == 5
        assert another.stats().quarantined_records == 0
