"""The durable store: the contract, and what only a store on disk must do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pyroaring import BitMap64

from protos.replay.v1.replay_pb2 import QuarantineEntry, TableState
from replay.block import BlockReader
from replay.chain import verify_chain
from replay.lmdb_environment import Transaction
from replay.lmdb_store import LmdbStore
from replay.log_view import Moment
from replay.segment import Segment
from replay.store import (
    AppendOutcome,
    PendingRecord,
    Store,
    StoreBusy,
    StoredRecord,
    StoreError,
    StoreSettings,
    run_key,
)
from replay.store_contract import StoreContract
from replay.testing import make_append, make_columns, make_origin, make_record
from tests.replay.storing import LARGE, SMALL, append, opened, segment_paths

ASYNC = StoreSettings(("steps",), segment_records=8, durability="async", async_ms_max=100.0)


class TestLmdbStore(StoreContract):
    @contextlib.contextmanager
    def open_store(self, settings: StoreSettings) -> Iterator[Store]:
        with tempfile.TemporaryDirectory() as directory, opened(Path(directory), settings) as store:
            yield store


def test_everything_survives_reopening(tmp_path: Path) -> None:
    a, b = make_origin("a"), make_origin("b")
    with opened(tmp_path) as store:
        store.commit([make_append(a, range(300)), make_append(b, [2, 5])], {"fresh": TableState(cursor=7)})
        append(store, 300, 320, origin=a)
        store.annotate({3: {"success": 1.0}, 310: {"success": 0.0}})
        store.quarantine(QuarantineEntry(filter="f", why="w", time_ns=1), BitMap64([5, 315]))
        store.put_priorities("per", np.array([3, 310], np.uint64), np.array([0.5, 0.0]))
        counters, records, marks = store.counters(), store.read(range(322)), store.marks(range(322))
        sizes, window, link = store.sizes(), store.window(0, 5000, 0), store.link_before(200)
    with opened(tmp_path) as store:
        assert store.counters() == counters
        assert store.read(range(322)) == records
        assert store.marks(range(322)) == marks
        assert list(marks) == [3, 5, 310, 315]
        assert dict(store.tables()) == {"fresh": TableState(cursor=7)}
        assert store.quarantined() == BitMap64([5, 315])
        assert [(p.tolist(), v.tolist()) for p, v in store.priorities("per")] == [([3], [0.5]), ([310], [0.0])]
        assert (store.sizes().live_bytes, store.sizes().segments) == (sizes.live_bytes, sizes.segments)
        assert (store.window(0, 5000, 0), store.link_before(200)) == (window, link)
        assert store.origin(records[301].origin_id) == b
        assert verify_chain(store).records == 322
        assert (store.next_sequence(run_key(a)), store.next_sequence(run_key(b))) == (320, 0)
        # The gaps of b are known again: 2 and 5 are duplicates, and the watermark passes them.
        assert store.commit([make_append(b, range(5))], {})[0][:2] == (4, 1)
        assert store.next_sequence(run_key(b)) == 6
    with opened(tmp_path) as store:
        assert store.commit([make_append(b, range(7))], {})[0][:2] == (1, 6)
        assert verify_chain(store).records == store.counters().records == 327


def test_segments_follow_one_another_and_are_dropped_whole(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 30)
        assert [int(path.name) for path in segment_paths(tmp_path)] == [0, 8, 16, 24]
        assert store.sizes().segments == 4
        append(store, 30, 34, retain=14)
        assert [int(path.name) for path in segment_paths(tmp_path)] == [16, 24]
        assert [record.position for record in store.read(range(40))] == list(range(16, 34))
        assert verify_chain(store).first_position == 16
        # The state went on from segment to segment.
        assert store.next_sequence(run_key(make_origin())) == 34
        assert store.commit([make_append(make_origin(), range(34))], {}) == [AppendOutcome(0, 34)]


def test_segments_are_small_while_there_is_little_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.segment_log._SEGMENT_BYTES_MIN", 2**20)
    steps = 10_000  # 250 kB a record
    origin = make_origin(columns=make_columns(steps), steps=steps)
    made = make_append(origin, range(40), steps=steps)
    with opened(tmp_path, LARGE) as store:
        for start in range(0, 40, 4):
            store.commit([made._replace(records=made.records[start : start + 4])], {})
        assert [int(path.name) for path in segment_paths(tmp_path)] == [0, 8, 16, 24, 32]
        assert store.sizes().file_bytes < 1.3 * store.sizes().live_bytes


def test_the_files_stay_close_to_what_is_kept(tmp_path: Path) -> None:
    steps = 4000  # 100 kB a record
    origin = make_origin(columns=make_columns(steps), steps=steps)
    payload = make_append(origin, [0], steps=steps).records[0]
    settings, ratios = StoreSettings(segment_bytes=2**20), []
    with opened(tmp_path, settings) as store:
        for start in range(0, 360, 8):
            records = [_renumbered(payload, sequence) for sequence in range(start, start + 8)]
            retain_from = store.window(0, 20_000_000, 0)
            store.commit([make_append(origin, [0])._replace(records=records)], {}, retain_from=retain_from)
            sizes = store.sizes()
            ratios.append((sizes.file_bytes - 2**20) / sizes.live_bytes)  # but for the reserve
        assert store.counters().records < 220
        assert verify_chain(store).records == store.counters().records
    assert max(ratios[-15:]) < 1.2


def _renumbered(record: PendingRecord, sequence: int) -> PendingRecord:
    header = make_record(make_origin(), 0).header
    header.sequence, header.payload_digest = sequence, record.payload_digest
    return record._replace(sequence=sequence, header=header.SerializeToString())


def test_quarantines_forget_what_is_gone_when_a_segment_begins(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 20)
        store.quarantine(QuarantineEntry(), BitMap64(range(0, 20, 2)))
        append(store, 20, 28, retain=8)
        assert store.quarantined() == BitMap64(range(0, 20, 2))
        append(store, 28, 36, retain=14)
    with opened(tmp_path) as store:
        assert store.counters().first_position == 18
        assert store.quarantined() == BitMap64([16, 18])
        assert store.quarantines()[0].entry.records == 10


def test_signals_no_longer_totalled_are_dropped(tmp_path: Path) -> None:
    made = make_append(make_origin(), range(6), signals={"steps": 1.0, "cost": 2.0})
    for names, first, totals in (
        (("steps", "cost"), 0, {"steps": 2.0, "cost": 4.0}),
        (("steps",), 2, {"steps": 4.0}),
        (("steps", "cost"), 4, {"steps": 6.0, "cost": 4.0}),
    ):
        with opened(tmp_path, StoreSettings(names)) as store:
            store.commit([made._replace(records=made.records[first : first + 2])], {})
            assert dict(store.counters().signal_totals) == totals


def test_a_family_of_signals_is_totalled_by_its_beginning_also_after_a_restart(tmp_path: Path) -> None:
    made = make_append(make_origin(), range(4), signals={"lease.1.episodes": 1.0, "lease.": 2.0, "leases": 5.0})
    other = make_append(make_origin(), range(4, 8), signals={"lease.2.episodes": 3.0, "steps": 1.0})
    settings = StoreSettings(("steps", "lease.*"))
    for records, totals in (
        (made.records[:2], {"steps": 0.0, "lease.1.episodes": 2.0, "lease.": 4.0}),
        (other.records[:3], {"steps": 3.0, "lease.1.episodes": 2.0, "lease.": 4.0, "lease.2.episodes": 9.0}),
    ):
        with opened(tmp_path, settings) as store:
            store.commit([made._replace(records=records)], {})
            assert dict(store.counters().signal_totals) == totals
    with opened(tmp_path, StoreSettings(("steps",))) as store:
        store.commit([made._replace(records=made.records[2:])], {})
        assert dict(store.counters().signal_totals) == {"steps": 3.0}


def test_a_family_of_signals_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.commit_plan.FAMILY_NAMES_MAX", 3)
    signals = {f"lease.{number}.episodes": 1.0 for number in range(2)} | {f"lease.{'9' * 64}": 1.0}
    first = make_append(make_origin(), [0], signals=signals)
    second = make_append(make_origin(), [1], signals={"lease.1.episodes": 1.0, "lease.7.episodes": 1.0})
    third = make_append(make_origin(), [2], signals={"lease.1.episodes": 1.0, "lease.8.episodes": 1.0})
    with opened(tmp_path, StoreSettings(("lease.*",))) as store:
        for append in (first, second, third):
            store.commit([append], {})
        expected = {"lease.0.episodes": 1.0, "lease.1.episodes": 3.0, "lease.7.episodes": 1.0}
        assert dict(store.counters().signal_totals) == expected


def test_a_directory_is_opened_once(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(StoreBusy, match="is open already, by process"):
        LmdbStore(tmp_path, SMALL)
    with opened(tmp_path):
        pass


def test_a_commit_during_a_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 12)
        blocks = Moment.blocks

        def evict_meanwhile(moment: Moment, positions: Sequence[int]) -> object:
            located = blocks(moment, positions)
            monkeypatch.undo()
            append(store, 12, 24, retain=4)
            return located

        monkeypatch.setattr(Moment, "blocks", evict_meanwhile)
        assert [record.position for record in store.read([2, 9, 11, 30])] == []
        assert store.counters().first_position == 16


def test_a_segment_dropped_while_it_is_lent_out_can_be_read_to_the_end(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 8)
        expected = store.read(range(8))
        with store.lend(range(8)) as lent:
            append(store, 8, 24, retain=1)
            assert [int(path.name) for path in segment_paths(tmp_path)] == [16]
            assert [bytes(record.payload) for record in lent] == [record.payload for record in expected]
            kept = np.frombuffer(lent[0].payload, np.uint8)
        with pytest.raises(ValueError, match="released"):
            bytes(lent[1].payload)
        del kept
        assert store.read(range(8)) == []


def test_closing_waits_for_a_read_and_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on, read = threading.Event(), threading.Event(), list[int]()
    record = BlockReader.record

    def slow(*arguments: object) -> StoredRecord:
        reading.set()
        assert go_on.wait(10.0)
        return record(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(BlockReader, "record", slow)
    with opened(tmp_path) as store:
        append(store, 0, 3)
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
        refused: list[Callable[[], object]] = [
            lambda: store.read([0]),
            lambda: store.commit([make_append(make_origin(), [3])], {}),
            lambda: store.next_sequence(b"another"),
            lambda: store.annotate({0: {"success": 1.0}}),
            store.sizes,
        ]
        for call in refused:
            with pytest.raises(StoreError, match="the store is closed"):
                call()


def test_a_commit_of_nothing_writes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit([make_append(make_origin(), range(3))], {"fresh": TableState(cursor=1)})
        before = segment_paths(tmp_path)[0].joinpath("data.mdb").read_bytes()
        assert store.commit([], {}) == []
        assert store.commit([], {}, retain_from=0) == []
        assert segment_paths(tmp_path)[0].joinpath("data.mdb").read_bytes() == before


def test_a_map_that_is_too_small_grows(tmp_path: Path) -> None:
    with opened(tmp_path, LARGE, map_bytes=2**20) as store:
        append(store, 0, 6000, step=3000)
        assert store.read([5999])[0].header.sequence == 5999
    with opened(tmp_path, LARGE, map_bytes=2**20) as store:
        assert store.counters().records == 6000
        assert store.annotate({position: {"s" * 200: 1.0} for position in range(6000)}) == 6000


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
        assert store.window(0, 2 * 480_000, 0) == 1
        assert verify_chain(store).records == 3


def test_after_a_failure_nothing_is_written_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(segment: Segment, what: str, change: Callable[[Transaction], None]) -> None:
        raise StoreError(f"{what} failed: {os.strerror(errno.EIO)}")

    with opened(tmp_path) as store:
        append(store, 0, 12)
        counters = store.counters()
        with monkeypatch.context() as patch:
            patch.setattr(Segment, "write", fail)
            with pytest.raises(StoreError, match=r"Input/output error; nothing was stored.*restart the service"):
                store.commit([make_append(make_origin(), [12])], {})
        for write in (
            lambda: store.commit([make_append(make_origin(), [12])], {}),
            lambda: store.commit([], {"fresh": TableState()}),
            lambda: store.annotate({0: {"success": 1.0}}),
            lambda: store.quarantine(QuarantineEntry(), BitMap64([1])),
            lambda: store.drop_table("fresh"),
        ):
            with pytest.raises(StoreError, match=r"an earlier write did .*restart the service, reading goes on"):
                write()
        assert (store.counters(), len(store.read(range(20))), len(store.quarantines())) == (counters, 12, 0)
    with opened(tmp_path) as store:
        assert store.counters() == counters
        append(store, 12, 14)
        assert verify_chain(store).records == 14


def test_async_says_when_a_sync_is_due_and_everything_is_there_after_it(tmp_path: Path) -> None:
    with opened(tmp_path, ASYNC) as store:
        assert store.sync_due_s() is None
        before_s = time.monotonic()
        append(store, 0, 12)
        due_s = store.sync_due_s()
        assert due_s is not None
        assert before_s + 0.1 <= due_s <= time.monotonic() + 0.1
        store.sync()
        assert store.sync_due_s() is None
        append(store, 12, 20)
        store.quarantine(QuarantineEntry(), BitMap64([1]))
        assert store.sync_due_s() is None
        append(store, 20, 40, retain=16)
        assert store.annotate({30: {"success": 1.0}, 39: {"success": 1.0}}) == 2
    with opened(tmp_path) as store:
        append(store, 40, 44)
        assert store.sync_due_s() is None
        assert verify_chain(store).records == 24
        assert list(store.marks(range(50))) == [30, 39]


def test_async_believes_what_a_client_says_was_acknowledged(tmp_path: Path) -> None:
    """What a crash of the machine undid is never sent again: it must not be waited for."""
    made = make_append(make_origin(), [7, 8, 10])
    with opened(tmp_path, ASYNC) as store:
        assert store.commit([made._replace(acknowledged_below=7)], {})[0].inserted == 3
        assert store.next_sequence(made.run) == 9
        assert store.commit([made._replace(records=[], acknowledged_below=10)], {}) == [AppendOutcome(0, 0)]
        assert store.next_sequence(made.run) == 11
        assert store.commit([make_append(make_origin(), [3])], {}) == [AppendOutcome(0, 1)]
    with opened(tmp_path) as store:
        assert store.next_sequence(made.run) == 11


def test_old_readers_show_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("replay.lmdb_store._UPKEEP_COMMITS", 10)
    monkeypatch.setattr("replay.lmdb_store._LIVE_BYTES_TO_MATTER", 1000)
    with caplog.at_level(logging.WARNING), opened(tmp_path) as store:
        append(store, 0, 36)
        assert caplog.messages == []
        append(store, 36, 40)
    assert len(caplog.messages) == 1
    assert "is an old reader holding pages?" in caplog.messages[0]
