"""Sections of the replay benchmark in which systems stand side by side: inserts, samples, and the ceiling in memory.

Each round starts every server anew, ours and the peer's in turns, so that what a machine does meanwhile hits both.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.peer_installation import environment
from benchmarks.replay_measure import (
    Timing,
    acknowledged_alone,
    fill,
    footprint,
    inserts,
    memory_of,
    samples,
    server,
)
from benchmarks.replay_process import started
from benchmarks.replay_results import Row
from benchmarks.replay_systems import Load, Spec, System, batch_size

MEGABYTE = 1e6
ONE_AT_A_TIME = ("1 lane", "raw, 4 lanes", "trajectory")
"""Ways whose acknowledgements are also timed one record at a time (lanes do not matter then)."""

KEPT: Mapping[str, int] = {"cartpole": 500_000, "sprites": 1_500, "noise": 1_500}
"""Unrolls that a server keeps of each size."""

LARGE = ("sprites", "noise")

FILLED: Mapping[str, int] = {"cartpole": 100_000, "sprites": 1_500, "noise": 1_500}
"""Unrolls in the server that is sampled."""


class Scratch:
    """Gives out directories that nobody used."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()

    def new(self) -> Path:
        """A directory that does not exist."""
        return self._directory / f"server-{next(self._numbers)}"


def insert_rows(systems: Sequence[System], load: Load, timing: Timing, scratch: Scratch) -> Iterator[Row]:
    """One round of inserts by two writers, a server for each way.

    Large records are written to servers that are full, so that each insert evicts: whoever takes them in faster would
    otherwise be done growing sooner, and growing costs more.
    """
    for system, way, spec in _in_turns(systems, lambda system: system.writing(load.size)):
        with server(system, scratch.new(), load, spec) as served:
            empty = memory_of(served)
            if load.size in LARGE:
                fill(system, served, load, load.records_max, spec)
            found = inserts(system, served, load, spec, timing)
            alone: Mapping[str, float] = {}
            if way in ONE_AT_A_TIME:
                alone = acknowledged_alone(system, served, load, spec, timing)
            taken = footprint(served, empty)
        yield Row(
            "inserts",
            load.size,
            system.name,
            way,
            {
                "inserts/s": found.inserts_per_s,
                "ack p99 ms": found.ack_ms_p99,
                "alone p50 ms": alone.get("p50"),
                "alone p99 ms": alone.get("p99"),
                "server cores": found.server_cpu,
                "writer cores": found.writer_cpu,
                "records": taken.records,
                "server own MB": taken.memory.own_bytes / MEGABYTE,
                "own MB empty": taken.memory_empty.own_bytes / MEGABYTE,
                "server resident MB": taken.memory.resident_bytes / MEGABYTE,
                "disk B/record": taken.disk.file_bytes / max(1, taken.disk.records),
                "file/live": taken.disk.file_bytes / max(1, taken.disk.live_bytes),
            },
        )


def sample_rows(systems: Sequence[System], load: Load, timing: Timing, scratch: Scratch) -> Iterator[Row]:
    """One round of samples by one sampler, all ways of a system from one server that nobody writes to."""
    for system in systems:
        with server(system, scratch.new(), load) as served:
            fill(system, served, load, FILLED[load.size])
            for way, spec in system.sampling(load.size).items():
                found = samples(system, served, load, spec, timing)
                figures = {
                    "samples/s": found.samples_per_s,
                    "batch p50 ms": found.batch_ms_p50,
                    "batch p99 ms": found.batch_ms_p99,
                }
                yield Row("samples", load.size, system.name, way, figures)


def ceiling_rows(peers: Mapping[str, Path], load: Load, timing: Timing, scratch: Scratch) -> Iterator[Row]:
    """One round of buffers in memory in one process, which promise nothing and speak to nobody.

    Args:
      peers: the Python of each one's environment; its script is peer_NAME.py.
    """
    spec = {
        "payloads": str(load.payloads),
        "records_max": FILLED[load.size],
        "batch_size": batch_size(load.size),
        "lanes": 64 if load.size == "cartpole" else 4,
        "seconds": timing.seconds,
    }
    for name, python in peers.items():
        script = Path(__file__).with_name(f"peer_{name}.py")
        directory = scratch.new()
        directory.mkdir(parents=True)
        with started([str(python), str(script), json.dumps(spec)], directory / "log", environment()) as process:
            found = process.result(180.0 + 2 * timing.seconds)
        figures = {"inserts/s": found["inserts_per_s"], "samples/s": found["samples_per_s"]}
        yield Row("ceiling", load.size, name, "in process", figures)


def _in_turns(
    systems: Sequence[System], ways: Callable[[System], Mapping[str, Spec]]
) -> Iterable[tuple[System, str, Spec]]:
    """Every way of every system, no system twice in a row while the others have ways left."""
    columns = [[(system, way, spec) for way, spec in ways(system).items()] for system in systems]
    for row in itertools.zip_longest(*columns):
        yield from (entry for entry in row if entry is not None)
