"""Clients of a replay service that stop reading, send too much, or send what breaks the contract.

Whatever they do, the service's memory stays bounded, others are served, each gets a status with a reason, and the store
holds what was acknowledged and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client import ReplaySampler
from tests.robustness.replay_records import make_header, make_origin, payload_of
from tests.robustness.replay_service import ROW_BYTES, RUN, Service, append, sequences_in, service

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(120)]

TIMEOUT_S = 20.0
MEGABYTE = 2**20
LARGE_ROW_BYTES = 16 * 1024
BATCH = 64
STREAMS = 6

SAMPLER = """
import itertools, sys, threading
from protos import transport
from protos.replay.v1 import replay_pb2, replay_pb2_grpc

request = replay_pb2.SampleRequest(table="uniform", batch_size=int(sys.argv[2]))
channels = [transport.channel(sys.argv[1]) for _ in range(int(sys.argv[3]))]
calls = [replay_pb2_grpc.ReplayStub(channel).Sample(itertools.repeat(request, 500)) for channel in channels]
for call in calls:
    next(call)
print("reading", flush=True)
for answers in zip(*calls):
    pass
"""


@contextlib.contextmanager
def sampling_process(running: Service) -> Iterator[subprocess.Popen[str]]:
    """A process that draws on several streams, asking far ahead; gives it once it reads."""
    command = [sys.executable, "-c", SAMPLER, running.address, str(BATCH), str(STREAMS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_samplers_that_stop_reading_fill_no_memory_and_hold_nobody_up() -> None:
    run_id = "actor-0.large"
    with service() as running:
        with running.writer(run_id, LARGE_ROW_BYTES) as writer:
            append(writer, range(2 * BATCH), run_id, LARGE_ROW_BYTES)
            assert writer.flush(TIMEOUT_S)
            before = running.resident_bytes()
            with sampling_process(running) as process:
                os.kill(process.pid, signal.SIGSTOP)
                highest = 0
                for start in range(0, 500, 50):
                    append(writer, range(2 * BATCH + start, 2 * BATCH + start + 50), run_id, LARGE_ROW_BYTES)
                    assert writer.flush(TIMEOUT_S)
                    with ReplaySampler(running.address, "uniform", 4, prefetch=1, same_host=False) as sampler:
                        assert len(sampler.next(TIMEOUT_S).positions) == 4
                    highest = max(highest, running.resident_bytes())
                # Of 500 batches of 4 MiB for each stream, a few are under way.
                assert highest - before < STREAMS * 6 * BATCH * 4 * LARGE_ROW_BYTES < 200 * MEGABYTE
        assert sequences_in(running, run_id, LARGE_ROW_BYTES) == list(range(2 * BATCH + 500))


def record_of(run_id: str, sequence: int) -> common_pb2.Record:
    """A valid record, as it goes over the wire."""
    payload = payload_of(run_id, sequence, ROW_BYTES)
    header = make_header(run_id, sequence)
    header.sequence = sequence
    header.payload_digest = hashlib.sha256(payload).digest()
    return common_pb2.Record(header=header, payload=payload)


def batch_of(*records: common_pb2.Record) -> replay_pb2.AppendRequest:
    """A message with these records."""
    return replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=records))


def opening(run_id: str = RUN) -> replay_pb2.AppendRequest:
    """The first message of a run's stream."""
    return replay_pb2.AppendRequest(open=make_origin(run_id, ROW_BYTES))


def test_writers_that_never_read_acknowledgements_fill_no_memory_and_hold_nobody_up() -> None:
    def requests(run_id: str) -> Iterator[replay_pb2.AppendRequest]:
        yield opening(run_id)
        for sequence in itertools.count():
            yield batch_of(record_of(run_id, sequence))

    with service() as running, transport.channel(running.address) as channel:
        stub = replay_pb2_grpc.ReplayStub(channel)
        before = running.resident_bytes()
        silent = [f"actor-{number}.silent" for number in range(1, 4)]
        calls = [stub.Append(requests(run_id)) for run_id in silent]
        try:
            with running.writer() as writer:
                for start in range(0, 400, 40):
                    append(writer, range(start, start + 40))
                    assert writer.flush(TIMEOUT_S)
                    time.sleep(0.1)
            assert running.resident_bytes() - before < 64 * MEGABYTE
        finally:
            for call in calls:
                call.cancel()
        assert sequences_in(running) == list(range(400))
        for run_id in silent:
            stored = sequences_in(running, run_id)
            assert stored == list(range(len(stored)))
            assert stored


def refusal(channel: grpc.Channel, *messages: bytes) -> tuple[grpc.StatusCode, str]:
    """How an append stream with these messages ends. Fails where it is not refused."""
    method: Any = channel.stream_stream("/temper.replay.v1.Replay/Append", None, replay_pb2.AppendResponse.FromString)
    try:
        for _ in method(iter(messages), timeout=TIMEOUT_S):
            pass
    except grpc.RpcError as error:
        return error.code(), str(error.details())
    raise AssertionError("the stream was not refused")


