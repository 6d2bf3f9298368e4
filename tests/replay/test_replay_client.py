"""The clients against a real service: exactly-once across breaks and restarts, bounded waits, no thread left behind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from protos import transport
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client import (
    ReplayClient,
    ReplayRefused,
    ReplaySampler,
    ReplayUnavailable,
    ReplayWriter,
    SampleTimeout,
)
from replay.client_append import _JOIN_S as JOIN_S
from replay.client_append import MESSAGE_BYTES_TARGET
from replay.client_errors import Backoff
from replay.config import ReplayConfig
from replay.provenance import HEADER_BYTES_MAX
from replay.schema import PAYLOAD_BYTES_MAX, PayloadLayout, SchemaError
from replay.testing import make_columns, make_header, make_origin, serving
from tests.replay.writing import append, writer_to

pytestmark = pytest.mark.usefixtures("no_thread_left_behind")

CONFIG = ReplayConfig(store="memory", fresh_unconsumed_max=100_000)


@pytest.fixture
def address() -> Iterator[str]:
    with serving(CONFIG) as address:
        yield address


def test_what_is_appended_is_listed_and_sampled(address: str) -> None:
    layout = PayloadLayout(make_origin().schema)
    columns = [make_columns(seed=seed) for seed in range(8)]
    headers = [make_header(policy_version=seed) for seed in range(8)]
    with writer_to(address) as writer:
        writer.append(headers, [layout.encode(each) for each in columns], 10.0)
        assert writer.flush(10.0)
        statistics = writer.statistics
    assert statistics.acknowledged == 8
    assert statistics.unacknowledged == statistics.duplicates == statistics.resent == statistics.reconnects == 0
    assert [header.sequence for header in headers] == list(range(8))
    with ReplayClient(address) as client:
        listed = list(client.records(from_position=2, limit=3, with_payload=True))
        assert client.stats(5.0).appended_records == 8
    assert [record.position for record in listed] == [2, 3, 4]
    assert [record.header for record in listed] == headers[2:5]
    assert listed[0].origin == make_origin()
    assert listed[0].payload == layout.encode(columns[2])
    with ReplaySampler(address, "fresh", 4) as sampler:
        for start in (0, 4):
            batch = sampler.next(10.0)
            assert batch.positions.tolist() == list(range(start, start + 4))
            assert batch.headers == headers[start : start + 4]
            assert batch.origins == [make_origin()] * 4
            assert batch.probabilities.tolist() == [1.0] * 4
            for name, array in batch.columns.items():
                expected = np.stack([each[name] for each in columns[start : start + 4]], axis=1)
                np.testing.assert_array_equal(array, expected)
        with pytest.raises(SampleTimeout, match="no batch of 'fresh'"):
            sampler.next(0.05)
        assert sampler.waiting_s >= 0.05


def test_a_timeout_loses_no_batch(address: str) -> None:
    with ReplaySampler(address, "fresh", 4) as sampler, writer_to(address) as writer:
        with pytest.raises(SampleTimeout):
            sampler.next(0.2)
        append(writer, 12)
        drawn = [sampler.next(10.0).positions.tolist() for _ in range(3)]
    assert drawn == [list(range(start, start + 4)) for start in (0, 4, 8)]


def test_a_full_window_holds_the_writer_and_queues_nothing() -> None:
    with serving(dataclasses.replace(CONFIG, fresh_unconsumed_max=10)) as address:
        writer = writer_to(address, window_records=20)
        append(writer, 20)
        with pytest.raises(ReplayUnavailable, match=r"left \d+ records unacknowledged .* s: nothing was queued"):
            append(writer, 15, timeout_s=0.3)
        assert writer.statistics.unacknowledged <= 20
        assert writer.statistics.waiting_s >= 0.3
        with ReplaySampler(address, "fresh", 10) as sampler:
            append(writer, 15, timeout_s=10.0)
            seen = [sampler.next(10.0).headers for _ in range(3)]
        assert [header.sequence for headers in seen for header in headers] == list(range(30))
        writer.close(0.1)


def test_a_granted_window_smaller_than_one_append_still_passes() -> None:
    with serving(dataclasses.replace(CONFIG, window_records=3)) as address, writer_to(address) as writer:
        for _ in range(3):
            append(writer, 10)
        assert writer.flush(10.0)
        assert writer.statistics.acknowledged == 30


def test_impossible_appends_are_programming_errors(address: str) -> None:
    with writer_to(address, window_records=5) as writer:
        for headers, payloads in (
            ([make_header()] * 6, [b""] * 6),
            ([make_header()], []),
            ([make_header()], [b"x" * 2**21]),
        ):
            with pytest.raises(ValueError, match="nothing was queued"):
                writer.append(headers, payloads, 1.0)
    with (
        ReplayWriter(address, make_origin(), window_records=5, window_bytes=2**30) as writer,
        pytest.raises(
            ValueError, match=f"a payload has {PAYLOAD_BYTES_MAX + 1} bytes, the limit is {PAYLOAD_BYTES_MAX}"
        ),
    ):
        writer.append([make_header()], [bytes(PAYLOAD_BYTES_MAX + 1)], 1.0)


def test_what_cannot_be_serialized_leaves_no_gap(address: str) -> None:
    payload = PayloadLayout(make_origin().schema).encode(make_columns())
    mistaken: list[Any] = [payload, memoryview(payload)]
    with writer_to(address) as writer, ReplayClient(address) as client:
        append(writer, 2)
        with pytest.raises(TypeError):
            writer.append([make_header(), make_header()], mistaken, 1.0)
        append(writer, 2)
        assert writer.flush(10.0)
        assert [record.header.sequence for record in client.records()] == [0, 1, 2, 3]


def test_the_largest_headers_still_fit_a_message(address: str) -> None:
    """Records of one byte: their number is bounded too, or the headers would outgrow the message."""
    columns = {"mask": np.ones(1, np.bool_)}
    header = make_header(1, signals={f"{index:03}".ljust(250, "x"): 1.0 for index in range(240)})
    assert 60_000 < header.ByteSize() < HEADER_BYTES_MAX
    headers = [make_header(1) for _ in range(1000)]
    for each in headers:
        each.CopyFrom(header)
    with ReplayWriter(
        address, make_origin(columns=columns, steps=1), window_records=1000, window_bytes=2**20
    ) as writer:
        writer.append(headers, [b"\1"] * len(headers), 10.0)
        assert writer.flush(30.0)


def test_batches_larger_than_a_message(address: str) -> None:
    """Four stacked frames of 84x84 over 20 steps, 64 of them: 38 MB."""
    columns: dict[str, NDArray[Any]] = {
        "observation": np.zeros((21, 84, 84, 4), np.uint8),
        "action": np.zeros(20, np.int32),
    }
    origin = make_origin(columns=columns, steps=20)
    payload = PayloadLayout(origin.schema).encode(columns)
    assert 64 * len(payload) > transport.MESSAGE_BYTES_MAX
    with ReplayWriter(address, origin, window_records=16, window_bytes=2**24) as writer:
        for _ in range(4):
            writer.append([make_header(20) for _ in range(16)], [payload] * 16, 30.0)
        with ReplaySampler(address, "fresh", 64, prefetch=1) as sampler:
            batch = sampler.next(60.0)
    assert batch.columns["observation"].shape == (21, 64, 84, 84, 4)
    assert [header.sequence for header in batch.headers] == list(range(64))


def test_large_appends_go_in_several_messages(address: str) -> None:
    steps = 1000
    origin = make_origin(columns=make_columns(steps), steps=steps)
    payload = PayloadLayout(origin.schema).encode(make_columns(steps))
    count = 5 * MESSAGE_BYTES_TARGET // len(payload)
    with ReplayWriter(address, origin, window_records=1000, window_bytes=2**24) as writer:
        writer.append([make_header(steps) for _ in range(count)], [payload] * count, 10.0)
        assert writer.flush(10.0)
        assert writer.statistics.acknowledged == count


def test_a_long_list_outlives_the_deadline_of_one_call(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads it may take as long as it takes: an export, or a verification that runs every record again."""
    monkeypatch.setattr("replay.client.LIST_TIMEOUT_S", 0.3)
    steps, count = 40_000, 24
    origin = make_origin(columns=make_columns(steps), steps=steps)
    payload = PayloadLayout(origin.schema).encode(make_columns(steps))  # 1 MB: more than a connection holds by far
    with (
        ReplayWriter(address, origin, window_records=100, window_bytes=2**27) as writer,
        ReplayClient(address) as client,
    ):
        writer.append([make_header(steps) for _ in range(count)], [payload] * count, 10.0)
        assert writer.flush(20.0)
        for limit, expected in ((0, count), (count - 5, count - 5)):
            seen = []
            for record in client.records(limit=limit, with_payload=True, filter_text="steps > 0"):
                time.sleep(0.03)
                seen.append(record.position)
                writer.append([make_header(steps)], [payload], 10.0)  # it does not run after those that arrive
            assert seen[:count] == list(range(expected))
            assert len(seen) < 2 * count
        seen = []
        for record in client.records(with_payload=True):
            time.sleep(0.03)
            seen.append(record.position)
            if len(seen) > 15:
                break
        assert seen == list(range(16))


