"""Where imports go: a store's directory and a running service, exactly once, whatever was there before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from protos.common.v1 import common_pb2
from replay.client import ReplayClient, ReplayRefused, ReplayUnavailable
from replay.config import ReplayConfig
from replay.exchange import intake
from replay.exchange.errors import ImportRefused
from replay.exchange.intake import ImportedRecord, import_records
from replay.exchange.service_sink import ServiceSink
from replay.exchange.sink import Appended, RecordSink, RunRecords, StoreSink
from replay.lmdb_store import LmdbStore
from replay.memory_store import MemoryStore
from replay.offline import OfflineSource
from replay.store import SEQUENCE_LEAD_MAX, StoreSettings
from replay.testing import make_origin, make_record, serving

Opened = Callable[[], AbstractContextManager[RecordSink]]


@contextmanager
def store_sink() -> Iterator[RecordSink]:
    sink = StoreSink(MemoryStore(StoreSettings()))
    yield sink
    sink.close()


@contextmanager
def service_sink() -> Iterator[RecordSink]:
    with serving() as address:
        sink = ServiceSink(address)
        yield sink
        sink.close()


SINKS = pytest.mark.parametrize("opened", [store_sink, service_sink])


def run_of(sequences: range | list[int], run_id: str = "run-0") -> RunRecords:
    origin = make_origin(run_id=run_id)
    return RunRecords(origin, [make_record(origin, sequence) for sequence in sequences])


def imported(*runs: RunRecords) -> Iterator[ImportedRecord]:
    for run in runs:
        for record in run.records:
            yield ImportedRecord(run.origin, record)


@SINKS
def test_records_are_new_once(opened: Opened) -> None:
    with opened() as sink:
        assert sink.append([run_of(range(5)), run_of(range(3), "run-1")]) == Appended(8, 0)
        assert sink.append([run_of(range(5)), run_of(range(3), "run-1")]) == Appended(0, 8)
        assert sink.append([run_of(range(3, 9))]) == Appended(4, 2)


@SINKS
def test_gaps_may_be_filled_later(opened: Opened) -> None:
    with opened() as sink:
        assert sink.append([run_of([2, 5, 6])]) == Appended(3, 0)
        assert sink.append([run_of(range(8))]) == Appended(5, 3)


@SINKS
def test_an_import_that_was_interrupted_goes_on(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GROUP_RECORDS_MAX", 4)

    def interrupted() -> Iterator[ImportedRecord]:
        for index, each in enumerate(imported(run_of(range(10)))):
            if index == 6:
                raise KeyboardInterrupt
            yield each

    with opened() as sink:
        with pytest.raises(KeyboardInterrupt):
            import_records(interrupted(), sink)
        summary = import_records(imported(run_of(range(10))), sink)
    assert (summary.records, summary.steps, summary.inserted) == (10, 20, 6)


@SINKS
def test_runs_may_be_interleaved_and_out_of_order(opened: Opened) -> None:
    one, two = list(imported(run_of(range(6)))), list(imported(run_of(range(6), "run-1")))
    mixed = [each for pair in zip(one, reversed(two), strict=True) for each in pair]
    with opened() as sink:
        assert import_records(mixed, sink).inserted == 12
        assert import_records(mixed, sink).inserted == 0


def test_a_record_that_breaks_the_contract_is_refused_by_a_store() -> None:
    run = run_of(range(3))
    run.records[1].header.payload_digest = bytes(32)
    with store_sink() as sink, pytest.raises(ImportRefused, match="sequence 1: payload has digest"):
        sink.append([run])


def test_a_record_that_breaks_the_contract_is_refused_by_a_service() -> None:
    run = run_of(range(3))
    run.records[1].header.payload_digest = bytes(32)
    with service_sink() as sink, pytest.raises(ReplayRefused, match="sequence 1: payload has digest"):
        sink.append([run])


def test_a_run_whose_beginning_was_evicted_is_taken_by_a_store(tmp_path: Path) -> None:
    """As it comes from a store that keeps only the newest."""
    far = 10 * SEQUENCE_LEAD_MAX
    sink = StoreSink(LmdbStore(tmp_path, StoreSettings(durability="async")))
    assert sink.append([run_of(range(far, far + 3))]) == Appended(3, 0)
    assert sink.append([run_of([far - 5, far - 4])]) == Appended(2, 0)
    assert sink.append([run_of(range(far - 5, far + 3))]) == Appended(3, 5)
    sink.close()
    with OfflineSource(tmp_path) as source:
        assert [record.header.sequence - far for record in source.records()] == [0, 1, 2, -5, -4, -3, -2, -1]


def test_a_store_that_promises_to_lose_nothing_takes_no_run_without_its_beginning() -> None:
    sink = StoreSink(MemoryStore(StoreSettings()))
    with pytest.raises(ImportRefused, match="ahead of the next expected, 0"):
        sink.append([run_of([10 * SEQUENCE_LEAD_MAX])])


def test_a_service_keeps_what_it_has_and_says_why_it_refuses() -> None:
    with serving() as address:
        sink = ServiceSink(address)
        with pytest.raises(ReplayRefused, match="ahead of the next expected, 0"):
            sink.append([run_of([10 * SEQUENCE_LEAD_MAX])])
        assert sink.append([run_of(range(2))]) == Appended(2, 0)
        sink.close()
        with ReplayClient(address) as client:
            assert client.stats().records == 2


def test_messages_keep_to_the_window_of_the_service() -> None:
    with serving(ReplayConfig(store="memory", window_records=2, window_bytes=150)) as address:
        sink = ServiceSink(address)
        assert sink.append([run_of(range(9))]) == Appended(9, 0)
        sink.close()


def test_a_service_whose_limiter_holds_inserts_back_is_not_waited_for_forever() -> None:
    with serving(ReplayConfig(store="memory", fresh_unconsumed_max=4)) as address:
        sink = ServiceSink(address, timeout_s=0.5)
        with pytest.raises(ReplayUnavailable, match="a limiter holds appends back"):
            sink.append([run_of(range(50))])
        sink.close()


def test_nobody_there_is_said(socket: str) -> None:
    sink = ServiceSink(socket, timeout_s=2.0)
    with pytest.raises(ReplayUnavailable, match="UNAVAILABLE"):
        sink.append([run_of(range(2))])
    sink.close()


def test_a_group_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting:
        def append(self, runs: Sequence[RunRecords]) -> Appended:
            sizes.append(sum(len(run.records) for run in runs))
            return Appended(sizes[-1], 0)

        def close(self) -> None: ...

    run = run_of(range(10))
    monkeypatch.setattr(intake, "GROUP_BYTES_MAX", 3 * len(run.records[0].payload))
    import_records(imported(run), Counting())
    monkeypatch.setattr(intake, "GROUP_RECORDS_MAX", 2)
    import_records(imported(run), Counting())
    assert sizes == [3, 3, 3, 1] + [2] * 5


def test_origins_of_one_run_are_kept_apart() -> None:
    """A run may have had a second origin, as with another configuration after a restart under the same id."""
    first, second = make_origin(), make_origin()
    second.source_revision = "other"
    records = [ImportedRecord(first, make_record(first, 0)), ImportedRecord(second, make_record(second, 1))]
    store = MemoryStore(StoreSettings())
    assert import_records(records, StoreSink(store)).inserted == 2
    found = [store.origin(record.origin_id) for record in store.read([0, 1])]
    assert found == [first, second] != [first, common_pb2.Origin()]
