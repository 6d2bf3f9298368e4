"""A sampler whose service is there but fails: what it says of it, how long it goes on, and when it gives up."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent import futures

import grpc
import pytest

from protos import transport
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay import client_errors, client_sample
from replay.client import ReplayRefused, ReplaySampler, ReplayUnavailable, SampleTimeout
from replay.client_errors import FailureLog, ReplayFaulty, translate
from replay.config import ReplayConfig
from replay.memory_store import MemoryStore
from replay.store import StoredRecord, StoreError
from replay.testing import serving
from tests.replay.writing import append, writer_to

TIMEOUT_S = 20.0

pytestmark = pytest.mark.usefixtures("no_thread_left_behind")


class FaultyStore(MemoryStore):
    """Raises what comes next in `errors` whenever records are read, if it is an error; from the last one it goes on."""

    errors: Sequence[Exception | None] = (None,)
    reads = 0

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        error = self.errors[min(FaultyStore.reads, len(self.errors) - 1)]
        FaultyStore.reads += 1
        if error is not None:
            raise error
        return super().read(positions)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a service with eight records, whose store is a FaultyStore."""
    monkeypatch.setattr("replay.service.MemoryStore", FaultyStore)
    monkeypatch.setattr(FaultyStore, "reads", 0)
    with serving(ReplayConfig(store="memory")) as address:
        with writer_to(address) as writer:
            append(writer, 8)
            assert writer.flush(TIMEOUT_S)
        yield address


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.name == "replay.client_sample"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(StoreError("the disk is on fire"), "the disk is on fire (INTERNAL)"), (RuntimeError("odd"), "odd (UNKNOWN)")],
)
def test_a_service_that_does_nothing_but_fail_is_given_up(
    address: str, error: Exception, status: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FaultyStore, "errors", [error])
    monkeypatch.setattr(client_sample, "FAULTS_MAX", 4)
    with ReplaySampler(address, "uniform", 2, prefetch=1) as sampler:
        with pytest.raises(ReplayRefused) as refusal:
            sampler.next(TIMEOUT_S)
        assert status in str(refusal.value)
        assert "4 times without giving a batch of 'uniform'" in str(refusal.value)
        with pytest.raises(ReplayRefused):
            sampler.next(TIMEOUT_S)
    assert FaultyStore.reads == 4
    (line,) = warnings(caplog)
    assert line.startswith(f"waiting for batches of 'uniform': replay at {address} failed: ")
    assert line.endswith(status)


def test_a_batch_in_between_makes_the_faults_count_from_one_again(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = StoreError("now and then")
    monkeypatch.setattr(FaultyStore, "errors", [fault, fault, None] * 5 + [None])
    monkeypatch.setattr(client_sample, "FAULTS_MAX", 3)
    with ReplaySampler(address, "uniform", 2, prefetch=1) as sampler:
        for _ in range(8):
            assert len(sampler.next(TIMEOUT_S).positions) == 2
    assert FaultyStore.reads > 15
    assert len(warnings(caplog)) == 1


def test_every_new_reason_is_logged_once(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fire, water = StoreError("fire"), StoreError("water")
    monkeypatch.setattr(FaultyStore, "errors", [fire, fire, water, fire, water, None])
    with ReplaySampler(address, "uniform", 2, prefetch=1) as sampler:
        assert len(sampler.next(TIMEOUT_S).positions) == 2
    assert FaultyStore.reads >= 6
    assert [line.rpartition(": ")[2] for line in warnings(caplog)] == ["fire (INTERNAL)", "water (INTERNAL)"]


def test_one_that_is_away_is_waited_for_without_end_but_not_in_silence(
    socket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_sample, "FAULTS_MAX", 1)
    with ReplaySampler(socket, "uniform", 2) as sampler:
        for _ in range(2):
            with pytest.raises(SampleTimeout) as timeout:
                sampler.next(0.3)
        assert "(UNAVAILABLE)" in timeout.value.why
        said = warnings(caplog)
        assert said
        assert len(said) == len(set(said))
        with serving(ReplayConfig(store="memory"), address=socket), writer_to(socket) as writer:
            append(writer, 8)
            assert len(sampler.next(TIMEOUT_S).positions) == 2


def test_where_there_are_just_no_records_nothing_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(ReplayConfig(store="memory")) as address,
        ReplaySampler(address, "uniform", 2) as sampler,
        pytest.raises(SampleTimeout) as timeout,
    ):
        sampler.next(0.2)
    assert (timeout.value.why, warnings(caplog)) == ("", [])


class EndingReplay(replay_pb2_grpc.ReplayServicer):
    """Ends every stream at once, as if it had nothing to say."""

    def Sample(self, request_iterator: object, context: object) -> Iterator[replay_pb2.SampleResponse]:
        return iter(())


def test_a_stream_that_ends_for_no_reason_is_told_too(socket: str, caplog: pytest.LogCaptureFixture) -> None:
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=transport.server_options())
        replay_pb2_grpc.add_ReplayServicer_to_server(EndingReplay(), server)  # type: ignore[abstract]
        transport.bind(server, socket)
        server.start()
        try:
            with ReplaySampler(socket, "uniform", 2) as sampler, pytest.raises(SampleTimeout, match="ended the stream"):
                sampler.next(0.5)
        finally:
            server.stop(0).wait()
    assert len(warnings(caplog)) == 1


class Failed(grpc.RpcError):
    """A call that failed with this status."""

    def __init__(self, status: grpc.StatusCode) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return "why"


@pytest.mark.parametrize("status", grpc.StatusCode)
def test_only_faults_are_counted(status: grpc.StatusCode) -> None:
    error = translate(Failed(status), "unix:here")
    assert f"why ({status.name})" in str(error)
    assert isinstance(error, ReplayFaulty) == (status in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
    assert isinstance(error, ReplayUnavailable) != isinstance(error, ReplayRefused)


def test_a_failure_is_news_again_once_all_was_well_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = FailureLog(logging.getLogger("replay.client_sample"))
    for reason in ("a", "a", "b", "a"):
        failures.failed(reason)
        failures.worked()
    assert warnings(caplog) == ["a", "b"]
    monkeypatch.setattr(client_errors, "_SETTLED_S", -1.0)
    failures.worked()
    failures.failed("a")
    assert warnings(caplog) == ["a", "b", "a"]
    for number in range(100):
        failures.failed(f"request {number} failed")
    assert len(warnings(caplog)) < 12
