"""The service on a real socket, spoken to with the bare stub: messages, status codes, and what is stored after each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.config import ReplayConfig
from replay.packing import unpack
from replay.service import RESPONSE_BYTES_TARGET, SERVICE_NAME, serve
from replay.settings import SettingError
from replay.store import StoreBusy, StoreError
from replay.testing import make_columns, make_header, make_origin, make_record, serving

CONFIG = ReplayConfig(store="memory", fresh_unconsumed_max=100, window_records=50, window_bytes=12345)
DURABLE = dataclasses.replace(CONFIG, store="lmdb")
TIMEOUT_S = 10.0


@pytest.fixture
def address() -> Iterator[str]:
    with serving(CONFIG) as address:
        yield address


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with transport.channel(address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> replay_pb2_grpc.ReplayStub:
    return replay_pb2_grpc.ReplayStub(channel)


def _open(origin: common_pb2.Origin | None = None) -> replay_pb2.AppendRequest:
    return replay_pb2.AppendRequest(open=origin or make_origin())


def _batch(sequences: range, origin: common_pb2.Origin | None = None) -> replay_pb2.AppendRequest:
    origin = origin or make_origin()
    records = [make_record(origin, sequence) for sequence in sequences]
    return replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=records))


def _append(stub: replay_pb2_grpc.ReplayStub, *requests: replay_pb2.AppendRequest) -> list[replay_pb2.AppendResponse]:
    return list(stub.Append(iter(requests), timeout=TIMEOUT_S))


def _refusal(stub: replay_pb2_grpc.ReplayStub, *requests: replay_pb2.AppendRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        _append(stub, *requests)
    return error.value.code(), str(error.value.details())


def test_append_grants_then_acknowledges(stub: replay_pb2_grpc.ReplayStub) -> None:
    opened, first, second = _append(stub, _open(), _batch(range(3)), _batch(range(2, 5)))
    assert opened.opened == replay_pb2.AppendOpened(window_records=50, window_bytes=12345, next_sequence=0)
    assert first.acknowledged == replay_pb2.AppendAcknowledged(sequences=[0, 1, 2], duplicates=0)
    assert second.acknowledged == replay_pb2.AppendAcknowledged(sequences=[2, 3, 4], duplicates=1)
    (opened,) = _append(stub, _open())
    assert opened.opened.next_sequence == 5


def test_two_streams_of_one_run_store_each_record_once(stub: replay_pb2_grpc.ReplayStub) -> None:
    calls = [
        stub.Append(iter([_open(), _batch(range(20)), _batch(range(20, 40))]), timeout=TIMEOUT_S) for _ in range(2)
    ]
    duplicates = sum(response.acknowledged.duplicates for call in calls for response in call)
    stats = stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S)
    assert (stats.records, stats.duplicate_records, duplicates) == (40, 40, 40)


def test_the_header_and_payload_come_back_as_sent(stub: replay_pb2_grpc.ReplayStub) -> None:
    origin = make_origin()
    sent = [make_record(origin, sequence, signals={"return": sequence / 3}) for sequence in range(6)]
    _append(stub, _open(), replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=sent)))
    (response,) = stub.Sample(iter([replay_pb2.SampleRequest(table="fresh", batch_size=6)]), timeout=TIMEOUT_S)
    assert response.end_of_batch
    came = list(unpack(response.records))
    assert [(common_pb2.RecordHeader.FromString(record.header), bytes(record.payload)) for record in came] == [
        (one.header, one.payload) for one in sent
    ]
    assert list(response.probabilities) == [1.0] * 6
    assert response.available == 6
    assert {response.origins[record.origin_id].actor_id for record in came} == {origin.actor_id}


def test_keys_come_without_records(stub: replay_pb2_grpc.ReplayStub) -> None:
    _append(stub, _open(), _batch(range(6)))
    request = replay_pb2.SampleRequest(table="fresh", batch_size=4, keys_only=True)
    first, second = stub.Sample(
        iter([request, replay_pb2.SampleRequest(table="fresh", batch_size=2)]), timeout=TIMEOUT_S
    )
    assert list(first.records.positions) == [0, 1, 2, 3]
    assert first.end_of_batch
    assert not first.records.headers
    assert not first.records.payloads
    assert list(second.records.positions) == [4, 5]  # keys count as drawn, as records do


def test_one_request_may_ask_for_several_batches(stub: replay_pb2_grpc.ReplayStub) -> None:
    assert stub.Locate(replay_pb2.LocateRequest(), timeout=TIMEOUT_S).takes_batches
    _append(stub, _open(), _batch(range(10)))
    requests = [
        replay_pb2.SampleRequest(table="fresh", batch_size=2, keys_only=True, batches=3),
        replay_pb2.SampleRequest(table="fresh", batch_size=4),
    ]
    responses = list(stub.Sample(iter(requests), timeout=TIMEOUT_S))
    positions = [list(response.records.positions) for response in responses]
    assert positions == [[0, 1], [2, 3], [4, 5], [6, 7, 8, 9]]
    assert all(response.end_of_batch for response in responses)


def test_origins_are_sent_once_a_stream_and_large_batches_in_pieces(stub: replay_pb2_grpc.ReplayStub) -> None:
    origin = make_origin(columns=make_columns(steps=10_000), steps=10_000)  # 250 kB a record
    records = [make_record(origin, sequence, steps=10_000) for sequence in range(6)]
    for record in records:
        batch = replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=[record]))
        _append(stub, _open(origin), batch)
    requests = [replay_pb2.SampleRequest(table="uniform", batch_size=6)] * 2
    responses = list(stub.Sample(iter(requests), timeout=TIMEOUT_S))
    assert [response.end_of_batch for response in responses] == [False, True] * 2
    assert [len(response.records.positions) for response in responses] == [3, 3] * 2
    assert [len(response.origins) for response in responses] == [1, 0, 0, 0]
    assert {each for response in responses for each in response.probabilities} == {1 / 6}


def test_requests_sent_ahead_are_answered_in_order(stub: replay_pb2_grpc.ReplayStub) -> None:
    _append(stub, _open(), _batch(range(40)))
    requests = [replay_pb2.SampleRequest(table="fresh", batch_size=size) for size in (1, 7, 2, 30)]
    responses = stub.Sample(iter(requests), timeout=TIMEOUT_S)
    positions = [list(response.records.positions) for response in responses]
    assert positions == [[0], list(range(1, 8)), [8, 9], list(range(10, 40))]


def _truncated() -> replay_pb2.AppendRequest:
    request = _batch(range(3))
    request.batch.records[1].payload = request.batch.records[1].payload[:-1]
    return request


def _flipped() -> replay_pb2.AppendRequest:
    request = _batch(range(3))
    request.batch.records[2].payload = b"\xff" * len(request.batch.records[2].payload)
    return request


def _oversize() -> replay_pb2.AppendRequest:
    request = _batch(range(1))
    request.batch.records[0].header.steps = 4_000_000
    return request


def _forged() -> common_pb2.Origin:
    origin = make_origin()
    origin.actor_id = "../etc"
    return origin


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([_open(), _truncated()], "payload has"),
        ([_open(), _flipped()], "altered on the way"),
        ([_open(), _oversize()], "at most 16777216"),
        ([_open(), replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch())], "at least one"),
        ([_open(), _open()], "carries batches only"),
        ([_open(_forged())], "actor_id = '../etc' must match"),
        ([_batch(range(1))], "must begin with `open`"),
        ([], "must begin with `open`"),
        ([_open(), _batch(range(100_000, 100_001))], "ahead of the next expected"),
    ],
)
def test_what_breaks_the_contract_is_refused_whole(
    stub: replay_pb2_grpc.ReplayStub, requests: list[replay_pb2.AppendRequest], message: str
) -> None:
    code, details = _refusal(stub, *requests)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message in details
    assert "\n" not in details
    assert stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S).appended_records == 0


def test_batches_before_a_refused_one_stay_acknowledged(stub: replay_pb2_grpc.ReplayStub) -> None:
    acknowledged: list[int] = []
    with pytest.raises(grpc.RpcError) as error:
        for response in stub.Append(iter([_open(), _batch(range(3, 6)), _truncated()]), timeout=TIMEOUT_S):
            acknowledged += response.acknowledged.sequences
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert acknowledged == [3, 4, 5]
    stats = stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S)
    assert (stats.appended_records, stats.refused_records) == (3, 3)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        b"\x0a\xff\xff\xff\xff\x0f",
        bytes(range(256)),
        _batch(range(3, 6)).SerializeToString()[:-1],
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_on_the_wire_is_refused_and_what_came_before_it_stays(channel: grpc.Channel, garbage: bytes) -> None:
    append: Any = channel.stream_stream(f"/{SERVICE_NAME}/Append", None, replay_pb2.AppendResponse.FromString)
    good = [_open().SerializeToString(), _batch(range(3)).SerializeToString()]
    for before in (0, 1, 2):
        answered = 0
        with pytest.raises(grpc.RpcError) as error:
            for _ in append(iter([*good[:before], garbage, *good[before:]]), timeout=TIMEOUT_S):
                answered += 1
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "nothing of that message was stored" in str(error.value.details())
        assert answered == before
    stub = replay_pb2_grpc.ReplayStub(channel)
    assert stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S).appended_records == 3
    assert len(_append(stub, _open(), _batch(range(3, 5)))) == 2


def test_a_sample_request_that_cannot_be_read_is_refused(channel: grpc.Channel) -> None:
    sample: Any = channel.stream_stream(f"/{SERVICE_NAME}/Sample", None, None)
    with pytest.raises(grpc.RpcError) as error:
        list(sample(iter([b"\xff" * 100]), timeout=TIMEOUT_S))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_large_origins_count_towards_the_size_of_a_response(stub: replay_pb2_grpc.ReplayStub) -> None:
    columns = {f"{index:03}".ljust(100, "x"): np.zeros(2, np.uint8) for index in range(256)}
    for actor in range(24):  # 28 kB of schema each, and half a kB of payload
        origin = make_origin(f"actor-{actor}", columns=columns)
        payload = bytes(512)
        header = make_header()
        header.payload_digest = hashlib.sha256(payload).digest()
        batch = replay_pb2.RecordBatch(records=[common_pb2.Record(header=header, payload=payload)])
        _append(stub, _open(origin), replay_pb2.AppendRequest(batch=batch))
    request = replay_pb2.SampleRequest(table="fresh", batch_size=24)
    responses = list(stub.Sample(iter([request]), timeout=TIMEOUT_S))
    assert len(responses) == 2
    assert all(response.ByteSize() < 1.2 * RESPONSE_BYTES_TARGET for response in responses)
    assert sum(len(response.origins) for response in responses) == 24


def test_cancelled_streams_leave_no_room_taken() -> None:
    """Whatever a stream was doing when it was cut off, in the end as many records are let in as if it had not been."""
    config = dataclasses.replace(CONFIG, fresh_unconsumed_max=10, window_records=20, pending_bytes_max=8000)
    generator = random.Random(0)
    with serving(config) as address, transport.channel(address) as channel:
        stub = replay_pb2_grpc.ReplayStub(channel)
        for run in range(40):
            origin = make_origin(run_id=f"cut-{run}")
            batches = [_batch(range(start, start + 7), origin) for start in range(0, 35, 7)]
            cut = stub.Append(iter([_open(origin), *batches]), timeout=TIMEOUT_S)
            draw = stub.Sample(iter([replay_pb2.SampleRequest(table="fresh", batch_size=4)] * 2), timeout=TIMEOUT_S)
            time.sleep(generator.uniform(0.0, 0.01))
            cut.cancel()
            draw.cancel()
        _drain(stub)
        assert len(_append(stub, _open(), _batch(range(10)))) == 2


def _drain(stub: replay_pb2_grpc.ReplayStub) -> None:
    """Draws from `fresh` until no stream is left that could append more, and nothing more comes."""
    deadline_s, quiet = time.monotonic() + 3 * TIMEOUT_S, 0
    while quiet < 5:
        assert time.monotonic() < deadline_s
        stats = stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S)
        if stats.tables[0].available:
            drawing = replay_pb2.SampleRequest(table="fresh", batch_size=1)
            with contextlib.suppress(grpc.RpcError):  # a draw that was cut off before may have been ahead of this one
                list(stub.Sample(iter([drawing]), timeout=1.0))
        quiet = 0 if stats.append_streams or stats.tables[0].available else quiet + 1
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("table", "count", "code", "message"),
    [
        ("recent", 1, grpc.StatusCode.NOT_FOUND, "no table 'recent'; there are: fresh, uniform"),
        ("fresh", 0, grpc.StatusCode.INVALID_ARGUMENT, "batch_size = 0"),
        ("fresh", 101, grpc.StatusCode.INVALID_ARGUMENT, "must be 1 to 100"),
    ],
)
def test_draws_that_can_never_be_are_refused(
    stub: replay_pb2_grpc.ReplayStub, table: str, count: int, code: grpc.StatusCode, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        list(stub.Sample(iter([replay_pb2.SampleRequest(table=table, batch_size=count)]), timeout=TIMEOUT_S))
    assert error.value.code() == code
    assert message in str(error.value.details())


def test_too_many_streams_are_refused() -> None:
    with (
        serving(dataclasses.replace(CONFIG, append_streams_max=1)) as address,
        transport.channel(address) as channel,
    ):
        stub = replay_pb2_grpc.ReplayStub(channel)
        held = stub.Append(iter([_open(), _batch(range(50)), _batch(range(50, 100)), _batch(range(100, 120))]))
        assert next(held).opened.window_records == 50
        assert _refusal(stub, _open())[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        held.cancel()


def test_too_many_lists_are_refused_and_those_that_ended_do_not_count() -> None:
    with serving(dataclasses.replace(CONFIG, list_streams_max=1)) as address, transport.channel(address) as channel:
        stub = replay_pb2_grpc.ReplayStub(channel)
        origin = make_origin(columns=make_columns(steps=40_000), steps=40_000)  # 1 MB a record
        for sequence in range(12):
            batch = replay_pb2.RecordBatch(records=[make_record(origin, sequence, steps=40_000)])
            _append(stub, _open(origin), replay_pb2.AppendRequest(batch=batch))
        request = replay_pb2.ListRequest(with_payload=True)
        for _ in range(3):
            held = stub.List(request, timeout=TIMEOUT_S)
            next(held)  # and no more: it stays open
            with pytest.raises(grpc.RpcError) as error:
                list(stub.List(request, timeout=TIMEOUT_S))
            assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "list_streams_max" in str(error.value.details())
            held.cancel()
            deadline_s = time.monotonic() + TIMEOUT_S
            while True:
                with contextlib.suppress(grpc.RpcError):
                    assert sum(len(response.records.positions) for response in stub.List(request)) == 12
                    break
                assert time.monotonic() < deadline_s


def test_an_append_is_acknowledged_only_once_the_limiter_lets_it_in(stub: replay_pb2_grpc.ReplayStub) -> None:
    batches = [_batch(range(start, start + 40)) for start in (0, 40, 80)]
    responses = stub.Append(iter([_open(), *batches]), timeout=TIMEOUT_S)
    acknowledged = [len(next(responses).acknowledged.sequences) for _ in range(3)]
    assert acknowledged == [0, 40, 40]
    assert stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S).append_streams == 1
    list(stub.Sample(iter([replay_pb2.SampleRequest(table="fresh", batch_size=30)]), timeout=TIMEOUT_S))
    assert list(next(responses).acknowledged.sequences) == list(range(80, 120))
    assert list(responses) == []


def test_list_streams_headers_or_whole_records(stub: replay_pb2_grpc.ReplayStub) -> None:
    _append(stub, _open(), _batch(range(40)))
    bare = list(stub.List(replay_pb2.ListRequest(from_position=35), timeout=TIMEOUT_S))
    assert [(one.position, bytes(one.payload)) for part in bare for one in unpack(part.records)] == [
        (at, b"") for at in range(35, 40)
    ]
    assert bare[-1].next_position == 40
    whole = list(stub.List(replay_pb2.ListRequest(limit=3, with_payload=True), timeout=TIMEOUT_S))
    assert [bytes(one.payload) for part in whole for one in unpack(part.records)] == [
        make_record(make_origin(), at).payload for at in range(3)
    ]
    assert whole[-1].next_position == 3
    chosen = stub.List(replay_pb2.ListRequest(positions=[3, 7, 100], filter="sequence > 4"), timeout=TIMEOUT_S)
    assert [position for part in chosen for position in part.records.positions] == [7]


@pytest.mark.parametrize(
    ("call", "request_", "code", "message"),
    [
        ("List", replay_pb2.ListRequest(filter="stepz > 1"), "INVALID_ARGUMENT", "stepz"),
        ("List", replay_pb2.ListRequest(positions=[2, 1]), "INVALID_ARGUMENT", "do not ascend"),
        ("Quarantine", replay_pb2.QuarantineRequest(filter="steps > 0"), "INVALID_ARGUMENT", "say why"),
        ("Quarantine", replay_pb2.QuarantineRequest(why="doubt"), "INVALID_ARGUMENT", "needs a filter"),
        ("Quarantine", replay_pb2.QuarantineRequest(lift=3, why="doubt"), "INVALID_ARGUMENT", "in force are: none"),
        ("UpdatePriorities", replay_pb2.UpdatePrioritiesRequest(table="per"), "NOT_FOUND", "there are: fresh, uniform"),
        ("UpdatePriorities", replay_pb2.UpdatePrioritiesRequest(table="uniform"), "INVALID_ARGUMENT", "is uniform"),
        (
            "Annotate",
            replay_pb2.AnnotateRequest(annotations=[replay_pb2.Annotation(position=1, signals={"x": float("nan")})]),
            "INVALID_ARGUMENT",
            "must be finite",
        ),
        (
            "Annotate",
            replay_pb2.AnnotateRequest(
                annotations=[replay_pb2.Annotation(position=1, signals={str(name): 1.0 for name in range(101)})]
            ),
            "INVALID_ARGUMENT",
            "101 signals of position 1 in one request, at most 100",
        ),
        (
            "SetTable",
            replay_pb2.SetTableRequest(spec=replay_pb2.TableSpec(name="x", kind="lifo", min_size=1)),
            "INVALID_ARGUMENT",
            "lifo",
        ),
    ],
)
def test_bad_requests_get_a_status_and_one_line(
    stub: replay_pb2_grpc.ReplayStub, call: str, request_: Any, code: str, message: str
) -> None:
    _append(stub, _open(), _batch(range(3)))
    with pytest.raises(grpc.RpcError) as error:
        answer = getattr(stub, call)(request_, timeout=TIMEOUT_S)
        list(answer)
    assert error.value.code().name == code
    assert message in str(error.value.details())
    assert "\n" not in str(error.value.details())


def test_stats_tell_all(stub: replay_pb2_grpc.ReplayStub) -> None:
    _append(stub, _open(), _batch(range(40)))
    list(stub.Sample(iter([replay_pb2.SampleRequest(table="fresh", batch_size=10)]), timeout=TIMEOUT_S))
    stats = stub.Stats(replay_pb2.StatsRequest(), timeout=TIMEOUT_S)
    assert (stats.records, stats.appended_steps, stats.commits) == (40, 80, 3)
    assert stats.signal_totals["steps"] == 80.0
    assert stats.signal_totals["return"] == 0.0
    assert len(stats.chain_head) == 32
    fresh, uniform = stats.tables
    assert (fresh.name, fresh.kind, fresh.available, fresh.inserts, fresh.samples) == ("fresh", "fresh", 30, 40, 10)
    assert (fresh.samples_per_insert, fresh.min_diff, fresh.max_diff) == (1.0, 0.0, 100.0)
    assert (uniform.name, uniform.available, uniform.samples) == ("uniform", 40, 0)


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE_NAME):
        status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S)
    assert SERVICE_NAME in [service.name for service in answer.list_services_response.service]


def test_tcp_with_any_port() -> None:
    async def scenario(bound: list[str]) -> int:
        stop = asyncio.Event()

        def ready(address: str) -> None:
            bound.append(address)

        service = asyncio.create_task(serve(CONFIG, Path("unused"), "127.0.0.1:0", on_ready=ready, stop=stop))
        while not bound:
            await asyncio.sleep(0.01)
        async with transport.aio_channel(bound[0]) as channel:
            stats = await replay_pb2_grpc.ReplayStub(channel).Stats(replay_pb2.StatsRequest())
        stop.set()
        await service
        records: int = stats.records
        return records

    bound: list[str] = []
    assert asyncio.run(scenario(bound)) == 0
    assert bound[0].startswith("127.0.0.1:")
    assert not bound[0].endswith(":0")


def test_what_keeps_a_service_from_starting_is_raised(tmp_path: Path, address: str) -> None:
    async def start(config: ReplayConfig, at: str) -> None:
        await serve(config, tmp_path, at, on_ready=lambda _: None, stop=asyncio.Event())

    with pytest.raises(transport.AddressError, match="already bound"):
        asyncio.run(start(CONFIG, address))
    with pytest.raises(SettingError):
        asyncio.run(start(dataclasses.replace(CONFIG, commit_records_max=0), "127.0.0.1:0"))
    with serving(DURABLE, tmp_path), pytest.raises(StoreBusy):
        asyncio.run(start(DURABLE, "127.0.0.1:0"))
    with serving(DURABLE, tmp_path) as again:  # the directory was let go each time
        assert again.startswith("unix:")


def test_a_missing_lmdb_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for name, module in list(sys.modules.items()):
        if name == "replay.lmdb_store" or (name.startswith("replay.") and hasattr(module, "lmdb")):
            monkeypatch.delitem(sys.modules, name)
    with (
        pytest.raises(StoreError, match=r"needs the module lmdb: install it with pip install 'temper\[replay\]'"),
        serving(dataclasses.replace(CONFIG, store="lmdb"), tmp_path),
    ):
        pass
