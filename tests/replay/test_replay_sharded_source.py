"""Several stores as one log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from replay.filters import CHARACTERS_MAX, FilterError, parse_filter
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.sharded_source import ShardedSource
from replay.sharding import SHARD_BITS
from replay.store import StoreSettings
from replay.testing import make_append, make_origin

SECOND = 1 << SHARD_BITS


@pytest.fixture
def directories(tmp_path: Path) -> list[Path]:
    """Two stores, of 3 and of 2 records."""
    for shard, records in enumerate((3, 2)):
        store = LmdbStore(tmp_path / str(shard), StoreSettings(("return",)))
        append = make_append(make_origin(f"actor-{shard}"), range(records), signals={"return": 1.5})
        store.commit([append], {})
        store.close()
    return [tmp_path / "0", tmp_path / "1"]


@pytest.fixture
def source(directories: list[Path]) -> Iterator[ShardedSource]:
    source = opened(directories)
    yield source
    source.close()


def opened(directories: list[Path], only: Mapping[int, bool] | None = None) -> ShardedSource:
    shards = {
        shard: OfflineSource(directory, writable=True)
        for shard, directory in enumerate(directories)
        if only is None or only.get(shard)
    }
    return ShardedSource(shards, len(directories))


def positions(source: ShardedSource, filter_text: str = "", **arguments: Any) -> list[int]:
    return [record.position for record in source.records(filter_text=filter_text, **arguments)]


def test_one_log_after_another(source: ShardedSource) -> None:
    assert positions(source) == [0, 1, 2, SECOND, SECOND + 1]
    assert positions(source, from_position=2) == [2, SECOND, SECOND + 1]
    assert positions(source, from_position=SECOND + 1) == [SECOND + 1]
    assert positions(source, from_position=1, limit=3) == [1, 2, SECOND]
    assert positions(source, "actor_id == 'actor-1'") == [SECOND, SECOND + 1]


@pytest.mark.parametrize(
    "text",
    [
        f"position == {SECOND}",
        "position > 0 and position < 2",
        f"0 < position <= {SECOND} and lane == 0",
        f"-position in [-1, -{SECOND + 1}]",
        f"(position - {SECOND}) * 2 == 2",
        "position >= 0",
        "'position' == actor_id or has(signals.position) or position / 2 == 1",
        f"signals.duplicate_of == position - {SECOND}",
    ],
)
def test_a_filter_sees_the_positions_that_are_shown(source: ShardedSource, text: str) -> None:
    source.annotate({SECOND: {"duplicate_of": 0.0}, SECOND + 1: {"duplicate_of": 0.0, "position": 7.0}})
    expected = [record.position for record in source.records() if parse_filter(text)(record)]
    assert positions(source, text) == expected
    assert list(source.quarantine(text, "", dry_run=True).positions) == expected
    seen: list[int] = []
    while found := positions(source, text, from_position=seen[-1] + 1 if seen else 0, limit=1):
        seen += found
    assert seen == expected


def test_a_filter_of_no_sense_is_refused_as_it_was_written(source: ShardedSource) -> None:
    with pytest.raises(FilterError, match=r"at column 15 of the filter 'position > 1 \+'"):
        source.records(filter_text="position > 1 +")


def test_going_on_from_the_last_position_misses_nothing(source: ShardedSource) -> None:
    seen: list[int] = []
    while found := positions(source, from_position=seen[-1] + 1 if seen else 0, limit=2):
        seen += found
    assert seen == [0, 1, 2, SECOND, SECOND + 1]


def test_get(source: ShardedSource) -> None:
    records = source.get([SECOND, 1, 7, SECOND + 9])
    assert [(record.position, record.origin.actor_id) for record in records] == [(1, "actor-0"), (SECOND, "actor-1")]
    assert all(record.payload for record in records)


def test_stats_add_up(source: ShardedSource) -> None:
    stats = source.stats()
    assert (stats.records, stats.appended_steps, stats.segments) == (5, 10, 2)
    assert dict(stats.signal_totals) == {"return": 7.5}


def test_marks_reach_their_shard(source: ShardedSource) -> None:
    assert source.annotate({1: {"success": 1.0}, SECOND: {"success": 1.0}, SECOND + 5: {"success": 1.0}}) == 2
    assert positions(source, "signals.success == 1") == [1, SECOND]


def test_a_quarantine_is_one_on_all(source: ShardedSource) -> None:
    result = source.quarantine("sequence == 1", "broken")
    assert list(result.positions) == [1, SECOND + 1]
    assert (result.entry.id, result.entry.records) == (1, 2)
    assert [(entry.id, entry.records) for entry in source.quarantines()] == [(1, 2)]
    assert list(source.lift_quarantine(1, "mended").positions) == [1, SECOND + 1]
    assert positions(source, "quarantined") == []


def test_a_quarantine_by_position_holds_what_it_says(directories: list[Path], source: ShardedSource) -> None:
    """And every shard gives it back as it was asked for, also where the first one is left out."""
    text = "position > 0 and  position < 2"
    result = source.quarantine(text, "broken")
    assert (list(result.positions), result.entry.records, result.entry.filter) == ([1], 1, text)
    assert positions(source, "quarantined") == [1]
    result = source.quarantine(f"position == {SECOND}", "broken too")
    assert list(result.positions) == [SECOND]
    assert [entry.filter for entry in source.quarantines()] == [text, f"position == {SECOND}"]
    assert [entry.records for entry in source.quarantines()] == [1, 1]
    assert source.lift_quarantine(2, "mended").entry.filter == f"position == {SECOND}"
    source.close()
    second = opened(directories, {1: True})
    assert [entry.filter for entry in second.quarantines()] == [text, f"position == {SECOND}"]
    second.close()


def test_a_quarantine_that_one_shard_could_not_read_is_in_force_on_none(source: ShardedSource) -> None:
    text = f"position in [1{' ' * (CHARACTERS_MAX - 15)}]"
    parse_filter(text)
    with pytest.raises(FilterError, match=f"at most {CHARACTERS_MAX}"):
        source.quarantine(text, "broken")
    assert (source.quarantines(), positions(source, "quarantined")) == ([], [])


def test_a_shard_that_is_left_out(directories: list[Path]) -> None:
    """What is there can be read; nothing is written to a part of the shards."""
    source = opened(directories, {1: True})
    assert positions(source) == [SECOND, SECOND + 1]
    for write in (lambda: source.annotate({SECOND: {"a": 1.0}}), lambda: source.quarantine("lane == 0", "broken")):
        with pytest.raises(ValueError, match="shard 0 of 2 cannot be reached"):
            write()
    assert len(source.quarantine("lane == 0", "", dry_run=True).positions) == 2
    source.close()


def test_shards_that_were_quarantined_apart(directories: list[Path]) -> None:
    with OfflineSource(directories[1], writable=True) as alone:
        alone.quarantine("lane == 0", "broken")
    source = opened(directories)
    with pytest.raises(ValueError, match="different quarantines"):
        source.quarantine("sequence == 1", "broken")
    assert positions(source, "quarantined") == [SECOND, SECOND + 1]
    source.close()
