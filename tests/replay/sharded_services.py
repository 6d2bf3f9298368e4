"""Several replay services in threads of the test, each of which can be stopped and started again. Not a test."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from replay.client import ReplayWriter
from replay.config import ReplayConfig
from replay.schema import PayloadLayout
from replay.testing import make_columns, make_header, make_origin, serving

TIMEOUT_S = 20.0


class ShardedServices:
    """Durable services at fixed addresses, of which none runs at first. Use as a context manager.

    Args:
      sockets: a directory with a short path.
      directory: where the stores go.
      configs: of each of them.
    """

    def __init__(self, sockets: Path, directory: Path, configs: list[ReplayConfig]) -> None:
        self.each = [f"unix:{sockets / f'replay-{shard}.sock'}" for shard in range(len(configs))]
        self.addresses = ",".join(self.each)
        self._directory = directory
        self._configs = configs
        self._running = [contextlib.ExitStack() for _ in configs]

    def start(self, *shards: int) -> None:
        """Starts these, by default all of them."""
        for shard in shards or range(len(self.each)):
            directory = self._directory / f"shard-{shard}"
            self._running[shard].enter_context(serving(self._configs[shard], directory, self.each[shard], shard))

    def stop(self, shard: int) -> None:
        """Stops one; its store stays."""
        self._running[shard].close()

    def configure(self, shard: int, **settings: object) -> None:
        """Changes settings of one, from its next start on."""
        self._configs[shard] = dataclasses.replace(self._configs[shard], **settings)  # type: ignore[arg-type]

    def __enter__(self) -> ShardedServices:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running:
            running.close()


def append(address: str, count: int, *, run_id: str = "run-0", steps: int = 2, signal: float = 1.0) -> None:
    """Appends records to one service and waits until they are acknowledged; record i has priority (i + 1) * signal."""
    origin = make_origin(run_id=run_id, steps=steps)
    layout = PayloadLayout(origin.schema)
    with ReplayWriter(address, origin, window_records=5000, window_bytes=2**24) as writer:
        headers = [make_header(steps, signals={"error": signal * (index + 1)}) for index in range(count)]
        payloads = [layout.encode(make_columns(steps, seed=index)) for index in range(count)]
        writer.append(headers, payloads, TIMEOUT_S)
        assert writer.flush(TIMEOUT_S)