def altered(sequence: int = 0, payload: bytes | None = None, **fields: object) -> bytes:
    """A message with one record whose header has other fields."""
    record = record_of(RUN, sequence)
    if payload is not None:
        record.payload = payload
    record.header.MergeFrom(common_pb2.RecordHeader(**fields))  # type: ignore[arg-type]
    return batch_of(record).SerializeToString()


def negative_length() -> bytes:
    """A record whose payload says that it has -1 bytes."""
    record = b"\x12" + b"\xff" * 9 + b"\x01"
    batch = b"\x0a" + bytes([len(record)]) + record
    return b"\x12" + bytes([len(batch)]) + batch


def origin_with(
    dtype: str = "|u1", shape: tuple[int, ...] = (ROW_BYTES,), rows_beyond_steps: int = 0, once: bool = False
) -> bytes:
    """An opening message whose schema has another column."""
    request = opening()
    column = request.open.schema.columns[0]
    column.dtype, column.rows_beyond_steps, column.once = dtype, rows_beyond_steps, once
    del column.shape[:]
    column.shape.extend(shape)
    return request.SerializeToString()


SIZE = 4 * ROW_BYTES
REFUSED_BATCHES = {
    "10 MB of task": (altered(task_id="x" * 10 * MEGABYTE), "header has 1048"),
    "10 MB of signals": (altered(signals={f"{n:0100d}": 1.0 for n in range(100_000)}), "header has 1"),
    "another digest": (altered(payload_digest=b"\x01" * 32), "altered on the way"),
    "no digest": (altered(payload=b"\x01" * SIZE), "altered on the way"),
    "one byte less": (altered(payload=bytes(SIZE - 1)), "payload has 1023 bytes"),
    "one step more": (altered(steps=5), "payload has 1024 bytes, the schema requires 1280"),
    "steps beyond any": (altered(steps=2**32 - 1), "at most 16777216 may be"),
    "a policy from nowhere": (altered(policies=[common_pb2.PolicySpan(digest=b"short")]), "policy"),
    "time that runs back": (altered(start_time_ns=2**62), "must ascend"),
    "an encoding that nobody knows": (altered(encoding=7), "encoding 7 is not known"),
    "what is no frame": (altered(encoding=1), "no zstd frame"),
    "a signal that is no number": (altered(signals={"return": float("nan")}), "must be finite"),
    "a negative length": (negative_length(), "nothing of that message was stored"),
    "no records": (batch_of().SerializeToString(), "at least one"),
    "the same twice": (batch_of(record_of(RUN, 1), record_of(RUN, 1)).SerializeToString(), "must be greater"),
}
REFUSED_ORIGINS = {
    "objects": (origin_with(dtype="|O8"), "must be one of"),
    "big endian": (origin_with(dtype=">f4"), "must be one of"),
    "no type": (origin_with(dtype=""), "must be one of"),
    "a shape of nothing": (origin_with(shape=(0,)), "at least 1"),
    "a shape of too much": (origin_with(shape=(2**32 - 1,) * 6), "the limit is"),
    "rank 7": (origin_with(shape=(1,) * 7), "at most 6 dimensions"),
    "rows beyond all": (origin_with(rows_beyond_steps=2**32 - 1), "must be 0 or 1"),
    "rows beyond the only one": (origin_with(rows_beyond_steps=1, once=True), "must be 0"),
    "no steps at all": (origin_with(once=True), "would have no steps"),
}


def test_what_breaks_the_contract_is_refused_with_a_reason_and_nothing_of_it_is_stored() -> None:
    with service() as running, transport.channel(running.address) as channel:
        first = opening().SerializeToString()
        for name, (message, reason) in REFUSED_BATCHES.items():
            code, details = refusal(channel, first, message)
            assert code == grpc.StatusCode.INVALID_ARGUMENT, (name, details)
            assert reason in details, (name, details)
            assert "\n" not in details
        for name, (message, reason) in REFUSED_ORIGINS.items():
            code, details = refusal(channel, message, altered())
            assert code == grpc.StatusCode.INVALID_ARGUMENT, (name, details)
            assert reason in details, (name, details)
        with running.client() as client:
            stats = client.stats()
        assert (stats.appended_records, stats.append_streams) == (0, 0)
        with running.writer() as writer:
            append(writer, range(10))
            assert writer.flush(TIMEOUT_S)
        running.kill()
        running.start()
        assert sequences_in(running) == list(range(10))


def test_a_message_larger_than_any_may_be_is_refused_before_it_is_read() -> None:
    with service() as running:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(running.address, options=options) as channel:
            before = running.resident_bytes()
            message = altered(payload=bytes(transport.MESSAGE_BYTES_MAX))
            code, details = refusal(channel, opening().SerializeToString(), message)
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in details
            assert running.resident_bytes() - before < 2 * transport.MESSAGE_BYTES_MAX
        with running.writer() as writer:
            append(writer, range(3))
            assert writer.flush(TIMEOUT_S)
        assert sequences_in(running) == [0, 1, 2]
