"""Rules at ingest: a running service writes signals about what arrives, and about what was there before."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from replay.client import ReplayClient, ReplayWriter
from replay.config import ReplayConfig
from replay.curation.rules import RuleError
from replay.schema import PayloadLayout
from replay.testing import make_columns, make_header, make_origin, serving

CONFIG = ReplayConfig(store="memory", fresh_unconsumed_max=1000, rules=("duplicate_of",))
TIMEOUT_S = 20.0


def append(address: str, run_id: str, seeds: list[int]) -> None:
    origin = make_origin(run_id=run_id)
    layout = PayloadLayout(origin.schema)
    with ReplayWriter(address, origin, window_records=100, window_bytes=2**20) as writer:
        payloads = [layout.encode(make_columns(seed=seed)) for seed in seeds]
        writer.append([make_header() for _ in seeds], payloads, TIMEOUT_S)
        assert writer.flush(TIMEOUT_S)


def duplicates(client: ReplayClient, expected: int) -> dict[int, float]:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        found = {
            record.position: record.signals["duplicate_of"]
            for record in client.records(filter_text="has(signals.duplicate_of)")
        }
        if len(found) >= expected or time.monotonic() > deadline_s:
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


def test_an_unknown_rule_keeps_the_service_from_starting(tmp_path: Path) -> None:
    with (
        pytest.raises(RuleError, match="unknown rule 'nicety'; known are "),
        serving(dataclasses.replace(CONFIG, store="lmdb", rules=("nicety",)), tmp_path / "store"),
    ):
        pass
    assert not (tmp_path / "store").exists()
