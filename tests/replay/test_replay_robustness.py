"""A real replay process, killed for real while records stream in: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replay.chain import verify_chain
from replay.client import ReplayClient, ReplaySampler, ReplayWriter, SampleTimeout
from replay.schema import PayloadLayout
from replay.testing import make_columns, make_header, make_origin
from tests.replay.storing import opened

SERVER = """
import asyncio, sys
from pathlib import Path
from replay.config import ReplayConfig
from replay.service import serve

def ready(address):
    print(address, flush=True)

config = ReplayConfig(payload_bytes_max=2**27, segment_bytes=2**20, fresh_unconsumed_max=100_000, commit_ms_max=2.0)
asyncio.run(serve(config, Path(sys.argv[1]), sys.argv[2], on_ready=ready, stop=asyncio.Event()))
"""

PREFETCH = 2

Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="temper-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start_one() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SERVER, str(place / "replay"), f"unix:{place / 's'}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 20.0)[0], "the service did not start in 20 s"
        assert process.stdout.readline().startswith("unix:")
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.robustness
def test_kill_minus_nine_loses_and_doubles_nothing(place: Path, start: Start) -> None:
    address, generator = f"unix:{place / 's'}", random.Random(0)
    origin = make_origin()
    payloads = [PayloadLayout(origin.schema).encode(make_columns(seed=seed)) for seed in range(64)]
    process = start()
    appended, acknowledged, delivered = 0, 0, list[int]()
    with (
        ReplayWriter(address, origin, window_records=256, window_bytes=2**20, reconnect_ms_max=100) as writer,
        ReplaySampler(address, "fresh", 64, prefetch=PREFETCH) as sampler,
    ):
        for _ in range(4):
            until_s = time.monotonic() + generator.uniform(0.2, 0.5)
            while time.monotonic() < until_s:
                writer.append([make_header() for _ in payloads], payloads, 10.0)
                appended += len(payloads)
                delivered += _drawn(sampler, 0.02)
            process.kill()
            process.wait()
            acknowledged = writer.statistics.acknowledged
            process = start()
            # Whatever was acknowledged before the kill is there after it.
            with ReplayClient(address) as client:
                assert client.stats(10.0).appended_records >= acknowledged
        assert writer.close(10.0)
        with ReplayClient(address) as client:
            while client.stats(10.0).tables[0].available >= 64:
                delivered += _drawn(sampler, 1.0)
            listed = [(record.header.sequence, record.payload) for record in client.records(with_payload=True)]
    process.terminate()
    process.wait()

    assert writer.statistics.acknowledged == appended
    assert writer.statistics.reconnects >= 4
    assert listed == [(sequence, payloads[sequence % 64]) for sequence in range(appended)]
    assert delivered == sorted(set(delivered))
    # What each kill may have caught on the way, and the last batches, still under way when nothing more was there.
    assert len(delivered) >= appended - 64 * (5 * PREFETCH + 1)
    with opened(place / "replay") as store:
        assert verify_chain(store).records == appended


def _drawn(sampler: ReplaySampler, timeout_s: float) -> list[int]:
    try:
        return [int(position) for position in sampler.next(timeout_s).positions]
    except SampleTimeout:
        return []
