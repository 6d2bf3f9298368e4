"""Samplers over the wire and from the store's own files: the same draws, order, limits and errors, whichever way."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.client import ReplayClient, ReplayRefused, ReplaySampler, ReplayWriter, SampledBatch, SampleTimeout
from replay.config import ReplayConfig
from replay.payload_encoding import RAW, ZSTD
from replay.same_host import is_local
from replay.schema import PayloadLayout, SchemaError
from replay.testing import make_columns, make_header, make_origin, serving

CONFIG = ReplayConfig(fresh_unconsumed_max=10_000, tables=("prioritised per exponent=1.0",))
TIMEOUT_S = 20.0


class Service(NamedTuple):
    """A running service, and how samplers are to read from it."""

    address: str
    directory: Path
    same_host: bool | None

    def sampler(self, table: str, batch_size: int) -> ReplaySampler:
        """A sampler of that kind."""
        return ReplaySampler(self.address, table, batch_size, same_host=self.same_host)


@pytest.fixture(params=["memory", "wire", "files"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service in memory, and a durable one, read over the wire and from its files."""
    kind: str = request.param
    config = dataclasses.replace(CONFIG, store="memory" if kind == "memory" else "lmdb")
    with serving(config, tmp_path) as address:
        yield Service(address, tmp_path, True if kind == "files" else False if kind == "wire" else None)


def append(
    address: str,
    seeds: range,
    *,
    run_id: str = "run-0",
    steps: int = 2,
    encoding: common_pb2.PayloadEncoding = RAW,
) -> None:
    origin = make_origin(run_id=run_id, steps=steps)
    layout = PayloadLayout(origin.schema)
    with ReplayWriter(address, origin, window_records=5000, window_bytes=2**24) as writer:
        headers = [make_header(steps) for _ in seeds]
        for header in headers:
            header.encoding = encoding
        payloads = [layout.encode(make_columns(steps, seed), encoding) for seed in seeds]
        writer.append(headers, payloads, TIMEOUT_S)
        assert writer.flush(TIMEOUT_S)


def assert_is(batch: SampledBatch, seeds: list[int], steps: int = 2) -> None:
    for index, seed in enumerate(seeds):
        for name, column in make_columns(steps, seed).items():
            np.testing.assert_array_equal(batch.columns[name][:, index], column)


def test_fresh_gives_each_record_once_and_in_order(service: Service) -> None:
    append(service.address, range(300))
    with service.sampler("fresh", 100) as sampler:
        for start in (0, 100, 200):
            batch = sampler.next(TIMEOUT_S)
            assert batch.positions.tolist() == list(range(start, start + 100))
            assert [header.sequence for header in batch.headers] == batch.positions.tolist()
            assert {origin.actor_id for origin in batch.origins} == {"actor-0"}
            assert batch.probabilities.tolist() == [1.0] * 100
            assert_is(batch, list(range(start, start + 100)))
        with pytest.raises(SampleTimeout):
            sampler.next(0.2)


def test_encoded_payloads_come_decoded(service: Service) -> None:
    append(service.address, range(4))
    append(service.address, range(4, 8), run_id="run-1", encoding=ZSTD)
    with service.sampler("fresh", 8) as sampler:
        assert_is(sampler.next(TIMEOUT_S), list(range(8)))


def test_uniform_draws_are_told_with_their_probability(service: Service) -> None:
    append(service.address, range(50))
    with service.sampler("uniform", 400) as sampler:
        batch = sampler.next(TIMEOUT_S)
    assert batch.available == 50
    assert batch.probabilities.tolist() == [1 / 50] * 400
    assert len(set(batch.positions.tolist())) > 45
    assert_is(batch, batch.positions.tolist())


def test_priorities_shape_what_is_drawn(service: Service) -> None:
    append(service.address, range(10))
    with ReplayClient(service.address) as client, service.sampler("per", 1000) as sampler:
        assert client.update_priorities("per", range(10), [0.0] * 8 + [1.0, 3.0]) == 10
        # The batches that were asked for ahead may be older than the update.
        batches = [sampler.next(TIMEOUT_S) for _ in range(4)]
    last = batches[-1]
    assert set(last.positions.tolist()) == {8, 9}
    assert set(last.probabilities.tolist()) == {0.25, 0.75}
    assert 0.68 < last.positions.tolist().count(9) / 1000 < 0.82
    assert set(last.importance_weights(1.0).round(6).tolist()) == {1.0, round(1 / 3, 6)}


def test_records_that_cannot_be_stacked_are_an_error_of_their_batch_alone(service: Service) -> None:
    append(service.address, range(3))
    append(service.address, range(1), run_id="longer", steps=5)
    append(service.address, range(4), run_id="run-2")
    with service.sampler("fresh", 4) as sampler:
        with pytest.raises(SchemaError, match="T = 2 and T = 5"):
            sampler.next(TIMEOUT_S)
        assert_is(sampler.next(TIMEOUT_S), [0, 1, 2, 3])


def test_what_the_service_refuses_reaches_the_caller(service: Service) -> None:
    with service.sampler("recent", 4) as sampler, pytest.raises(ReplayRefused, match="there is no table 'recent'"):
        sampler.next(TIMEOUT_S)


def test_quarantined_records_do_not_come(service: Service) -> None:
    append(service.address, range(40))
    with ReplayClient(service.address) as client:
        assert client.quarantine("sequence >= 20", "a test").entry.records == 20
        with service.sampler("uniform", 500) as sampler:
            assert max(sampler.next(TIMEOUT_S).positions) < 20
        assert client.lift_quarantine(1, "over").entry.lifted_time_ns > 0
        assert client.stats().quarantined_records == 0


