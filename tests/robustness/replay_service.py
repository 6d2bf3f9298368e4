"""A real replay process for one test: started, killed and started again at one address; and records for it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from replay.client import ReplayClient, ReplayWriter
from tests.robustness.replay_processes import Server
from tests.robustness.replay_records import make_header, make_origin, payload_of

RUN = "actor-0.run-0"
ROW_BYTES = 256
APPEND_S = 20.0

CONFIG: Mapping[str, Any] = {
    "segment_bytes": 2**18,
    "fresh_unconsumed_max": 100_000,
    "signal_totals": ["steps", "value"],
}


class Service:
    """A replay server as a process. Use `service`, which ends it."""

    def __init__(self, place: Path, config: Mapping[str, Any]) -> None:
        self.place = place
        self.store = place / "store"
        self.address = f"unix:{place / 's'}"
        self.config = {**CONFIG, **config}
        self.server: Server | None = None

    def start(self) -> None:
        """Starts it, and returns when it serves. Raises ServerDied."""
        self.server = Server(self.place / "log")
        self.server.wait_loaded()
        self.server.begin(self.store, self.address, self.config)
        self.server.wait_ready()

    def kill(self) -> None:
        """kill -9."""
        if self.server is not None:
            self.server.kill()
        self.server = None

    def stop(self) -> int:
        """An orderly stop; its exit status."""
        server, self.server = self.server, None
        return server.stop() if server is not None else 0

    def resident_bytes(self) -> int:
        """Memory of its own, without pages of files that it maps."""
        if self.server is None:
            return 0
        used = psutil.Process(self.server.pid).memory_info()
        return int(used.rss - used.shared)

    def is_alive(self) -> bool:
        """Whether the process that was started last runs."""
        return self.server is not None and psutil.Process(self.server.pid).status() != psutil.STATUS_ZOMBIE

    def writer(self, run_id: str = RUN, row_bytes: int = ROW_BYTES) -> ReplayWriter:
        """A writer of a run; close it."""
        origin = make_origin(run_id, row_bytes)
        return ReplayWriter(self.address, origin, window_records=256, window_bytes=2**22, reconnect_ms_max=50)

    def client(self) -> ReplayClient:
        """A client; close it."""
        return ReplayClient(self.address)


@contextlib.contextmanager
def service(**config: Any) -> Iterator[Service]:
    """A service in a new directory with a short path, killed and removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="temper-"))
    running = Service(place, config)
    try:
        running.start()
        yield running
    finally:
        running.kill()
        shutil.rmtree(place)


def append(writer: ReplayWriter, sequences: range, run_id: str = RUN, row_bytes: int = ROW_BYTES) -> None:
    """Appends these records of a run, which must be its next, a few at a time."""
    for start in range(sequences.start, sequences.stop, 16):
        part = range(start, min(start + 16, sequences.stop))
        headers = [make_header(run_id, sequence) for sequence in part]
        writer.append(headers, [payload_of(run_id, sequence, row_bytes) for sequence in part], APPEND_S)


def sequences_in(running: Service, run_id: str = RUN, row_bytes: int = ROW_BYTES) -> list[int]:
    """Sequences of a run in the store, in log order, each record compared with what it must be."""
    found = []
    with running.client() as client:
        client.stats()  # waits for a connection, which `records` does not
        for record in client.records(with_payload=True):
            if record.origin.run_id == run_id:
                assert record.payload == payload_of(run_id, record.header.sequence, row_bytes)
                found.append(record.header.sequence)
    return found
