"""A short campaign of kills (the long one is a command, see replay_campaign.py), and that its check can fail."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from protos.common.v1 import common_pb2
from replay.lmdb_store import LmdbStore
from replay.provenance import check_batch, check_origin
from replay.store import Append, StoreCounters, StoredRecord, StoreSettings, StoreView, origin_digest, run_key
from tests.robustness.replay_campaign import run_campaign
from tests.robustness.replay_check import StoreCheck
from tests.robustness.replay_load import Marking, Problems
from tests.robustness.replay_records import make_header, make_origin, payload_of

ROW_BYTES = 16
RUN = "actor-0.run-0"


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="temper-"))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.robustness
@pytest.mark.timeout(180)
def test_a_few_kills_lose_double_and_damage_nothing(place: Path) -> None:
    lines: list[str] = []
    report = run_campaign(6, 1, place, lines.append)
    assert report.problems == []
    assert report.kills >= 6
    assert min(report.acknowledged_records, report.checked_records) > 0
    assert list(place.iterdir()) == []
    assert lines[-1].endswith("0 problems")


class Altered:
    """A store that shows some of its records otherwise than they are."""

    def __init__(self, store: StoreView, records: Mapping[int, StoredRecord | None], counters: StoreCounters) -> None:
        self._store = store
        self._records = records
        self._counters = counters

    def counters(self) -> StoreCounters:
        return self._counters

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        shown = {record.position: self._records.get(record.position, record) for record in self._store.read(positions)}
        return [record for record in shown.values() if record is not None]

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    store = LmdbStore(tmp_path / "store", StoreSettings(("steps", "value"), segment_records=8))
    for first in range(0, 20, 4):
        append(store, range(first, first + 4))
    yield store
    store.close()


def append(store: LmdbStore, sequences: range) -> None:
    origin = make_origin(RUN, ROW_BYTES)
    records = []
    for sequence in sequences:
        payload = payload_of(RUN, sequence, ROW_BYTES)
        header = make_header(RUN, sequence)
        header.sequence = sequence
        header.payload_digest = hashlib.sha256(payload).digest()
        records.append(common_pb2.Record(header=header, payload=payload))
    pending = check_batch(records, check_origin(origin))
    serialized = origin.SerializeToString(deterministic=True)
    store.commit([Append(run_key(origin), serialized, origin_digest(origin), pending)], {})


def found(check: StoreCheck, view: object, acknowledged: int = 20, marking: Marking | None = None) -> set[str]:
    """Kinds of problems that one check finds."""
    assert isinstance(view, LmdbStore | Altered)
    check.problems.found.clear()
    marking = marking or Marking("unix:nobody", 0, None, Problems())
    check.check(view, {RUN: acknowledged}, marking, is_live=False)  # type: ignore[arg-type]
    return {kind for kind, _ in check.problems.found}


def test_the_check_finds_nothing_wrong_with_a_good_store(store: LmdbStore) -> None:
    check = StoreCheck(ROW_BYTES, Problems())
    assert found(check, store) == set()
    append(store, range(20, 28))
    assert found(check, store, 28) == set()
    store.commit([], {}, retain_from=9)
    assert found(check, store, 28) == set()
    assert check.checked_records == 20 + 28 + 19


def test_the_check_notices_what_is_missing(store: LmdbStore) -> None:
    counters = store.counters()
    assert found(StoreCheck(ROW_BYTES, Problems()), store, 21) == {"lost"}
    assert "lost" in found(StoreCheck(ROW_BYTES, Problems()), Altered(store, {7: None}, counters))
    assert "lost" in found(StoreCheck(ROW_BYTES, Problems()), Altered(store, {19: None}, counters))
    check = StoreCheck(ROW_BYTES, Problems())
    assert found(check, store) == set()
    shorter = dataclasses.replace(counters, next_position=19)
    assert "lost" in found(check, Altered(store, {}, shorter))


def test_the_check_notices_what_is_there_twice(store: LmdbStore) -> None:
    fifth, sixth = store.read([5, 6])
    again = {6: fifth._replace(position=6, chain=sixth.chain)}
    assert "duplicated" in found(StoreCheck(ROW_BYTES, Problems()), Altered(store, again, store.counters()))


def test_the_check_notices_what_is_altered(store: LmdbStore) -> None:
    (record,) = store.read([5])
    other = bytes(record.payload)[:-1] + b"\x01"
    altered = [
        record._replace(payload=other),
        record._replace(payload=other, payload_digest=hashlib.sha256(other).digest()),
        record._replace(chain=bytes(32)),
        record._replace(header_bytes=record.header_bytes + make_header(RUN, 3).SerializeToString()),
    ]
    for each in altered:
        assert "corrupt" in found(StoreCheck(ROW_BYTES, Problems()), Altered(store, {5: each}, store.counters()))


def test_the_check_notices_a_log_that_was_rewritten(store: LmdbStore, tmp_path: Path) -> None:
    check = StoreCheck(ROW_BYTES, Problems())
    assert found(check, store) == set()
    other = LmdbStore(tmp_path / "other", StoreSettings(("steps", "value")))
    append(other, range(0, 10))
    append(other, range(10, 30))
    assert found(check, other) == set()  # the same records in the same order are the same log
    other.close()
    other = LmdbStore(tmp_path / "another", StoreSettings(("steps", "value")))
    append(other, range(1, 30))
    append(other, range(1))
    assert "corrupt" in found(check, other, 30)
    other.close()


def test_the_check_notices_wrong_counters_and_lost_marks(store: LmdbStore) -> None:
    counters = store.counters()
    for wrong in (
        dataclasses.replace(counters, appended_steps=1),
        dataclasses.replace(counters, payload_bytes=1),
        dataclasses.replace(counters, signal_totals={"steps": 1.0}),
        dataclasses.replace(counters, chain_head=bytes(32)),
    ):
        assert found(StoreCheck(ROW_BYTES, Problems()), Altered(store, {}, wrong)) == {"inconsistent"}
    marking = Marking("unix:nobody", 0, None, Problems())
    marking.marks[3] = 1.0
    assert found(StoreCheck(ROW_BYTES, Problems()), store, marking=marking) == {"lost"}
    store.annotate({3: {"mark": 1.0}})
    assert found(StoreCheck(ROW_BYTES, Problems()), store, marking=marking) == set()
    marking.quarantined.add(4)
    assert found(StoreCheck(ROW_BYTES, Problems()), store, marking=marking) == {"lost"}
