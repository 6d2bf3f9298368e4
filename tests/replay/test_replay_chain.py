"""The hash chain: whatever is altered, dropped or put in another's place is named, the first of it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from protos.common.v1.common_pb2 import RecordHeader
from replay.chain import ChainReport, next_link, verify_chain
from replay.lmdb_store import LmdbStore
from replay.reader import StoreReader
from replay.store import StoreCorrupt, StoreCounters, StoredRecord, StoreView
from replay.testing import make_origin
from tests.replay.storing import append, opened


class _Altered:
    """A view of a store in which somebody changed something, and every checksum with it."""

    def __init__(self, view: StoreView) -> None:
        self._view = view
        self.records = {record.position: record for record in view.read(range(1000))}
        self.head = view.counters().chain_head
        self.first = view.counters().first_position

    def counters(self) -> StoreCounters:
        return dataclasses.replace(self._view.counters(), chain_head=self.head, first_position=self.first)

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        return [self.records[position] for position in positions if position in self.records]

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)


@pytest.fixture(params=["store", "reader"])
def view(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreView]:
    """30 records in segments of 8, of which the first 5 are evicted."""
    with opened(tmp_path) as store:
        append(store, 0, 28)
        store.commit([], {}, retain_from=5)
        append(store, 28, 30)
        if request.param == "store":
            yield store
            return
    reader = StoreReader(tmp_path)
    yield reader
    reader.close()


def _altered(view: StoreView) -> tuple[_Altered, StoreView]:
    altered = _Altered(view)
    return altered, altered  # type: ignore[return-value]  # the rest of a view is passed on


def _first_bad(view: StoreView) -> tuple[int, str]:
    with pytest.raises(StoreCorrupt) as error:
        verify_chain(view)
    (position,) = error.value.positions
    assert f"position {position}" in str(error.value)
    return position, str(error.value)


def _with_header(record: StoredRecord, **changes: int) -> StoredRecord:
    header = RecordHeader.FromString(record.header_bytes)
    for name, value in changes.items():
        setattr(header, name, value)
    return record._replace(header_bytes=header.SerializeToString())


def test_a_whole_log(view: StoreView) -> None:
    seen: list[tuple[int, int]] = []
    report = verify_chain(view, lambda done, total: seen.append((done, total)))
    assert report == ChainReport(25, 5, 30, view.counters().chain_head)
    assert seen[-1] == (25, 25)
    altered, same = _altered(view)
    assert verify_chain(same) == report
    assert len(altered.records) == 25


@pytest.mark.parametrize("position", [5, 7, 8, 16, 29])
def test_an_altered_header(view: StoreView, position: int) -> None:
    altered, changed = _altered(view)
    altered.records[position] = _with_header(altered.records[position], lane=7)
    assert _first_bad(changed)[0] == position


@pytest.mark.parametrize("position", [5, 12, 29])
def test_an_altered_payload_with_its_digest(view: StoreView, position: int) -> None:
    altered, changed = _altered(view)
    record = altered.records[position]
    payload = b"forged"
    digest = hashlib.sha256(payload).digest()
    header = record.header_bytes.replace(record.payload_digest, digest)
    altered.records[position] = record._replace(header_bytes=header, payload=payload, payload_digest=digest)
    assert _first_bad(changed)[0] == position


def test_a_payload_that_its_header_does_not_name(view: StoreView) -> None:
    altered, changed = _altered(view)
    altered.records[9] = altered.records[9]._replace(payload_digest=altered.records[10].payload_digest)
    assert _first_bad(changed) == (9, "the payload at position 9 is not the one that its header names")


def test_a_forger_who_relinks_is_caught_by_the_next_record_or_by_the_head(view: StoreView) -> None:
    for position, caught in ((10, 11), (29, 29)):
        altered, changed = _altered(view)
        record = _with_header(altered.records[position], lane=7)
        origin = hashlib.sha256(make_origin().SerializeToString(deterministic=True)).digest()
        before = altered.records[position - 1].chain
        link = next_link(before, origin, record.header_bytes, record.payload_digest)
        altered.records[position] = record._replace(chain=link)
        assert _first_bad(changed)[0] == caught


def test_records_in_each_others_place(view: StoreView) -> None:
    altered, changed = _altered(view)
    records = altered.records
    records[13], records[14] = records[14]._replace(position=13), records[13]._replace(position=14)
    assert _first_bad(changed)[0] == 13


@pytest.mark.parametrize("position", [5, 13, 29])
def test_a_missing_record(view: StoreView, position: int) -> None:
    altered, changed = _altered(view)
    del altered.records[position]
    assert _first_bad(changed) == (position, f"the record at position {position} is missing from the store")


def test_a_header_that_cannot_be_read(view: StoreView) -> None:
    altered, changed = _altered(view)
    altered.records[20] = altered.records[20]._replace(header_bytes=b"\xff")
    assert _first_bad(changed)[0] == 20


def test_an_origin_that_was_never_stored(view: StoreView) -> None:
    altered, changed = _altered(view)
    altered.records[20] = altered.records[20]._replace(origin_id=9)
    assert "origin 9 was never stored" in _first_bad(changed)[1]


def test_a_cut_log_is_not_the_head(view: StoreView) -> None:
    altered, changed = _altered(view)
    altered.head = bytes(32)
    assert _first_bad(changed) == (29, "the link of position 29, the newest, is not the chain head of the store")


def test_what_is_evicted_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.chain._READ_RECORDS", 4)
    read = LmdbStore.read
    with opened(tmp_path) as store:
        append(store, 0, 40)
        head = store.counters().chain_head

        def evict_first(self: LmdbStore, positions: Sequence[int]) -> list[StoredRecord]:
            if positions and positions[0] == 4:
                append(store, 40, 44)
                store.commit([], {}, retain_from=22)
            return read(self, positions)

        monkeypatch.setattr(LmdbStore, "read", evict_first)
        assert verify_chain(store) == ChainReport(18, 22, 40, head)
        monkeypatch.setattr(LmdbStore, "read", read)
        store.commit([], {}, retain_from=44)
        assert verify_chain(store) == ChainReport(0, 44, 44, store.counters().chain_head)
