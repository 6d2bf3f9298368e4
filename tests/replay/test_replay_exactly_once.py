"""Exactly once, over real sockets: what is cut, repeated, reordered or claimed twice is stored, and stored once."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import select
import shutil
import socket as sockets
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client import ReplayClient, ReplayRefused, ReplayWriter
from replay.config import ReplayConfig
from replay.testing import make_origin, make_record, serving
from tests.replay.writing import append, writer_to

pytestmark = pytest.mark.usefixtures("no_thread_left_behind")

CONFIG = ReplayConfig(fresh_unconsumed_max=100_000)
TIMEOUT_S = 20.0


class CuttingProxy:
    """Passes bytes between clients and a service, and cuts each connection after a number of bytes drawn at random.

    So a message may be cut anywhere, and what the service has taken may never be acknowledged.
    """

    def __init__(self, path: str, target: str, generator: random.Random, bytes_max: int) -> None:
        self.cuts = 0
        self._target = target
        self._generator = generator
        self._bytes_max = bytes_max
        self._listener = sockets.socket(sockets.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends it, and every connection."""
        self._bytes_max = 0
        with contextlib.suppress(OSError):
            self._listener.shutdown(sockets.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while self._bytes_max:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._pass, args=(client,)))
            self._threads[-1].start()

    def _pass(self, client: sockets.socket) -> None:
        left = self._generator.randrange(1000, self._bytes_max)
        with contextlib.suppress(OSError), client, sockets.socket(sockets.AF_UNIX) as service:
            service.connect(self._target)
            other = {client: service, service: client}
            while self._bytes_max:
                for source in select.select(list(other), [], [], 0.1)[0]:
                    data = source.recv(min(left, 4096))
                    if not data:
                        return
                    other[source].sendall(data)
                    left -= len(data)
                    if not left:
                        self.cuts += 1
                        return


@contextlib.contextmanager
def cutting(address: str, directory: Path, seed: int, bytes_max: int) -> Iterator[tuple[str, CuttingProxy]]:
    path = directory / "p"
    proxy = CuttingProxy(str(path), address.removeprefix("unix:"), random.Random(seed), bytes_max)
    try:
        yield f"unix:{path}", proxy
    finally:
        proxy.close()
        path.unlink()


@pytest.mark.parametrize("store", ["memory", "lmdb"])
def test_connections_cut_anywhere_lose_and_double_nothing(store: str, socket: str, tmp_path: Path) -> None:
    place = Path(socket.removeprefix("unix:")).parent
    config = dataclasses.replace(CONFIG, store=store)
    with (
        serving(config, tmp_path, socket) as address,
        cutting(address, place, seed=0, bytes_max=25_000) as (through, proxy),
        ReplayClient(address) as client,
    ):
        writers = [writer_to(through, f"run-{index}", window_records=30) for index in range(3)]
        for count in (1, 5, 20, 3) * 10:
            for writer in writers:
                append(writer, count, TIMEOUT_S)
        assert all(writer.flush(TIMEOUT_S) for writer in writers)
        found = Counter((record.origin.run_id, record.header.sequence) for record in client.records())
        assert found == {(f"run-{index}", sequence): 1 for index in range(3) for sequence in range(290)}
        for writer in writers:
            assert writer.close(TIMEOUT_S)
            statistics = writer.statistics
            assert (statistics.acknowledged, statistics.unacknowledged) == (290, 0)
            assert statistics.reconnects >= 3
        assert proxy.cuts >= 5
        assert sum(writer.statistics.resent for writer in writers) > 0


def _requests(origin: common_pb2.Origin, starts: list[int], count: int) -> Iterator[replay_pb2.AppendRequest]:
    yield replay_pb2.AppendRequest(open=origin)
    for start in starts:
        records = [make_record(origin, sequence) for sequence in range(start, start + count)]
        yield replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=records))


