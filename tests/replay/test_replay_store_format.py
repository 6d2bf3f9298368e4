"""The format on disk: a store written long ago is read to the byte, and what is in another format is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from pyroaring import BitMap64

from protos.common.v1.common_pb2 import RecordMarks
from protos.replay.v1.replay_pb2 import QuarantineEntry
from replay.chain import ChainReport, verify_chain
from replay.lmdb_store import LmdbStore
from replay.reader import StoreReader
from replay.segment_state import read_info
from replay.store import StoreBusy, StoreError, StoreFormatError, StoreView
from replay.store_directory import FORMAT, StoreDirectory, read_store_id
from replay.testing import make_append, make_origin
from tests.replay import golden_store
from tests.replay.golden_store import START_NS
from tests.replay.storing import SMALL, append, opened, segment_paths

CHAIN_HEAD = "2494c12403ad794dd9e547026c56e83f5920253c068ae2c0be30e5e3dbd1e44e"
RECORDS_DIGEST = "49fc0fc24dc02fcc32aafed47464e09bac5561f14b8deaaeb5016b46199cd687"
STORE_ID = "664a5ac5e3e61cda199acc7eca5823fb"


@pytest.fixture(params=[LmdbStore, StoreReader])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LmdbStore | StoreReader]:
    golden_store.unpack(tmp_path)
    view = LmdbStore(tmp_path, SMALL) if request.param is LmdbStore else StoreReader(tmp_path)
    yield view
    view.close()


def _digest(view: StoreView) -> str:
    """Of everything that is stored of every record."""
    digest = hashlib.sha256()
    for record in view.read(range(22)):
        fields = (record.position, record.origin_id, record.header_bytes, record.payload, record.chain)
        digest.update(repr(fields).encode())
    return digest.hexdigest()


def test_records_of_long_ago(golden: LmdbStore | StoreReader) -> None:
    counters = golden.counters()
    assert (counters.first_position, counters.next_position, counters.payload_bytes) == (3, 22, 19 * 66)
    assert (counters.appended_steps, counters.duplicate_records) == (44, 0)
    assert dict(counters.signal_totals) == {"steps": 40.0}
    assert counters.chain_head.hex() == CHAIN_HEAD
    assert golden.store_id.hex() == STORE_ID
    assert _digest(golden) == RECORDS_DIGEST
    assert [golden.origin(origin_id) for origin_id in (0, 1)] == [make_origin("a"), make_origin("b", "r")]
    assert verify_chain(golden) == ChainReport(19, 3, 22, counters.chain_head)
    assert golden.link_before(3) is not None
    tenths = (0, 1, 10, 11, 20, 21, 40, 41)
    assert [golden.window(0, 0, START_NS + tenth * 10**8) for tenth in tenths] == [3, 4, 4, 8, 8, 18, 18, 22]
    assert golden.sizes().segments == 3


def test_what_was_said_of_them(golden: LmdbStore | StoreReader) -> None:
    assert golden.marks(range(22)) == {
        4: RecordMarks(quarantine=1),
        5: RecordMarks(signals={"success": 1.0}),
        9: RecordMarks(quarantine=1),
        21: RecordMarks(signals={"novelty": 0.25, "duplicate_of": 4.0}),
    }
    in_force = QuarantineEntry(id=1, filter="task_id == 'x'", why="stale", time_ns=START_NS, records=2)
    lifted = QuarantineEntry(
        id=2, why="all", time_ns=START_NS, records=19, lifted_time_ns=START_NS + 1, lifted_why="by mistake"
    )
    assert [tuple(one) for one in golden.quarantines()] == [
        (in_force, BitMap64([4, 9])),
        (lifted, BitMap64(range(3, 22))),
    ]
    found = [(positions.tolist(), priorities.tolist()) for positions, priorities in golden.priorities("per")]
    assert found == [([4], [0.5]), ([20, 21], [0.0, 2.0])]
    fresh = golden.tables()["fresh"]
    assert (fresh.cursor, fresh.samples, fresh.inserts, fresh.spec.kind) == (7, 9, 22, "fresh")


def test_a_store_of_long_ago_goes_on(tmp_path: Path) -> None:
    golden_store.unpack(tmp_path)
    with opened(tmp_path) as store:
        # What is known of its runs: a is stored to 20; of b there are 2 and 5.
        a, b = make_origin("a"), make_origin("b", "r")
        assert store.commit([make_append(a, range(30)), make_append(b, range(6))], {})[0][:2] == (10, 20)
        assert store.next_sequence(make_append(b, [0]).run) == 6
        append(store, 30, 50, origin=a, retain=24)
        assert verify_chain(store).records == 28
        assert store.annotate({40: {"success": 1.0}}) == 1


def test_todays_store_is_that_of_long_ago(tmp_path: Path) -> None:
    """The same commits make the same records, state and layout."""
    golden_store.fill(tmp_path / "today")
    (tmp_path / "golden").mkdir()
    golden_store.unpack(tmp_path / "golden")
    today, golden = StoreReader(tmp_path / "today"), StoreReader(tmp_path / "golden")
    assert today.counters() == golden.counters()
    assert _digest(today) == _digest(golden) == RECORDS_DIGEST
    today.close()
    golden.close()
    contents = [
        [_content(path, store_id) for path in segment_paths(tmp_path / name)]
        for name, store_id in (("today", today.store_id), ("golden", golden.store_id))
    ]
    assert contents[0] == contents[1]


def _content(segment: Path, store_id: bytes) -> dict[str, object]:
    """Every value in a segment's databases and files, but for the id of the store and its checksum."""
    environment = lmdb.open(str(segment), readonly=True, lock=False, max_dbs=16, lib_version=0)
    found: dict[str, object] = {}
    with environment.begin() as txn:
        for name, _ in txn.cursor():
            database = environment.open_db(bytes(name), txn=txn, create=False)
            found[name.decode()] = {
                key: value[:-4].replace(store_id.hex().encode(), b"") if key == b"segment" else value
                for key, value in txn.cursor(database)
            }
    environment.close()
    return found | {path.name: path.read_bytes() for path in segment.glob("priorities-*")}


