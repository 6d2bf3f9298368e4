"""Damage on disk: found where it is, told by position, and no matter to any other record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from replay.chain import verify_chain
from replay.checksums import with_checksum, without_checksum
from replay.lmdb_environment import Transaction
from replay.lmdb_store import LmdbStore
from replay.store import StoreCorrupt, StoredRecord, StoreView
from tests.replay.storing import SMALL, append, flip, opened, segment_paths


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 20 records in segments of 8, blocks of 4."""
    monkeypatch.setattr("replay.block._CONTINUED_BYTES_MAX", 0)
    with opened(tmp_path) as store:
        append(store, 0, 20)
    return tmp_path


def _record(directory: Path, position: int) -> StoredRecord:
    with opened(directory) as store:
        return store.read([position])[0]


def _damaged(view: StoreView, read: Callable[[], object]) -> list[int]:
    with pytest.raises(StoreCorrupt) as error:
        read()
    damaged = list(error.value.positions)
    assert f"position {damaged[0]}" in str(error.value) or "LMDB" in str(error.value)
    others = [position for position in range(20) if position not in damaged]
    assert [record.position for record in view.read(others)] == others
    return damaged


def _change(directory: Path, number: int, change: Callable[[Transaction], None]) -> None:
    """Changes a segment as nothing in the store would."""
    with opened(directory) as store:
        store._log.segments[number].write("test", change)


def test_a_flipped_bit_of_a_payload_is_never_delivered(directory: Path) -> None:
    flip(segment_paths(directory)[0] / "data.mdb", bytes(_record(directory, 7).payload))
    with opened(directory) as store:
        assert _damaged(store, lambda: store.read(range(20))) == [7]
        assert _damaged(store, lambda: store.lend([6, 7, 8]).__enter__()) == [7]
        assert len(store.read_headers(range(20))) == 20
        with pytest.raises(StoreCorrupt, match="the payload at position 7 does not match its digest") as error:
            verify_chain(store)
        assert error.value.positions == [7]


def test_a_flipped_bit_of_a_header_is_never_delivered(directory: Path) -> None:
    flip(segment_paths(directory)[1] / "data.mdb", _record(directory, 13).header_bytes)
    with opened(directory) as store:
        assert _damaged(store, lambda: store.read(range(20))) == [13]
        assert _damaged(store, lambda: store.read_headers(range(20))) == [13]


def test_damage_of_several_segments_is_told_at_once(directory: Path) -> None:
    for number, position in ((0, 1), (1, 9), (2, 18)):
        flip(segment_paths(directory)[number] / "data.mdb", bytes(_record(directory, position).payload))
    with opened(directory) as store:
        assert _damaged(store, lambda: store.read([19, 18, 9, 2, 1, 0])) == [1, 9, 18]


@pytest.mark.parametrize("database", [b"headers", b"payloads"])
def test_a_block_that_is_gone_takes_its_own_records_only(database: bytes, directory: Path) -> None:
    key = (4).to_bytes(8, "big")
    _change(directory, 0, lambda change: change.txn.delete(key, db=change.databases[database]))
    with opened(directory) as store:
        assert _damaged(store, lambda: store.read(range(20))) == [4, 5, 6, 7]


@pytest.mark.parametrize("garbage", [b"", b"TMB2", bytes(3000)])
def test_a_block_of_garbage_takes_its_own_records_only(garbage: bytes, directory: Path) -> None:
    key = (12).to_bytes(8, "big")
    _change(directory, 1, lambda change: change.txn.put(key, garbage, db=change.databases[b"headers"]))
    with opened(directory) as store:
        assert _damaged(store, lambda: store.read_headers(range(20))) == [12, 13, 14, 15]
        # What was evicted cannot be counted in it: it counts until it is gone.
        store.commit([], {}, retain_from=14)
        assert store.counters().records == 6
        store.commit([], {}, retain_from=17)
        assert store.counters().payload_bytes == sum(len(record.payload) for record in store.read(range(17, 20)))