def test_streams_of_one_run_at_once_reordered_overlapping_and_cut_store_each_record_once(tmp_path: Path) -> None:
    """Two processes with one id, or one whose earlier streams the service still works on: it makes no difference."""
    generator = random.Random(0)
    origin, total = make_origin(), 400
    acknowledged: set[int] = set()
    with (
        serving(dataclasses.replace(CONFIG, store="lmdb"), tmp_path) as address,
        transport.channel(address) as channel,
        ReplayClient(address) as client,
    ):
        stub = replay_pb2_grpc.ReplayStub(channel)

        def stream(starts: list[int], answers: int) -> None:
            call = stub.Append(_requests(origin, starts, 20), timeout=TIMEOUT_S)
            with contextlib.suppress(grpc.RpcError):
                for _ in range(answers):
                    acknowledged.update(next(call, replay_pb2.AppendResponse()).acknowledged.sequences)
            call.cancel()

        threads = []
        for _ in range(12):
            starts = [generator.randrange(total - 20) for _ in range(10)]
            threads.append(threading.Thread(target=stream, args=(starts, generator.randrange(1, 12))))
        # One of them sends everything, back to front, so that it is known what must be there.
        threads.append(threading.Thread(target=stream, args=(list(range(total - 20, -1, -20)), total // 20 + 1)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stored = [record.header.sequence for record in client.records()]
        assert sorted(stored) == list(range(total))
        assert acknowledged == set(range(total))
        assert stored != sorted(stored)  # they did arrive out of order
        payloads = {record.header.sequence: record.payload for record in client.records(with_payload=True)}
        assert payloads == {sequence: make_record(origin, sequence).payload for sequence in range(total)}
        assert client.stats().duplicate_records > 0


def test_two_writers_with_one_id_store_each_sequence_once_and_a_later_one_is_told(tmp_path: Path) -> None:
    with serving(dataclasses.replace(CONFIG, store="lmdb"), tmp_path) as address, ReplayClient(address) as client:
        with writer_to(address) as first, writer_to(address) as second:
            append(first, 5)
            assert first.flush(TIMEOUT_S)
            # Its stream may have been open before there was anything: what it sends may be there already.
            append(second, 7)
            with contextlib.suppress(ReplayRefused):
                second.flush(TIMEOUT_S)
            append(first, 5)
            with contextlib.suppress(ReplayRefused):
                first.flush(TIMEOUT_S)
        stored = [record.header.sequence for record in client.records()]
        assert stored == list(range(len(stored)))
        with writer_to(address) as third, pytest.raises(ReplayRefused, match="the run id was used before"):
            append(third, 1)
            third.flush(TIMEOUT_S)


def _undone(directory: Path, durability: str, socket: str, writer: ReplayWriter) -> None:
    """Appends 10 records, of which a crash of the machine then undoes 5 that were acknowledged."""
    config = dataclasses.replace(CONFIG, store="lmdb", durability=durability)
    with serving(config, directory, socket):
        append(writer, 5)
        assert writer.flush(TIMEOUT_S)
    shutil.copytree(directory, directory.parent / "older")
    with serving(config, directory, socket):
        append(writer, 5)
        assert writer.flush(TIMEOUT_S)
    shutil.rmtree(directory)
    (directory.parent / "older").rename(directory)


def test_async_a_writer_goes_on_after_a_crash_undid_what_was_acknowledged(socket: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, store="lmdb", durability="async")
    writer = writer_to(socket)
    _undone(tmp_path / "store", "async", socket, writer)
    for _ in range(2):  # and again: what is missing stays missing
        with serving(config, tmp_path / "store", socket), ReplayClient(socket) as client:
            append(writer, 5)
            assert writer.flush(TIMEOUT_S)
            stored = [record.header.sequence for record in client.records()]
    assert writer.close(TIMEOUT_S)
    assert stored == [*range(5), *range(10, 20)]
    assert writer.statistics.acknowledged == 20


def test_sync_a_writer_refuses_a_store_that_lost_what_it_had_acknowledged(socket: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, store="lmdb")
    writer = writer_to(socket)
    _undone(tmp_path / "store", "sync", socket, writer)
    with serving(config, tmp_path / "store", socket), ReplayClient(socket) as client:
        with pytest.raises(ReplayRefused, match="holds 5 records of this run, but had acknowledged 10"):
            append(writer, 5)
            writer.flush(TIMEOUT_S)
        assert not writer.close(1.0)
        assert [record.header.sequence for record in client.records()] == list(range(5))
