"""Services whose store fails or is damaged, or whose client lies: a status with a reason, and the others are served."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest
from pyroaring import BitMap64

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.memory_store import MemoryStore
from replay.service import DRAWS_AHEAD
from replay.store import (
    Append,
    AppendOutcome,
    StoreCorrupt,
    StoredRecord,
    StoreError,
    StoreFull,
)
from replay.table_spec import parse_spec
from replay.testing import make_origin, make_record, serving
from replay.writer import CommitterClosed
from tests.replay.storing import append, flip, opened, segment_paths

CONFIG = ReplayConfig(store="memory", fresh_unconsumed_max=1000)
TIMEOUT_S = 10.0


class FailingStore(MemoryStore):
    """Does nothing more once it has an error to raise."""

    error: StoreError | None = None

    def commit(
        self, appends: Sequence[Append], tables: Mapping[str, replay_pb2.TableState], *, retain_from: int = 0
    ) -> list[AppendOutcome]:
        self._fail()
        return super().commit(appends, tables, retain_from=retain_from)

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        self._fail()
        return super().read(positions)

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        self._fail()
        return super().read_headers(positions)

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        self._fail()
        return super().annotate(signals)

    def quarantine(self, entry: replay_pb2.QuarantineEntry, positions: BitMap64) -> replay_pb2.QuarantineEntry:
        self._fail()
        return super().quarantine(entry, positions)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def _requests(
    sequences: range, origin: common_pb2.Origin | None = None, acknowledged_below: int = 0
) -> Iterator[replay_pb2.AppendRequest]:
    origin = origin or make_origin()
    yield replay_pb2.AppendRequest(open=origin, acknowledged_below=acknowledged_below)
    if sequences:
        records = [make_record(origin, sequence) for sequence in sequences]
        yield replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=records))


@contextlib.contextmanager
def _stub(address: str) -> Iterator[replay_pb2_grpc.ReplayStub]:
    with transport.channel(address) as channel:
        yield replay_pb2_grpc.ReplayStub(channel)


def _annotate(stub: replay_pb2_grpc.ReplayStub) -> object:
    annotation = replay_pb2.Annotation(position=0, signals={"x": 1.0})
    return stub.Annotate(replay_pb2.AnnotateRequest(annotations=[annotation]), timeout=TIMEOUT_S)


def _sample(stub: replay_pb2_grpc.ReplayStub) -> object:
    return list(stub.Sample(iter([replay_pb2.SampleRequest(table="fresh", batch_size=1)]), timeout=TIMEOUT_S))


CALLS: dict[str, Callable[[replay_pb2_grpc.ReplayStub], object]] = {
    "Append": lambda stub: list(stub.Append(_requests(range(8, 10)), timeout=TIMEOUT_S)),
    "Sample": _sample,
    "List": lambda stub: list(stub.List(replay_pb2.ListRequest(with_payload=True), timeout=TIMEOUT_S)),
    "Annotate": _annotate,
    "Quarantine": lambda stub: stub.Quarantine(
        replay_pb2.QuarantineRequest(filter="steps > 0", why="doubt"), timeout=TIMEOUT_S
    ),
    "SetTable": lambda stub: stub.SetTable(
        replay_pb2.SetTableRequest(spec=parse_spec("uniform later")), timeout=TIMEOUT_S
    ),
}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreFull("no space on the disk"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (StoreCorrupt("the log is damaged"), grpc.StatusCode.DATA_LOSS),
        (CommitterClosed("shutting down"), grpc.StatusCode.UNAVAILABLE),
        (StoreError("the disk is on fire"), grpc.StatusCode.INTERNAL),
    ],
)
def test_each_failure_of_the_store_has_its_status_in_every_call(
    error: StoreError, code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.service.MemoryStore", FailingStore)
    monkeypatch.setattr(FailingStore, "error", None)
    with serving(CONFIG) as address, _stub(address) as stub:
        list(stub.Append(_requests(range(8)), timeout=TIMEOUT_S))
        monkeypatch.setattr(FailingStore, "error", error)
        for name, call in CALLS.items():
            with pytest.raises(grpc.RpcError) as failure:
                call(stub)
            assert (failure.value.code(), failure.value.details()) == (code, str(error)), name
        monkeypatch.setattr(FailingStore, "error", None)
        for call in CALLS.values():  # nothing is the worse for it
            call(stub)


def test_a_stop_is_told_to_streams_as_that() -> None:
    stopping: AbstractContextManager[str] = serving(CONFIG)
    with stopping as address, _stub(address) as stub:
        held = stub.Sample(iter([replay_pb2.SampleRequest(table="fresh", batch_size=1)]), timeout=TIMEOUT_S)
        while not stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S).tables[0].sample_wait_s:
            time.sleep(0.01)
    with pytest.raises(grpc.RpcError) as failure:
        next(held)
    assert failure.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("damage", ["header", "payload", "segment"])
def test_a_damaged_store_is_served_without_what_is_damaged(damage: str, tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 20)
        record = store.read([10])[0]
    data = segment_paths(tmp_path)[1] / "data.mdb"
    if damage == "segment":
        data.write_bytes(bytes(100_000))
    else:
        flip(data, record.header_bytes if damage == "header" else bytes(record.payload))
    lost = list(range(8, 16)) if damage == "segment" else [10]
    config = dataclasses.replace(CONFIG, store="lmdb", tables=("curated all filter='steps == 2'",))
    with serving(config, tmp_path) as address, ReplayClient(address) as client, _stub(address) as stub:
        left = [position for position in range(20) if position not in lost]
        assert [record.position for record in client.records(with_payload=True)] == left
        tables = {table.name: table.available for table in client.stats().tables}
        assert tables == {"fresh": len(left), "uniform": len(left), "all": len(left)}
        assert client.stats().damaged_records == len(lost)
        request = replay_pb2.SampleRequest(table="fresh", batch_size=len(left))
        drawn = stub.Sample(iter([request]), timeout=TIMEOUT_S)
        assert [position for response in drawn for position in response.records.positions] == left
        # A quarantine goes by headers.
        headers = range(20) if damage == "payload" else left
        assert list(client.quarantine("position < 12", "a test").positions) == [at for at in headers if at < 12]


def test_a_number_that_no_sequence_can_have_harms_nobody(tmp_path: Path) -> None:
    """What such a client says was acknowledged is believed of its run, and written down with everybody's records."""
    config = dataclasses.replace(CONFIG, store="lmdb", durability="async")
    largest = 2**64 - 1
    with serving(config, tmp_path) as address, _stub(address) as stub:
        liar = make_origin("liar")
        for below in (largest, largest - 10, 2**63 + 1):
            with pytest.raises(grpc.RpcError) as failure:
                list(stub.Append(_requests(range(below, largest + 1)[:1], liar, below), timeout=TIMEOUT_S))
            assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert f"acknowledged_below = {below}" in str(failure.value.details())
        believed = list(stub.Append(_requests(range(2**63, 2**63 + 2), liar, 2**63), timeout=TIMEOUT_S))
        assert list(believed[-1].acknowledged.sequences) == [2**63, 2**63 + 1]
        assert len(list(stub.Append(_requests(range(2)), timeout=TIMEOUT_S))) == 2