def test_a_restart_in_between_is_survived(tmp_path: Path) -> None:
    socket = f"unix:{tmp_path / 's'}"
    with serving(CONFIG, tmp_path / "store", socket):
        append(socket, range(20))
        sampler = ReplaySampler(socket, "fresh", 5, prefetch=1, same_host=True)
        first = sampler.next(TIMEOUT_S)
    with serving(CONFIG, tmp_path / "store", socket), sampler:
        second = sampler.next(TIMEOUT_S)
    assert first.positions.tolist() == [0, 1, 2, 3, 4]
    assert len(set(second.positions.tolist()) - set(first.positions.tolist())) == 5


def test_the_files_are_found_by_themselves_and_only_if_they_are_the_services_own(tmp_path: Path) -> None:
    with serving(CONFIG, tmp_path / "store") as address:
        append(address, range(8))
        with ReplaySampler(address, "fresh", 4) as sampler:
            assert_is(sampler.next(TIMEOUT_S), [0, 1, 2, 3])
        with ReplayClient(address) as client:
            located = client.locate()
        assert Path(located.directory) == tmp_path / "store"
        # Another store in its place, as on another host with the same paths: not what the service meant.
        note = tmp_path / "store" / "format.json"
        own = note.read_text()
        note.write_text(own.replace(located.store_id.hex(), "00" * 16))
        with ReplaySampler(address, "uniform", 4) as sampler:
            assert sampler.next(TIMEOUT_S).available == 8
        with (
            ReplaySampler(address, "uniform", 4, same_host=True) as sampler,
            pytest.raises(ReplayRefused, match="cannot be read from this host"),
        ):
            sampler.next(TIMEOUT_S)
        note.write_text(own)


def test_a_damaged_record_is_replaced_and_the_service_told(tmp_path: Path) -> None:
    with serving(CONFIG, tmp_path) as address:
        append(address, range(60))
    flip_payload(tmp_path, make_columns(2, 7))
    with (
        serving(CONFIG, tmp_path) as address,
        ReplayClient(address) as client,
        ReplaySampler(address, "fresh", 20, prefetch=1, same_host=True) as sampler,
    ):
        batches = [sampler.next(TIMEOUT_S) for _ in range(2)]
        positions = [position for batch in batches for position in batch.positions.tolist()]
        assert 7 not in positions
        assert len(set(positions)) == 40
        assert client.stats().damaged_records == 1


def test_files_that_vanish_are_replaced_by_the_wire(tmp_path: Path) -> None:
    """As where the directory is no longer mounted here, while the service goes on with what it has open."""
    with serving(CONFIG, tmp_path / "store") as address:
        append(address, range(100))
        with ReplaySampler(address, "uniform", 4, prefetch=1) as sampler:
            sampler.next(TIMEOUT_S)
            (tmp_path / "store").rename(tmp_path / "elsewhere")
            try:
                for _ in range(4):
                    batch = sampler.next(TIMEOUT_S)
                    assert_is(batch, batch.positions.tolist())
            finally:
                (tmp_path / "elsewhere").rename(tmp_path / "store")


def test_an_idle_sampler_keeps_no_dropped_segment_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.client_sample._LOOK_S", 0.05)
    config = dataclasses.replace(CONFIG, records_max=600, fresh_unconsumed_max=600, segment_bytes=64 * 1024)
    with serving(config, tmp_path) as address:
        append(address, range(300))
        with ReplaySampler(address, "uniform", 4, prefetch=1, same_host=True) as sampler:
            sampler.next(TIMEOUT_S)
            for run in range(4):
                with ReplaySampler(address, "fresh", 100, prefetch=1, same_host=False) as consumer:
                    for _ in range(3):
                        consumer.next(TIMEOUT_S)
                append(address, range(300), run_id=f"later-{run}")
            deadline_s = time.monotonic() + TIMEOUT_S
            while left := _mapped_although_deleted(tmp_path):
                assert time.monotonic() < deadline_s, left
                time.sleep(0.02)
            batch = sampler.next(TIMEOUT_S)
            assert len(batch.positions) == 4


def _mapped_although_deleted(directory: Path) -> list[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if str(directory) in line and line.endswith("(deleted)")]


def test_a_service_can_stop_and_drop_its_files_while_a_sampler_reads_them(tmp_path: Path) -> None:
    with ExitStack() as closing:
        with serving(CONFIG, tmp_path / "store") as address:
            append(address, range(100))
            sampler = closing.enter_context(ReplaySampler(address, "uniform", 4, same_host=True))
            sampler.next(TIMEOUT_S)
        shutil.rmtree(tmp_path / "store")
        with pytest.raises((SampleTimeout, ReplayRefused)):
            for _ in range(10):
                sampler.next(0.5)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("unix:/tmp/x", True),
        ("127.0.0.1:80", True),
        ("localhost:80", True),
        ("[::1]:80", True),
        ("0.0.0.0:80", True),
        ("192.0.2.1:80", False),  # an address for documentation: nobody's
        ("name.invalid:80", False),
    ],
)
def test_files_are_looked_for_where_the_address_is_this_hosts(address: str, local: bool) -> None:
    assert is_local(address) == local


def flip_payload(directory: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Flips one byte of the only payload with these columns, in the store's files."""
    payload = PayloadLayout(make_origin().schema).encode(columns)
    for file in sorted((directory / "segments").rglob("data.mdb")):
        data = bytearray(file.read_bytes())
        at = data.find(payload)
        if at >= 0:
            data[at + 3] ^= 0x40
            file.write_bytes(data)
            return
    raise AssertionError("the payload is not in the files")
