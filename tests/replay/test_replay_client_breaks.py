"""The clients against services that break, forget, refuse or talk nonsense, each in its own way and every time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from protos import transport
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client import ReplayRefused, ReplaySampler, ReplayUnavailable, ReplayWriter, SampleTimeout
from replay.testing import make_origin
from tests.replay.storing import append as append_to_store
from tests.replay.storing import opened
from tests.replay.writing import append, writer_to

pytestmark = pytest.mark.usefixtures("no_thread_left_behind")


@contextlib.contextmanager
def _fake_service(servicer: replay_pb2_grpc.ReplayServicer, address: str) -> Iterator[None]:
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=transport.server_options())
        replay_pb2_grpc.add_ReplayServicer_to_server(servicer, server)
        transport.bind(server, address)
        server.start()
        try:
            yield
        finally:
            server.stop(0).wait()


class LossyReplay(replay_pb2_grpc.ReplayServicer):
    """Stores every record, and breaks the stream before acknowledging every third message."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.messages = 0

    def Append(
        self, request_iterator: Iterator[replay_pb2.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[replay_pb2.AppendResponse]:
        assert next(request_iterator).WhichOneof("kind") == "open"
        grant = replay_pb2.AppendOpened(window_records=100, window_bytes=10**6)
        stored = set(self.received)
        grant.next_sequence = len(stored)
        yield replay_pb2.AppendResponse(opened=grant)
        for request in request_iterator:
            sequences = [record.header.sequence for record in request.batch.records]
            duplicates = len(set(sequences) & set(self.received))
            self.received += sequences
            self.messages += 1
            if self.messages % 3 == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            acknowledged = replay_pb2.AppendAcknowledged(sequences=sequences, duplicates=duplicates)
            yield replay_pb2.AppendResponse(acknowledged=acknowledged)

    def Sample(self, request_iterator: object, context: grpc.ServicerContext) -> Iterator[replay_pb2.SampleResponse]:
        raise NotImplementedError

    def List(self, request: object, context: object) -> Iterator[replay_pb2.ListResponse]:
        raise NotImplementedError

    def Stats(self, request: object, context: object) -> replay_pb2.StatsResponse:
        raise NotImplementedError


def test_lost_acknowledgements_are_made_good_by_what_the_service_holds(socket: str) -> None:
    servicer = LossyReplay()  # type: ignore[abstract]
    with _fake_service(servicer, socket), writer_to(socket, window_records=10) as writer:
        for _ in range(40):
            append(writer, 3)
        assert writer.flush(10.0)
        statistics = writer.statistics
    assert sorted(set(servicer.received)) == list(range(120))
    assert statistics.acknowledged == 120
    assert statistics.reconnects >= 3


class ForgetfulReplay(LossyReplay):
    """Breaks before it stored anything of every second message."""

    def Append(
        self, request_iterator: Iterator[replay_pb2.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[replay_pb2.AppendResponse]:
        next(request_iterator)
        grant = replay_pb2.AppendOpened(window_records=100, window_bytes=10**6, next_sequence=len(self.received))
        yield replay_pb2.AppendResponse(opened=grant)
        for request in request_iterator:
            self.messages += 1
            if self.messages % 2 == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            self.received += [record.header.sequence for record in request.batch.records]
            acknowledged = replay_pb2.AppendAcknowledged(sequences=self.received[-1:])
            yield replay_pb2.AppendResponse(acknowledged=acknowledged)


def test_unacknowledged_records_are_resent_in_order(socket: str) -> None:
    servicer = ForgetfulReplay()  # type: ignore[abstract]
    with _fake_service(servicer, socket), writer_to(socket, window_records=10) as writer:
        for _ in range(20):
            append(writer, 3)
        assert writer.flush(10.0)
        statistics = writer.statistics
    assert servicer.received == list(range(60))
    assert statistics.acknowledged == 60
    assert statistics.resent > 0


class RefusingReplay(LossyReplay):
    """Takes nothing, for a reason that may pass."""

    def Append(
        self, request_iterator: Iterator[replay_pb2.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[replay_pb2.AppendResponse]:
        self.messages += 1
        yield replay_pb2.AppendResponse(opened=replay_pb2.AppendOpened(window_records=100, window_bytes=10**6))
        next(request_iterator)
        next(request_iterator)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no space")

    def Sample(self, request_iterator: object, context: grpc.ServicerContext) -> Iterator[replay_pb2.SampleResponse]:
        context.abort(grpc.StatusCode.INTERNAL, "disk on fire")


def test_why_it_takes_so_long_is_told_and_attempts_grow_rare(socket: str) -> None:
    servicer = RefusingReplay()  # type: ignore[abstract]
    with _fake_service(servicer, socket):
        writer = ReplayWriter(socket, make_origin(), window_records=5, window_bytes=2**20, reconnect_ms_max=10_000)
        append(writer, 5)
        with pytest.raises(
            ReplayUnavailable, match=r"since the last acknowledgement: .* no space \(RESOURCE_EXHAUSTED\)"
        ):
            append(writer, 1, timeout_s=1.5)
        assert servicer.messages < 12  # 0.05 + 0.1 + 0.2 + ... s apart, each shortened by half at most
        assert not writer.close(0.1)
        with ReplaySampler(socket, "fresh", 1) as sampler, pytest.raises(SampleTimeout, match="disk on fire"):
            sampler.next(1.0)


class ForgettingReplay(LossyReplay):
    """Draws records that are gone before they can be read, for the first batches; its store is in files."""

    def __init__(self, located: replay_pb2.LocateResponse, gone: int) -> None:
        super().__init__()
        self.located = located
        self.gone = gone
        self.asked: list[int] = []

    def Locate(self, request: object, context: object) -> replay_pb2.LocateResponse:
        return self.located

    def Sample(
        self,
        request_iterator: Iterator[replay_pb2.SampleRequest],  # type: ignore[override]
        context: object,
    ) -> Iterator[replay_pb2.SampleResponse]:
        held: list[replay_pb2.SampleResponse] = []
        drawn = 0
        for request in request_iterator:
            self.asked.append(request.batch_size)
            if not request.keys_only:
                records = replay_pb2.PackedRecords(positions=[0], origin_ids=[0], header_sizes=[0], payload_sizes=[0])
                yield replay_pb2.SampleResponse(records=records, probabilities=[1.0], end_of_batch=True)
                continue
            first = drawn if len(self.asked) > self.gone else 10**6
            drawn += request.batch_size if len(self.asked) > self.gone else 0
            records = replay_pb2.PackedRecords(positions=range(first, first + request.batch_size))
            probabilities = [1.0] * request.batch_size
            held.append(replay_pb2.SampleResponse(records=records, probabilities=probabilities, end_of_batch=True))
            if len(self.asked) >= self.gone:  # the first ones are answered together
                yield from held
                held = []


def test_no_more_is_asked_for_at_once_than_a_batch_whatever_is_missing(socket: str, tmp_path: Path) -> None:
    """Or the service may have to refuse it: a table lets no more be drawn at once than its limiter ever lets in."""
    with opened(tmp_path) as store:
        append_to_store(store, 0, 100)
        located = replay_pb2.LocateResponse(directory=str(tmp_path), store_id=store.store_id)
    servicer = ForgettingReplay(located, gone=3)  # type: ignore[abstract]
    with _fake_service(servicer, socket), ReplaySampler(socket, "fresh", 4, prefetch=3) as sampler:
        drawn = [sampler.next(10.0).positions.tolist() for _ in range(5)]
    assert drawn == [list(range(start, start + 4)) for start in range(0, 20, 4)]
    assert max(servicer.asked) == 4


@pytest.mark.parametrize("directory", ["/" + "x" * 300, "a\0b", "/dev/null", "relative"])
def test_a_directory_that_is_none_here_means_the_wire(directory: str, socket: str) -> None:
    servicer = ForgettingReplay(replay_pb2.LocateResponse(directory=directory), gone=0)  # type: ignore[abstract]
    with (
        _fake_service(servicer, socket),
        ReplaySampler(socket, "fresh", 1) as sampler,
        pytest.raises(ReplayRefused, match="answered what it must not: KeyError"),  # and that came over the wire
    ):
        sampler.next(10.0)


class NonsenseReplay(LossyReplay):
    """Acknowledges nothing in particular, and delivers a record of an origin that it never sent."""

    def Append(
        self, request_iterator: Iterator[replay_pb2.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[replay_pb2.AppendResponse]:
        yield replay_pb2.AppendResponse(opened=replay_pb2.AppendOpened(window_records=100, window_bytes=10**6))
        yield replay_pb2.AppendResponse(acknowledged=replay_pb2.AppendAcknowledged())

    def Sample(self, request_iterator: object, context: object) -> Iterator[replay_pb2.SampleResponse]:
        records = replay_pb2.PackedRecords(positions=[0], origin_ids=[7], header_sizes=[0], payload_sizes=[0])
        yield replay_pb2.SampleResponse(records=records, probabilities=[1.0], end_of_batch=True)


def test_nonsense_from_a_service_reaches_the_caller(socket: str) -> None:
    with _fake_service(NonsenseReplay(), socket), writer_to(socket) as writer, ReplaySampler(socket, "x", 1) as sampler:  # type: ignore[abstract]
        with pytest.raises(ReplayRefused, match="answered what it must not"):
            append(writer, 1)
            writer.flush(10.0)
        with pytest.raises(ReplayRefused, match="answered what it must not"):
            sampler.next(10.0)
