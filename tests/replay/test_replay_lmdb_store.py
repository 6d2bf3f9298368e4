"""The durable store: the contract, and what only a store on disk must do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import resource
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb
import numpy as np
import pytest

from replay.block import BlockReader
from replay.chain import verify_chain
from replay.lmdb_store import LmdbStore
from replay.store import (
    AppendOutcome,
    PendingRecord,
    Store,
    StoreBusy,
    StoreCorrupt,
    StoredRecord,
    StoreError,
    StoreFormatError,
    StoreFull,
    StoreSettings,
    TableState,
    run_key,
)
from replay.testing import StoreContract, make_append, make_columns, make_origin, make_record
from replay.writer import GroupCommitter

SETTINGS = StoreSettings(10_000, 100_000_000, ("steps",))
MAP_BYTES = 64 * 1024**2


@contextlib.contextmanager
def opened(directory: Path, settings: StoreSettings = SETTINGS, map_bytes: int = MAP_BYTES) -> Iterator[LmdbStore]:
    store = LmdbStore(directory, settings, map_bytes=map_bytes)
    try:
        yield store
    finally:
        store.close()


class TestLmdbStore(StoreContract):
    @contextlib.contextmanager
    def open_store(self, settings: StoreSettings) -> Iterator[Store]:
        with tempfile.TemporaryDirectory() as directory, opened(Path(directory), settings) as store:
            yield store


def test_everything_survives_reopening(tmp_path: Path) -> None:
    a, b = make_origin("a"), make_origin("b")
    with opened(tmp_path) as store:
        store.commit([make_append(a, range(300)), make_append(b, [2, 5])], {"fresh": TableState(7, 6)})
        counters, records = store.counters(), store.read(range(302))
    with opened(tmp_path) as store:
        assert store.counters() == counters
        assert store.read(range(302)) == records
        assert dict(store.tables()) == {"fresh": TableState(7, 6)}
        assert store.origin(records[-1].origin_id) == b
        assert verify_chain(store) == 302
        assert (store.next_sequence(run_key(a)), store.next_sequence(run_key(b))) == (300, 0)
        # The gaps of b are known again: 2 and 5 are duplicates, and the watermark passes them.
        assert store.commit([make_append(b, range(5))], {}) == [AppendOutcome(4, 1)]
        assert store.next_sequence(run_key(b)) == 6
    with opened(tmp_path) as store:
        assert store.commit([make_append(b, range(7))], {}) == [AppendOutcome(1, 6)]
        assert store.commit([make_append(b, [7]), make_append(a, [300])], {}) == [AppendOutcome(1, 0)] * 2
        assert verify_chain(store) == store.counters().records == 309


def test_retention_survives_reopening_and_drains_an_excess_in_batches(tmp_path: Path) -> None:
    origin = make_origin()
    with opened(tmp_path) as store:
        store.commit([make_append(origin, range(2000))], {})
    with opened(tmp_path, StoreSettings(100, 100_000_000)) as store:
        assert store.counters().records == 2000
        sizes = []
        for _ in range(9):
            store.commit([], {})
            sizes.append(store.counters().records)
        assert sizes == [1744, 1488, 1232, 976, 720, 464, 208, 100, 100]
        assert [record.position for record in store.read(range(1890, 1910))] == list(range(1900, 1910))
        assert verify_chain(store) == 100
    with opened(tmp_path, StoreSettings(100, 100_000_000)) as store:
        assert verify_chain(store) == 100
        store.commit([make_append(origin, range(2000, 2150))], {})
        assert verify_chain(store) == 100


def test_signals_no_longer_totalled_are_dropped(tmp_path: Path) -> None:
    append = make_append(make_origin(), range(6), signals={"steps": 1.0, "cost": 2.0})
    for names, first, totals in (
        (("steps", "cost"), 0, {"steps": 2.0, "cost": 4.0}),
        (("steps",), 2, {"steps": 4.0}),
        (("steps", "cost"), 4, {"steps": 6.0, "cost": 4.0}),
    ):
        with opened(tmp_path, StoreSettings(1000, 1_000_000, names)) as store:
            store.commit([append._replace(records=append.records[first : first + 2])], {})
            assert dict(store.counters().signal_totals) == totals


def test_blocks_left_behind_are_deleted_and_the_file_stays_bounded(tmp_path: Path) -> None:
    origin = make_origin()
    with opened(tmp_path, StoreSettings(500, 100_000_000)) as store:
        for start in range(0, 2000, 100):
            store.commit([make_append(origin, range(start, start + 100))], {})
        early, _ = store.sizes()
        for start in range(2000, 8000, 100):
            store.commit([make_append(origin, range(start, start + 100))], {})
        late, live = store.sizes()
        assert store.counters().records == 500
        assert late <= 1.5 * early
        assert 0 < live <= late


def test_a_directory_is_opened_once(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(StoreBusy, match="is open already, by process"):
        LmdbStore(tmp_path, SETTINGS, map_bytes=MAP_BYTES)
    with opened(tmp_path):
        pass


def test_retention_keeps_up_with_blocks_of_one_large_record(tmp_path: Path) -> None:
    steps, count = 11_000, 100  # 275 kB a record, more than a block's target
    origin = make_origin(columns=make_columns(steps), steps=steps)
    with opened(tmp_path, StoreSettings(10, 10**9), map_bytes=2**30) as store:
        for start in range(0, 3 * count, count):
            store.commit([make_append(origin, range(start, start + count), steps=steps)], {})
            assert store.counters().records == 10
        assert len(store.read(range(3 * count))) == 10


def test_a_commit_during_a_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = make_origin()
    with opened(tmp_path) as store:
        store.commit([make_append(origin, range(3))], {})
        locate = store._index.locate

        def commit_meanwhile(positions: Sequence[int]) -> list[int]:
            located = locate(positions)
            store.commit([make_append(origin, range(3, 6))], {})
            return located

        monkeypatch.setattr(store._index, "locate", commit_meanwhile)
        assert [record.position for record in store.read([2, 3])] == [2]


def test_closing_waits_for_a_read_and_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on, read = threading.Event(), threading.Event(), list[int]()
    record = BlockReader.record

    def slow(reader: BlockReader, position: int) -> StoredRecord:
        reading.set()
        assert go_on.wait(10.0)
        return record(reader, position)

    monkeypatch.setattr(BlockReader, "record", slow)
    with opened(tmp_path) as store:
        store.commit([make_append(make_origin(), range(3))], {})
        reader = threading.Thread(target=lambda: read.extend(record.position for record in store.read([0, 2])))
        closer = threading.Thread(target=store.close)
        reader.start()
        assert reading.wait(10.0)
        closer.start()
        closer.join(0.1)
        assert closer.is_alive()
        go_on.set()
        closer.join(10.0)
        reader.join(10.0)
        assert read == [0, 2]
        with pytest.raises(StoreError, match="the store is closed"):
            store.read([0])


@pytest.mark.parametrize(
    ("note", "what"),
    [
        ({"format": "temper-replay", "version": 2, "engine": "lmdb-0.9"}, "version 2 on lmdb-0.9"),
        ({"format": "temper-replay", "version": 1, "engine": "lmdb-1.0"}, "version 1 on lmdb-1.0"),
        (["what"], "what"),
    ],
)
def test_another_format_is_refused_in_one_line(tmp_path: Path, note: object, what: str) -> None:
    (tmp_path / "format.json").write_text(json.dumps(note))
    with pytest.raises(StoreFormatError, match=what) as refusal:
        LmdbStore(tmp_path, SETTINGS, map_bytes=MAP_BYTES)
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_damaged_or_missing_format_note_is_refused(tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text("{")
    with pytest.raises(StoreFormatError, match="not JSON"):
        LmdbStore(tmp_path, SETTINGS, map_bytes=MAP_BYTES)
    (tmp_path / "format.json").unlink()
    (tmp_path / "data.mdb").write_bytes(b"x")
    with pytest.raises(StoreFormatError, match=r"no format\.json"):
        LmdbStore(tmp_path, SETTINGS, map_bytes=MAP_BYTES)


def test_a_file_of_the_other_engine_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    for file in tmp_path.glob("*.mdb"):
        file.unlink()
    lmdb.open(str(tmp_path), lib_version=1).close()
    with pytest.raises(StoreFormatError, match=r"does not hold an LMDB 0\.9 file"):
        LmdbStore(tmp_path, SETTINGS, map_bytes=MAP_BYTES)


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("")
    with pytest.raises(StoreError, match="cannot be used: File exists; choose another"):
        LmdbStore(tmp_path / "replay", SETTINGS, map_bytes=MAP_BYTES)


def test_a_directory_that_cannot_be_written_is_refused_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="cannot be used: No space left on device; choose another"):
            LmdbStore(tmp_path, SETTINGS, map_bytes=MAP_BYTES)
    with opened(tmp_path):
        pass


def test_a_commit_of_nothing_writes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit([make_append(make_origin(), range(3))], {"fresh": TableState(1, 1)})
        before = store._environment.info()["last_txnid"]
        assert store.commit([], {}) == []
        assert store._environment.info()["last_txnid"] == before


def test_lower_retention_makes_room_in_a_full_map(tmp_path: Path) -> None:
    origin = make_origin()
    with opened(tmp_path, map_bytes=1024**2) as store:
        sequence = _fill(store)
    kept = sequence // 2
    with opened(tmp_path, StoreSettings(kept, 10**9), map_bytes=1024**2) as store:
        committer = GroupCommitter(store, commit_records_max=1, commit_ms_max=0.0)
        for _ in range(20):
            outcome = committer.append(make_append(origin, range(sequence, sequence + 200)))
            if outcome.exception(10.0) is None:
                break
        assert outcome.result(0) == AppendOutcome(200, 0)
        assert committer.close(10.0)
        assert verify_chain(store) == store.counters().records


def test_a_full_map_refuses_writes_and_goes_on_reading(tmp_path: Path) -> None:
    origin = make_origin()
    with opened(tmp_path, map_bytes=1024**2) as store:
        sequence = _fill(store)
        _check_nothing_half_written(store, sequence)
    with opened(tmp_path) as store:
        _check_nothing_half_written(store, sequence)
        assert store.commit([make_append(origin, [sequence])], {}) == [AppendOutcome(1, 0)]


def test_a_full_disk_refuses_writes_and_goes_on_reading(tmp_path: Path) -> None:
    """A limit on the size of files is how a full disk looks to one process."""
    origin = make_origin()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as store:
        store.commit([make_append(origin, range(200))], {"fresh": TableState(0, 0)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (store.sizes()[0], hard))
        try:
            with pytest.raises(StoreFull, match="nothing was stored"):
                store.commit([make_append(origin, range(200, 1200))], {"fresh": TableState(9, 9)})
            assert len(store.read(range(200))) == 200
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        _check_nothing_half_written(store, 200, cursor=0)
        assert store.commit([make_append(origin, range(200, 1200))], {}) == [AppendOutcome(1000, 0)]
        assert verify_chain(store) == 1200


def _fill(store: LmdbStore) -> int:
    """Appends until the map is full; returns how many records were stored."""
    sequence = 0
    with pytest.raises(StoreFull, match=r"map_bytes.*nothing was stored"):
        while sequence < 100_000:
            append = make_append(make_origin(), range(sequence, sequence + 200))
            store.commit([append], {"fresh": TableState(sequence, 0)})
            sequence += 200
    return sequence


def _check_nothing_half_written(store: LmdbStore, stored: int, cursor: int | None = None) -> None:
    assert store.counters().records == stored
    assert store.next_sequence(run_key(make_origin())) == stored
    assert verify_chain(store) == stored
    assert store.tables()["fresh"].cursor == (stored - 200 if cursor is None else cursor)


def test_a_flipped_byte_is_never_delivered(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append = make_append(make_origin(), range(20))
        store.commit([append], {})
    data = (tmp_path / "data.mdb").read_bytes()
    at = data.index(append.records[7].payload)
    (tmp_path / "data.mdb").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with opened(tmp_path) as store:
        with pytest.raises(StoreCorrupt, match="position 7"):
            store.read([6, 7])
        assert len(store.read([6, 8])) == 2
        with pytest.raises(StoreCorrupt, match="position 7"):
            verify_chain(store)


def test_an_altered_header_breaks_the_chain(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append = make_append(make_origin(), range(20), policy_version=0x1234)
        store.commit([append], {})
    data = (tmp_path / "data.mdb").read_bytes()
    at = data.index(append.records[7].header)
    altered = append.records[7].header.replace(b"\xb4\x24", b"\xb5\x24")
    assert altered != append.records[7].header
    (tmp_path / "data.mdb").write_bytes(data[:at] + altered + data[at + len(altered) :])
    with opened(tmp_path) as store:
        assert store.read([7])[0].header.policies[0].version == 0x1235
        with pytest.raises(StoreCorrupt, match="broken at position 7"):
            verify_chain(store)


def test_damaged_counters_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit([make_append(make_origin(), range(3))], {})
    environment = lmdb.open(str(tmp_path), max_dbs=6, lib_version=0)
    with environment.begin(write=True) as txn:
        txn.put(b"fresh", struct.pack("<Q", 1), db=environment.open_db(b"tables", txn=txn))
    environment.close()
    with pytest.raises(StoreCorrupt, match="damaged"):
        LmdbStore(tmp_path, SETTINGS, map_bytes=MAP_BYTES)


def test_large_records_have_blocks_of_their_own(tmp_path: Path) -> None:
    payloads = [np.random.default_rng(seed).bytes(480_000) for seed in range(3)]
    header = make_record(make_origin(), 0).header
    records = []
    for sequence, payload in enumerate(payloads):
        header.sequence, header.payload_digest = sequence, hashlib.sha256(payload).digest()
        records.append(PendingRecord(sequence, 2, header.SerializeToString(), payload, header.payload_digest, {}))
    with opened(tmp_path) as store:
        store.commit([make_append(make_origin(), [0])._replace(records=records)], {})
        assert [record.payload for record in store.read([2, 0, 1])] == [payloads[2], payloads[0], payloads[1]]
        assert verify_chain(store) == 3