def test_the_note_says_what_the_segments_say(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 12)
        note = json.loads((tmp_path / "format.json").read_text())
        assert note == {**FORMAT, "store_id": store.store_id.hex()}
        assert note["version"] == 2
        for segment in store._log.segments:
            with segment.reading() as transaction:
                info = read_info(transaction)
            assert (info.store_id, info.first_position) == (note["store_id"], segment.first_position)
            assert info.link_before == store.link_before(segment.first_position)
    assert read_store_id(tmp_path) == note["store_id"]


@pytest.mark.parametrize(
    ("note", "what"),
    [
        ({"format": "temper-replay", "version": 1, "engine": "lmdb-0.9"}, "version 1 on lmdb-0.9, this build reads"),
        ({"format": "temper-replay", "version": 3, "engine": "lmdb-0.9", "store_id": "0" * 32}, "version 3 on"),
        ({"format": "temper-replay", "version": 2, "engine": "lmdb-1.0", "store_id": "0" * 32}, "on lmdb-1.0"),
        ({"format": "temper-replay", "version": 2, "engine": "lmdb-0.9"}, "store_id is None, not 32 hex digits"),
        ({**FORMAT, "store_id": "../../elsewhere"}, "not 32 hex digits"),
        (["what"], "what"),
    ],
)
def test_another_format_is_refused_in_one_line(tmp_path: Path, note: object, what: str) -> None:
    (tmp_path / "format.json").write_text(json.dumps(note))
    for open_it in (lambda: LmdbStore(tmp_path, SMALL), lambda: StoreReader(tmp_path)):
        with pytest.raises(StoreFormatError, match=what) as refusal:
            open_it()
        assert str(tmp_path) in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_damaged_or_missing_format_note_is_refused(tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text("{")
    with pytest.raises(StoreFormatError, match="not JSON"):
        LmdbStore(tmp_path, SMALL)
    (tmp_path / "format.json").unlink()
    (tmp_path / "data.mdb").write_bytes(b"x")
    with pytest.raises(StoreFormatError, match=r"no format\.json"):
        LmdbStore(tmp_path, SMALL)


def test_a_segment_of_the_other_engine_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    (segment,) = segment_paths(tmp_path)
    for file in segment.glob("*.mdb"):
        file.unlink()
    lmdb.open(str(segment), lib_version=1).close()
    with pytest.raises(StoreFormatError, match=r"does not hold an LMDB 0\.9 file"):
        LmdbStore(tmp_path, SMALL)


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("")
    with pytest.raises(StoreError, match="cannot be used: File exists; choose another"):
        LmdbStore(tmp_path / "replay", SMALL)


def test_a_directory_that_cannot_be_written_is_refused_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="cannot be used: No space left on device; choose another"):
            LmdbStore(tmp_path, SMALL)
    with opened(tmp_path):
        pass


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    owner = StoreDirectory(tmp_path)
    with pytest.raises(StoreBusy, match=f"is open already, by process {os.getpid()}"):
        StoreDirectory(tmp_path)
    owner.close()
    owner.close()
    again = StoreDirectory(tmp_path)
    assert again.store_id == owner.store_id
    again.close()
