"""The log of a directory without a service: reading, bounds, marks, and what a reader may not do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.filters import FilterError
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.source import ANNOTATIONS_MAX, SourceReadOnly
from replay.store import Append, StoreBusy, StoreCorrupt, StoreError, StoreSettings
from replay.testing import make_append, make_origin

RECORDS = 20
NOBODY = 65534
"""User id of nobody in particular."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store of 20 records of two actors, the first 4 of them evicted; policy version and return are the position."""
    store = LmdbStore(tmp_path / "store", StoreSettings(("return",), segment_records=4))
    for start in range(0, RECORDS, 4):
        appends = [append_of(position) for position in range(start, start + 4)]
        store.commit(appends, {"fresh": state_of("fresh", cursor=10, inserts=start + 4)})
    store.commit([], {}, retain_from=4)
    store.close()
    return tmp_path / "store"


def append_of(position: int) -> Append:
    origin, signals = make_origin(f"actor-{position % 2}"), {"return": float(position)}
    return make_append(origin, [position // 2], policy_version=position, signals=signals)


def state_of(kind: str, **fields: Any) -> replay_pb2.TableState:
    return replay_pb2.TableState(spec=replay_pb2.TableSpec(name=kind, kind=kind, min_size=1), **fields)


@pytest.fixture
def source(directory: Path) -> Iterator[OfflineSource]:
    with OfflineSource(directory) as opened:
        yield opened


@pytest.fixture
def writable(directory: Path) -> Iterator[OfflineSource]:
    with OfflineSource(directory, writable=True) as opened:
        yield opened


def positions(source: OfflineSource, filter_text: str = "", **arguments: Any) -> list[int]:
    return [record.position for record in source.records(filter_text=filter_text, **arguments)]


def test_records_in_log_order(source: OfflineSource) -> None:
    records = list(source.records())
    assert [record.position for record in records] == list(range(4, RECORDS))
    assert [record.origin.actor_id for record in records[:2]] == ["actor-0", "actor-1"]
    assert [record.payload for record in records] == [b""] * len(records)


def test_filter_range_and_limit(source: OfflineSource) -> None:
    assert positions(source, "actor_id == 'actor-1'", from_position=8) == [9, 11, 13, 15, 17, 19]
    assert positions(source, "actor_id == 'actor-1'", from_position=8, limit=2) == [9, 11]
    assert positions(source, limit=3) == [4, 5, 6]
    assert positions(source, from_position=RECORDS) == []


def test_payloads_decode(source: OfflineSource) -> None:
    (record,) = source.records(filter_text="position == 7", with_payload=True)
    assert record.columns["observation"].shape == (3, 4)
    assert record.header.policies[0].version == 7


def test_get_is_ascending_and_leaves_out_what_is_not_there(source: OfflineSource) -> None:
    records = source.get([9, 0, 5, 9, 99])
    assert [(record.position, bool(record.payload)) for record in records] == [(5, True), (9, True)]
    assert [record.payload for record in source.get([5], with_payload=False)] == [b""]
    assert source.get([]) == []


def test_a_bad_filter_is_found_before_anything_is_read(source: OfflineSource) -> None:
    with pytest.raises(FilterError, match="column"):
        source.records(filter_text="actor_id = 3")


def test_stats_are_those_of_the_last_commit(source: OfflineSource) -> None:
    stats = source.stats()
    assert (stats.records, stats.appended_records, stats.evicted_records) == (16, 20, 4)
    assert stats.appended_steps == 40
    assert dict(stats.signal_totals) == {"return": sum(range(RECORDS))}
    assert stats.payload_bytes == sum(len(record.payload) for record in source.records(with_payload=True))
    assert len(stats.chain_head) == 32
    assert stats.file_bytes >= stats.live_bytes > stats.payload_bytes
    (table,) = stats.tables
    assert (table.name, table.kind, table.inserts, table.available) == ("fresh", "fresh", 20, 10)
    assert stats.durability == ""


def test_a_reader_sees_what_is_committed_later(directory: Path) -> None:
    store = LmdbStore(directory, StoreSettings(segment_records=4))
    with OfflineSource(directory) as source:
        assert positions(source, from_position=18) == [18, 19]
        store.commit([make_append(make_origin("actor-9"), range(3))], {})
        assert positions(source, from_position=18) == [18, 19, 20, 21, 22]
        store.annotate({20: {"success": 1.0}})
        assert positions(source, "signals.success == 1") == [20]
    store.close()


def test_a_reader_writes_nothing(source: OfflineSource) -> None:
    for write in (
        lambda: source.annotate({5: {"success": 1.0}}),
        lambda: source.quarantine("position == 5", "broken"),
        lambda: source.lift_quarantine(1, "mended"),
    ):
        with pytest.raises(SourceReadOnly, match="opened for reading"):
            write()
    assert source.quarantines() == []


def test_a_dry_run_needs_no_writing(source: OfflineSource) -> None:
    result = source.quarantine("policy_version >= 18", "", dry_run=True)
    assert list(result.positions) == [18, 19]
    assert (result.entry.records, result.entry.id) == (2, 0)


def test_marks_last(directory: Path) -> None:
    with OfflineSource(directory, writable=True) as writable:
        assert writable.annotate({5: {"success": 1.0}, 6: {"return": -1.0}, 0: {"success": 1.0}}) == 2
    with OfflineSource(directory) as source:
        assert positions(source, "signals.success == 1") == [5]
        (record,) = source.get([6])
        assert (record.signals["return"], record.header.signals["return"]) == (-1.0, 6.0)


def test_more_marks_than_one_call_of_a_store_takes(writable: OfflineSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.offline.ANNOTATIONS_MAX", 3)
    assert writable.annotate({position: {"novelty": 0.5} for position in range(4, RECORDS)}) == 16
    assert len(positions(writable, "signals.novelty == 0.5")) == 16
    assert ANNOTATIONS_MAX > 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e16])
def test_a_signal_that_no_record_may_have(writable: OfflineSource, value: float) -> None:
    with pytest.raises(ValueError, match="nothing was written"):
        writable.annotate({5: {"success": 1.0}, 6: {"success": value}})
    assert positions(writable, "has(signals.success)") == []


def test_quarantine_and_lift(directory: Path) -> None:
    with OfflineSource(directory, writable=True) as writable:
        result = writable.quarantine("actor_id == 'actor-1'", "a broken sensor")
        assert list(result.positions) == list(range(5, RECORDS, 2))
        assert (result.entry.id, result.entry.records, result.entry.why) == (1, 8, "a broken sensor")
        assert writable.stats().quarantined_records == 8
    with OfflineSource(directory, writable=True) as writable:
        assert positions(writable, "quarantined") == list(range(5, RECORDS, 2))
        lifted = writable.lift_quarantine(1, "it was another one")
        assert lifted.entry.lifted_time_ns > 0
        assert list(lifted.positions) == list(range(5, RECORDS, 2))
        assert positions(writable, "quarantined") == []
        with pytest.raises(ValueError, match="in force: none"):
            writable.lift_quarantine(1, "again")
        (entry,) = writable.quarantines()
        assert (entry.filter, entry.lifted_why) == ("actor_id == 'actor-1'", "it was another one")


def test_evicted_records_are_no_longer_counted_as_quarantined(directory: Path) -> None:
    with OfflineSource(directory, writable=True) as writable:
        writable.quarantine("position < 14", "old")
        assert writable.stats().quarantined_records == 10
    store = LmdbStore(directory, StoreSettings(segment_records=4))
    store.commit([], {}, retain_from=11)
    store.close()
    with OfflineSource(directory) as source:
        assert source.stats().quarantined_records == len(positions(source, "quarantined")) == 3


@pytest.mark.parametrize(
    ("filter_text", "why"), [("", "why"), ("  ", "why"), ("lane == 0", ""), ("lane == 0", "x" * 1001)]
)
def test_a_quarantine_needs_to_say_what_and_why(writable: OfflineSource, filter_text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"filter|why"):
        writable.quarantine(filter_text, why)
    assert writable.stats().quarantined_records == 0


def test_writing_needs_the_store_for_itself(directory: Path) -> None:
    """Another process has it open: reading goes on, writing names that process."""
    script = """
        import sys
        from pathlib import Path
        from replay.lmdb_store import LmdbStore
        from replay.store import StoreSettings
        store = LmdbStore(Path(sys.argv[1]), StoreSettings())
        print("open", flush=True)
        sys.stdin.read()
        store.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with OfflineSource(directory) as source:
            assert positions(source, limit=1) == [4]
        with pytest.raises(StoreBusy, match=f"process {process.pid}"):
            OfflineSource(directory, writable=True)
        process.communicate(timeout=20)


@contextlib.contextmanager
def not_permitted_to_write(directory: Path) -> Iterator[None]:
    """Nothing under it can be written; whoever may do everything is somebody else meanwhile."""
    paths = [directory, *directory.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    users = os.getresuid()
    if users[1] == 0:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(*users)
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_read_only_directory(socket_directory: Path, directory: Path) -> None:
    socket_directory.chmod(0o755)  # as opposed to pytest's own
    directory = directory.rename(socket_directory / "store")
    with OfflineSource(directory) as source:
        expected = positions(source)
    with not_permitted_to_write(directory):
        with OfflineSource(directory) as source:
            assert positions(source) == expected
        with pytest.raises(StoreError, match=str(directory)) as raised:
            OfflineSource(directory, writable=True)
    assert "\n" not in str(raised.value)


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("not a store")
    for writable in (False, True):
        with pytest.raises(StoreError, match=str(tmp_path)):
            OfflineSource(tmp_path, writable=writable)
        with pytest.raises(StoreError, match="missing"):
            OfflineSource(tmp_path / "missing", writable=writable)
    assert [entry.name for entry in tmp_path.iterdir()] == ["diary.txt"]


def test_a_record_that_is_damaged_is_left_out_and_counted(
    source: OfflineSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = source.view.read

    def damaged(wanted: list[int]) -> object:
        if 7 in wanted:
            raise StoreCorrupt("position 7 does not match its digest", [7])
        return read(wanted)

    monkeypatch.setattr(source.view, "read", damaged)
    assert 7 not in [record.position for record in source.records(with_payload=True)]
    assert source.get([7]) == []
    assert source.stats().damaged_records == 1


def test_marks_of_a_record_without_any_are_empty(source: OfflineSource) -> None:
    (record,) = source.get([4])
    assert record.marks == common_pb2.RecordMarks()
    assert not record.quarantined
