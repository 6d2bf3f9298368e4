"""The reader of a store's directory: the reading half of the contract, beside a store that is being written to."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pyroaring import BitMap64

from protos.replay.v1.replay_pb2 import QuarantineEntry, TableState
from replay.chain import verify_chain
from replay.lmdb_store import LmdbStore
from replay.reader import StoreReader
from replay.segment import Segment
from replay.segment_files import remove_segment
from replay.store import Store, StoreCorrupt, StoreCounters, StoreError, StoreFormatError, StoreSettings, StoreView
from replay.store_contract import StoreContract
from tests.replay.storing import SMALL, append, flip, opened, segment_paths

READING = {name for name in vars(StoreView) if not name.startswith("_")} - {"close"}


class _ReadThrough:
    """Written through a store, read through a reader of its directory."""

    def __init__(self, store: LmdbStore, reader: StoreReader) -> None:
        self._halves = store, reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._halves[name in READING], name)


class TestStoreReader(StoreContract):
    @contextlib.contextmanager
    def open_store(self, settings: StoreSettings) -> Iterator[Store]:
        with (
            tempfile.TemporaryDirectory() as directory,
            opened(Path(directory), settings) as store,
            reader_of(Path(directory)) as reader,
        ):
            yield cast(Store, _ReadThrough(store, reader))


@contextlib.contextmanager
def reader_of(directory: Path) -> Iterator[StoreReader]:
    reader = StoreReader(directory)
    try:
        yield reader
    finally:
        reader.close()


def test_reads_what_no_service_has_open_and_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 30, retain=20)
        records, store_id = store.read(range(40)), store.store_id
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.mdb") if path.name != "lock.mdb"}
    with reader_of(tmp_path) as reader:
        assert reader.read(range(40)) == records
        assert reader.store_id == store_id
        assert len(reader.store_id) == 16
        assert verify_chain(reader).records == len(records)
    assert {path: path.read_bytes() for path in before} == before
    with opened(tmp_path) as store:
        assert store.read(range(40)) == records


def test_keeps_up_with_a_store_in_this_process(tmp_path: Path) -> None:
    """Opened first for reading, then for writing: the environments are shared."""
    with opened(tmp_path) as store:
        append(store, 0, 4)
    with reader_of(tmp_path) as reader:
        with opened(tmp_path) as store, reader_of(tmp_path) as another:
            for start in range(4, 80, 4):
                append(store, start, start + 4, retain=20)
                assert reader.counters() == store.counters()
                assert reader.read(range(100)) == another.read(range(100)) == store.read(range(100))
                assert reader.sizes() == store.sizes()
        assert reader.counters().next_position == 80
        with opened(tmp_path) as store:
            append(store, 80, 84)
        assert [record.position for record in reader.read([83])] == [83]


READER = """
import os, sys
from pathlib import Path
from replay.chain import verify_chain
from replay.reader import StoreReader

if "unprivileged" in sys.argv and os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
reader = StoreReader(Path(sys.argv[1]))
for line in sys.stdin:
    counters = reader.counters()
    records = reader.read(range(counters.first_position, counters.next_position))
    with reader.lend([counters.next_position - 1]) as lent:
        assert bytes(lent[0].payload) == records[-1].payload
    report = verify_chain(reader)
    print(len(records), records[-1].header.sequence, report.records, reader.sizes().segments, flush=True)