@pytest.mark.parametrize("block", [4, 12, 16])
def test_a_damaged_index_is_made_anew_from_the_blocks(block: int, directory: Path) -> None:
    with opened(directory) as store:
        expected = store.counters(), store.sizes().live_bytes, store.read(range(20)), store.window(0, 500, 0)
    key = block.to_bytes(8, "big")
    _change(directory, block // 8, lambda change: change.txn.put(key, bytes(28), db=change.databases[b"blocks"]))
    with opened(directory) as store:
        assert (store.counters(), store.sizes().live_bytes, store.read(range(20)), store.window(0, 500, 0)) == expected


@pytest.mark.parametrize("how", ["emptied", "cut", "gone", "garbage", "of another store"])
def test_a_segment_that_cannot_be_opened_takes_its_own_records_only(
    how: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = segment_paths(directory)[1] / "data.mdb"
    if how == "emptied":
        data.write_bytes(b"")
    elif how == "cut":
        data.write_bytes(data.read_bytes()[:9000])
    elif how == "gone":
        data.unlink()
    elif how == "garbage":
        data.write_bytes(bytes(100_000))
    else:
        with opened(directory / "other") as store:
            append(store, 0, 20)
        data.write_bytes((segment_paths(directory / "other")[1] / "data.mdb").read_bytes())
    with caplog.at_level(logging.ERROR), opened(directory) as store:
        assert "the records of one segment cannot be read" in caplog.text
        with pytest.raises(StoreCorrupt) as error:
            store.read(range(20))
        assert error.value.positions == list(range(8, 16))
        assert [record.position for record in store.read([0, 7, 16, 19])] == [0, 7, 16, 19]
        with pytest.raises(StoreCorrupt) as error:
            verify_chain(store)
        assert error.value.positions[0] == 8
        append(store, 20, 28)
        with pytest.raises(StoreCorrupt) as error:
            store.marks([0, 8, 20])
        assert error.value.positions == [8]
        assert store.marks([0, 20]) == {}
        store.commit([], {}, retain_from=16)
        assert verify_chain(store).records == 12
        assert [int(path.name) for path in segment_paths(directory)] == [16, 24]


def test_a_damaged_page_takes_its_own_segment_only(directory: Path) -> None:
    """LMDB checks nothing, and says so where it stumbles."""
    data = segment_paths(directory)[1] / "data.mdb"
    content = bytearray(data.read_bytes())
    with opened(directory) as store, store._log.segments[1].reading() as transaction:
        stat = transaction.txn.stat(transaction.databases[b"headers"])
    assert stat["depth"] == 1
    for page in range(2, len(content) // 4096):
        if content[page * 4096 : (page + 1) * 4096].count(b"TMB2"):
            content[page * 4096 + 10 : page * 4096 + 12] = bytes(2)  # what kind of page it is
    data.write_bytes(content)
    with opened(directory) as store:
        assert _damaged(store, lambda: store.read(range(20))) == list(range(8, 16))


def test_a_damaged_mark_is_told(directory: Path) -> None:
    with opened(directory) as store:
        store.annotate({9: {"success": 1.0}, 10: {"success": 1.0}, 17: {"success": 1.0}})
    key = (9).to_bytes(8, "big")
    _change(directory, 1, lambda change: change.txn.put(key, b"garbage", db=change.databases[b"marks"]))
    with opened(directory) as store:
        with pytest.raises(StoreCorrupt, match="the mark of position 9 is damaged"):
            store.marks([9])
        assert list(store.marks([17])) == [17]
        assert len(store.read(range(20))) == 20


@pytest.mark.parametrize(
    ("database", "key"),
    [(b"meta", b"counters"), (b"meta", b"segment"), (b"origins", bytes(4)), (b"tables", b"fresh")],
)
def test_damage_of_the_state_is_refused(database: bytes, key: bytes, directory: Path) -> None:
    """Whatever the state says decides about records: better none than a wrong one."""

    def damage(change: Transaction) -> None:
        value = change.txn.get(key, db=change.databases[database]) or with_checksum(key, b"\x08\x01")
        change.txn.put(key, bytes([value[0] ^ 1]) + value[1:], db=change.databases[database])

    _change(directory, -1, damage)
    with pytest.raises(StoreCorrupt, match=r"is damaged: .* does not match its checksum; restore it, or move it away"):
        LmdbStore(directory, SMALL)


def test_checksums_bind_a_value_to_its_key() -> None:
    stored = with_checksum(b"key", b"value")
    assert without_checksum(b"key", memoryview(stored)) == b"value"
    for key, value in ((b"kez", stored), (b"key", stored[:-1]), (b"key", b""), (b"key", b"w" + stored[1:])):
        with pytest.raises(ValueError, match="does not match its checksum"):
            without_checksum(key, value)
