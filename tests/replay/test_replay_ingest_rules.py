"""Rules at ingest: a running service writes signals about what arrives, and about what was there before."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from replay.client import ReplayClient, ReplayWriter
from replay.client_sharded import ReplayLog, open_client
from replay.config import ReplayConfig
from replay.curation.catalog import choose_rules
from replay.curation.curator import Curator
from replay.curation.rules import RuleError
from replay.schema import PayloadLayout
from replay.sharding import global_position
from replay.testing import make_columns, make_header, make_origin, serving
from tests.replay.sharded_services import ShardedServices

CONFIG = ReplayConfig(store="memory", fresh_unconsumed_max=1000, rules=("duplicate_of",))
TIMEOUT_S = 20.0
SECOND = global_position(1, 0)


def append(address: str, run_id: str, seeds: list[int]) -> None:
    origin = make_origin(run_id=run_id)
    layout = PayloadLayout(origin.schema)
    with ReplayWriter(address, origin, window_records=100, window_bytes=2**20) as writer:
        payloads = [layout.encode(make_columns(seed=seed)) for seed in seeds]
        writer.append([make_header() for _ in seeds], payloads, TIMEOUT_S)
        assert writer.flush(TIMEOUT_S)


def duplicates(client: ReplayLog, expected: int | dict[int, float]) -> dict[int, float]:
    """What is marked, once it is that or so many."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        found = {
            record.position: record.signals["duplicate_of"]
            for record in client.records(filter_text="has(signals.duplicate_of)")
        }
        there = len(found) >= expected if isinstance(expected, int) else found == expected
        if there or time.monotonic() > deadline_s:
            return found
        time.sleep(0.05)


def test_records_are_marked_as_they_arrive() -> None:
    with serving(CONFIG) as address, ReplayClient(address) as client:
        append(address, "first", [1, 2, 3])
        append(address, "second", [4, 2, 5])
        assert duplicates(client, 1) == {4: 1.0}
        append(address, "third", [5])
        assert duplicates(client, 2) == {4: 1.0, 6: 5.0}


def test_records_from_before_are_marked_too(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, store="lmdb")
    with serving(dataclasses.replace(config, rules=()), tmp_path) as address:
        append(address, "first", [1, 1])
    with serving(config, tmp_path) as address, ReplayClient(address) as client:
        assert duplicates(client, 1) == {1: 0.0}


def test_on_a_shard_they_write_what_rules_over_all_shards_do(tmp_path: Path, socket_directory: Path) -> None:
    """Also where a service that did not know its number has written positions of its own."""
    config = dataclasses.replace(CONFIG, store="lmdb")
    with serving(config, tmp_path / "shard-1") as address, ReplayClient(address) as client:
        append(address, "before", [7, 7])
        assert duplicates(client, 1) == {1: 0.0}
    with ShardedServices(socket_directory, tmp_path, [config, config]) as services:
        services.start()
        append(services.each[0], "first", [1, 2, 1])
        append(services.each[1], "second", [3, 4, 3])
        with open_client(services.addresses) as client:
            expected = {2: 0.0, SECOND + 1: float(SECOND), SECOND + 4: float(SECOND + 2)}
            assert duplicates(client, expected) == expected
            curated = Curator(choose_rules(["duplicate_of"])).run(client)
            assert (curated.records, curated.annotated) == (8, 0)
            found = client.records(filter_text="signals.duplicate_of == position - 2")
            assert [record.position for record in found] == [2, SECOND + 4]


def test_an_unknown_rule_keeps_the_service_from_starting(tmp_path: Path) -> None:
    with (
        pytest.raises(RuleError, match="unknown rule 'nicety'; known are "),
        serving(dataclasses.replace(CONFIG, store="lmdb", rules=("nicety",)), tmp_path / "store"),
    ):
        pass
    assert not (tmp_path / "store").exists()