def test_records_are_had_by_position_in_any_order_and_number(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.client.POSITIONS_MAX", 7)
    with writer_to(address) as writer, ReplayClient(address) as client:
        append(writer, 40)
        assert writer.flush(10.0)
        wanted = [30, *range(25), 30, 1000]
        assert [record.position for record in client.get(wanted)] == [*range(25), 30]
        assert client.get([]) == []


def test_too_many_positions_at_once_are_refused(address: str) -> None:
    with transport.channel(address) as channel:
        request = replay_pb2.ListRequest(positions=range(100_001))
        with pytest.raises(grpc.RpcError) as error:
            list(replay_pb2_grpc.ReplayStub(channel).List(request, timeout=10.0))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "100001 positions in one request, at most 100000" in str(error.value.details())


def test_a_permanent_refusal_reaches_the_next_append(address: str) -> None:
    with writer_to(address) as writer:
        writer.append([make_header(steps=7)], [b"short"], 1.0)
        with pytest.raises(ReplayRefused, match=r"payload has 5 bytes.*INVALID_ARGUMENT"):
            writer.flush(10.0)
        with pytest.raises(ReplayRefused):
            append(writer, 1)
        assert not writer.close(1.0)


def test_a_run_id_used_before_is_refused(address: str) -> None:
    with writer_to(address) as writer:
        append(writer, 3)
    with writer_to(address) as second, pytest.raises(ReplayRefused, match="the run id was used before"):
        append(second, 1)
        second.flush(10.0)


def test_a_store_that_lost_its_records_is_refused(socket: str) -> None:
    writer = writer_to(socket)
    with serving(CONFIG, address=socket):
        append(writer, 3)
        assert writer.flush(10.0)
    emptied = serving(CONFIG, address=socket)  # a store in memory begins anew
    with emptied, pytest.raises(ReplayRefused, match="had acknowledged 3: the store was emptied or replaced"):
        append(writer, 1)
        writer.flush(10.0)
    writer.close(1.0)


def test_restarts_lose_and_double_nothing(socket: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, store="lmdb", payload_bytes_max=2**25)
    writer, sampler = writer_to(socket), ReplaySampler(socket, "fresh", 5)
    drawn: list[int] = []
    for _ in range(3):
        with serving(config, tmp_path, socket):
            for _ in range(10):
                append(writer, 5)
            drawn += sampler.next(10.0).positions.tolist()
        append(writer, 5)  # while nobody listens
    with serving(config, tmp_path, socket):
        assert writer.close(10.0)
        with ReplayClient(socket) as client:
            assert [record.header.sequence for record in client.records()] == list(range(165))
        while len(drawn) < 100:
            drawn += sampler.next(10.0).positions.tolist()
        assert drawn == sorted(set(drawn))
        sampler.close()
    assert writer.statistics.reconnects >= 3
    assert writer.statistics.acknowledged == 165


def test_without_a_service_everything_ends_in_bounded_time(socket: str) -> None:
    start_s = time.monotonic()
    writer, sampler = writer_to(socket, window_records=5), ReplaySampler(socket, "fresh", 1)
    append(writer, 5)
    with pytest.raises(ReplayUnavailable):
        append(writer, 1, timeout_s=0.2)
    assert not writer.flush(0.1)
    with pytest.raises(SampleTimeout):
        sampler.next(0.1)
    assert not writer.close(0.1)
    sampler.close()
    with ReplayClient(socket, timeout_s=0.5) as client:
        with pytest.raises(ReplayUnavailable):
            client.stats()
        with pytest.raises(ReplayUnavailable):
            list(client.records())
    with pytest.raises(ReplayUnavailable, match="is closed"):
        append(writer, 1)
    with pytest.raises(ReplayUnavailable, match="is closed"):
        sampler.next(0.1)
    assert time.monotonic() - start_s < 20.0


def test_closing_does_not_wait_for_a_held_stream() -> None:
    with serving(dataclasses.replace(CONFIG, fresh_unconsumed_max=1)) as address:
        writer, sampler = writer_to(address), ReplaySampler(address, "uniform", 1)
        append(writer, 50)
        sampler.next(10.0)
        start_s = time.monotonic()
        assert not writer.close(0.2)
        sampler.close()
        assert time.monotonic() - start_s < JOIN_S  # so long it takes to give up on a thread
        with pytest.raises(ReplayUnavailable, match="is closed"):  # although batches were asked for ahead
            sampler.next(0.1)


def test_unknown_tables_are_refused(address: str) -> None:
    with (
        ReplaySampler(address, "recent", 1) as sampler,
        pytest.raises(ReplayRefused, match="there are: fresh, uniform"),
    ):
        sampler.next(10.0)


def test_a_batch_of_unlike_records_is_refused_and_the_next_is_not(address: str) -> None:
    other = {"observation": np.zeros((3, 2), np.float32)}
    origins = [make_origin("a"), make_origin("b", columns=other)]
    payloads = [PayloadLayout(make_origin().schema).encode(make_columns()), b"\0" * 24]
    with ReplaySampler(address, "fresh", 2, prefetch=1) as sampler:
        for origin, payload in zip(origins, payloads, strict=True):
            with ReplayWriter(address, origin, window_records=10, window_bytes=2**20) as writer:
                writer.append([make_header()], [payload], 5.0)
        with pytest.raises(
            SchemaError, match=r"actor 'a' writes observation <f4\[4\].*actor 'b' writes observation <f4\[2\]"
        ):
            sampler.next(10.0)
        with writer_to(address, "mixed") as writer:
            for steps in (2, 3, 2, 2):
                append(writer, 1, steps=steps)
        with pytest.raises(SchemaError, match="T = 2 and T = 3"):
            sampler.next(10.0)
        assert sampler.next(10.0).columns["action"].shape == (2, 2)


def test_prefetch_must_be_positive(address: str) -> None:
    with pytest.raises(ValueError, match="prefetch = 0"):
        ReplaySampler(address, "fresh", 1, prefetch=0)


def test_backoff_doubles_to_its_maximum_with_jitter() -> None:
    backoff = Backoff(0.4)
    waits = [backoff.next_s() for _ in range(6)]
    for wait_s, most_s in zip(waits, (0.05, 0.1, 0.2, 0.4, 0.4, 0.4), strict=True):
        assert 0.5 * most_s <= wait_s <= most_s
    backoff.reset()
    assert backoff.next_s() <= 0.05


def test_importing_the_clients_imports_no_store() -> None:
    code = "import replay.client, sys; print([m for m in ('lmdb', 'jax', 'pytest', 'tyro') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout == "[]\n"


def test_leaving_clients_open_at_exit_is_silent(address: str) -> None:
    code = (
        "import sys; from replay.client import *; from replay.testing import *;"
        "w = ReplayWriter(sys.argv[1], make_origin(), window_records=9, window_bytes=999);"
        "s = ReplaySampler(sys.argv[1], 'fresh', 1); c = ReplayClient(sys.argv[1]);"
        "c.stats(5.0); w.flush(1.0); print('end')"
    )
    command = [sys.executable, "-W", "error", "-c", code, address]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")