"""


def test_keeps_up_from_another_process_across_many_segments_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 4)
        command = [sys.executable, "-c", READER, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for end in (8, 20, 24, 100, 104):
                append(store, store.counters().next_position, end, retain=20)
                print(file=process.stdin, flush=True)
                records = store.counters().records
                expected = f"{records} {end - 1} {records} {store.sizes().segments}\n"
                assert process.stdout.readline() == expected
            process.stdin.close()
            assert process.wait(10.0) == 0


def test_reads_while_a_store_appends_rolls_and_drops(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def read_on(reader: StoreReader) -> None:
        try:
            while not done.is_set():
                counters = reader.counters()
                records = reader.read(range(counters.first_position, counters.next_position))
                positions = [record.position for record in records]
                assert positions == list(range(counters.next_position - len(positions), counters.next_position))
                assert [record.header.sequence for record in records] == positions
        except BaseException as error:  # noqa: BLE001  raised below
            failures.append(error)

    with opened(tmp_path) as store:
        append(store, 0, 4)
        with reader_of(tmp_path) as reader:
            threads = [threading.Thread(target=read_on, args=(reader,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            append(store, 4, 84, retain=30)
            done.set()
            for thread in threads:
                thread.join(20.0)
            assert verify_chain(reader).next_position == 84
    assert failures == []


def test_marks_tables_and_quarantines_are_seen_as_soon_as_they_are_committed(tmp_path: Path) -> None:
    with opened(tmp_path) as store, reader_of(tmp_path) as reader:
        append(store, 0, 20)
        for number in range(1, 4):
            store.commit([], {"fresh": TableState(cursor=number)})
            store.annotate({number: {"success": 1.0}})
            store.quarantine(QuarantineEntry(), BitMap64([10 * number]))
            assert reader.tables()["fresh"].cursor == number
            assert reader.marks(range(20)) == store.marks(range(20))
            assert reader.quarantined() == store.quarantined()


def test_a_store_that_was_just_created_is_empty(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    shutil.rmtree(tmp_path / "segments")
    with reader_of(tmp_path) as reader:
        assert (reader.counters(), reader.read([0]), dict(reader.tables())) == (StoreCounters(), [], {})
        assert (reader.sizes().segments, reader.window(1, 1, 1), list(reader.priorities("per"))) == (0, 0, [])
        assert verify_chain(reader).records == 0
        with opened(tmp_path) as store:
            append(store, 0, 3)
            assert reader.counters().records == 3


def test_a_segment_that_is_gone_when_it_is_to_be_opened_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 30)
    listed = sorted(segment_paths(tmp_path))

    def drop_meanwhile(place: Path) -> list[Path]:
        monkeypatch.undo()
        remove_segment(listed[0])
        return listed

    monkeypatch.setattr("replay.reader.list_segments", drop_meanwhile)
    with reader_of(tmp_path) as reader:
        assert reader.counters().first_position == 8
        assert [record.position for record in reader.read(range(30))] == list(range(8, 30))


def test_another_store_in_its_place_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "replay") as store:
        append(store, 0, 3)
    with reader_of(tmp_path / "replay") as reader:
        shutil.rmtree(tmp_path / "replay")
        with opened(tmp_path / "replay"), pytest.raises(StoreFormatError, match="holds another store now"):
            reader.counters()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreFormatError, match=r"holds no format\.json: there is no store of trajectories"):
        StoreReader(tmp_path / "nothing")
    with opened(tmp_path) as store:
        append(store, 0, 12)
    newest = segment_paths(tmp_path)[-1] / "data.mdb"
    newest.write_bytes(newest.read_bytes()[:5000])
    with pytest.raises(StoreCorrupt, match=r"was cut: it has 5000 bytes"):
        StoreReader(tmp_path)


def test_damage_is_isolated(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 20)
        payload = store.read([3])[0].payload
    flip(segment_paths(tmp_path)[0] / "data.mdb", bytes(payload))
    (segment_paths(tmp_path)[1] / "data.mdb").write_bytes(b"")
    with reader_of(tmp_path) as reader:
        with pytest.raises(StoreCorrupt, match=r"at position 3 .* \(8 others are damaged too\)") as error:
            reader.read(range(20))
        assert error.value.positions == [3, *range(8, 16)]
        assert [record.position for record in reader.read([2, 4, 16])] == [2, 4, 16]


@pytest.mark.parametrize("locks", [True, False])
def test_what_was_written_over_meanwhile_is_read_again_without_a_lock(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 3)
    calls: list[object] = []

    def damaged(*arguments: Any) -> None:
        calls.append(arguments)
        arguments[-1][1] = "written over"
        if len(calls) == 4:
            monkeypatch.undo()

    with reader_of(tmp_path) as reader:
        expected = reader.read(range(3))
        monkeypatch.setattr(reader, "_locks", locks)
        monkeypatch.setattr(Segment, "collect", damaged)
        if locks:
            with pytest.raises(StoreCorrupt, match="written over"):
                reader.read(range(3))
            assert len(calls) == 1
        else:
            with reader.lend(range(3)) as lent:
                assert [record._replace(payload=bytes(record.payload)) for record in lent] == expected
            assert len(calls) == 4


def test_a_closed_reader_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 3)
    reader = StoreReader(tmp_path)
    reader.close()
    reader.close()
    with pytest.raises(StoreError, match="the reader is closed"):
        reader.read([0])


@pytest.mark.parametrize("live", [False, True])
def test_a_directory_that_may_only_be_read(live: bool) -> None:
    directory = Path(tempfile.mkdtemp())
    try:
        _check_read_only(directory, live)
    finally:
        for path in [directory, *directory.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(directory)


def _check_read_only(directory: Path, live: bool) -> None:
    store = LmdbStore(directory, SMALL)
    append(store, 0, 20)
    if not live:
        store.close()
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [sys.executable, "-c", READER, str(directory), "unprivileged"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        print(file=process.stdin, flush=True)
        first = process.stdout.readline()
        assert first == "20 19 20 3\n", process.stderr.read()
        if live and os.geteuid() == 0:  # who may write to it in spite of its mode
            append(store, 20, 44, retain=16)
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "20 43 20 3\n"
        process.stdin.close()
        assert process.wait(10.0) == 0
    store.close()