def _settled(value: Callable[[], int], least: int) -> int:
    """A number that grows, once it has come to so much and then not grown for some time."""
    deadline_s, before, quiet = time.monotonic() + 3 * TIMEOUT_S, -1, 0
    while quiet < 10:
        assert time.monotonic() < deadline_s
        time.sleep(0.03)
        now = value()
        quiet, before = quiet + 1 if now == before and now >= least else 0, now
    return before


@pytest.mark.parametrize(("batch_size", "ahead"), [(1, DRAWS_AHEAD), (12, 1)])
def test_a_client_that_never_reads_its_batches_gets_no_more_than_fit(batch_size: int, ahead: int) -> None:
    """A few draws, and no more bytes than one of the largest: both ends have room for that."""
    steps = 40_000  # 1 MB
    origin = make_origin(steps=steps)
    with serving(dataclasses.replace(CONFIG, sample_bytes_max=16 * 1024**2)) as address, _stub(address) as stub:
        for sequence in range(13):
            batch = replay_pb2.RecordBatch(records=[make_record(origin, sequence, steps=steps)])
            requests = [replay_pb2.AppendRequest(open=origin), replay_pb2.AppendRequest(batch=batch)]
            list(stub.Append(iter(requests), timeout=TIMEOUT_S))
        request = replay_pb2.SampleRequest(table="uniform", batch_size=batch_size)
        held = stub.Sample(iter([request] * 20), timeout=3 * TIMEOUT_S)

        def drawn() -> int:
            samples: int = stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S).tables[1].samples
            return samples

        on_the_way = 8 if batch_size == 1 else 0  # in the buffers of the connection
        assert _settled(drawn, batch_size * ahead) <= batch_size * (ahead + on_the_way)
        assert sum(len(response.records.positions) for response in held) == 20 * batch_size
