"""The sections of the replay benchmark about what does not stay small: writers, shards, records, evictions.

Flat is the goal: a figure at the end of a series should be what it was at its beginning.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from benchmarks.process_group import BenchmarkError
from benchmarks.replay_comparison import MEGABYTE, Scratch
from benchmarks.replay_measure import Timing, fill, first_way, inserts, memory_of, samples, server
from benchmarks.replay_results import Row
from benchmarks.replay_systems import Load, Served, Spec, System, Temper

WATCH_S = 0.25

_LANES_OF_MANY = 16
_LANES_OF_TINY = 256
_IN_FLIGHT_OF_MANY = 100


def writer_rows(
    systems: Sequence[System], load: Load, streams: Sequence[int], timing: Timing, scratch: Scratch
) -> Iterator[Row]:
    """Inserts by more and more append streams at once, all of them in few processes."""
    for count in streams:
        for system in systems:
            spec = dict(first_way(system, load))
            for name, value in (("lanes", _LANES_OF_MANY), ("in_flight", _IN_FLIGHT_OF_MANY)):
                if name in spec:
                    spec[name] = value
            with server(system, scratch.new(), load) as served:
                found = inserts(system, served, load, spec, timing, streams=count)
                own_bytes = memory_of(served).own_bytes
            figures = {
                "inserts/s": found.inserts_per_s,
                "ack p99 ms": found.ack_ms_p99,
                "server cores": found.server_cpu,
                "server own MB": own_bytes / MEGABYTE,
            }
            yield Row("writers", load.size, system.name, f"{count} writers", figures)


def shard_rows(
    load: Load, shards: Sequence[int], streams: Sequence[int], timing: Timing, scratch: Scratch
) -> Iterator[Row]:
    """Inserts over so many shards by so many writers, each of which writes to one of the shards."""
    for writers in streams:
        for count in shards:
            system = Temper(count)
            with server(system, scratch.new(), load) as served:
                found = inserts(system, served, load, first_way(system, load), timing, streams=writers)
            figures = {
                "inserts/s": found.inserts_per_s,
                "ack p99 ms": found.ack_ms_p99,
                "server cores": found.server_cpu,
                "writer cores": found.writer_cpu,
            }
            yield Row("shards", load.size, system.name, f"{count} shards, {writers} writers", figures)


def record_rows(system: System, load: Load, counts: Sequence[int], timing: Timing, scratch: Scratch) -> Iterator[Row]:
    """Inserts and samples with more and more records in the store, none of them evicted.

    Each time in a server of its own: measuring inserts makes more records than the smaller counts have.
    """
    spec = {**first_way(system, load), "lanes": _LANES_OF_TINY}
    for count in counts:
        with server(system, scratch.new(), load, spec) as served:
            fill(system, served, load, count, spec)
            yield Row("records", load.size, system.name, f"{count:,}", _all(system, served, load, spec, timing))


def eviction_rows(
    system: System, load: Load, turnovers: Sequence[int], timing: Timing, scratch: Scratch
) -> Iterator[Row]:
    """Inserts, samples and disk space after the whole store was evicted again and again.

    Args:
      load: whose records_max is what the store keeps.
      turnovers: ascending; after so many times records_max records the store is measured.
    """
    spec = first_way(system, load)
    filled = False
    with server(system, scratch.new(), load) as served:
        for count in turnovers:
            with _watched(served) as watch:
                fill(system, served, load, max(0, count * load.records_max - served.counted().inserted), spec)
                figures = _all(system, served, load, spec, timing)
            # While the store fills for the first time there is nothing that the files could be compared with.
            figures["file/live most"] = watch.most if filled else None
            filled = True
            yield Row("eviction", load.size, system.name, f"{count} times", figures)


def _all(system: System, served: Served, load: Load, spec: Spec, timing: Timing) -> dict[str, float | None]:
    """Samples first: measuring inserts makes more records."""
    figures: dict[str, float | None] = {}
    for way, how in system.sampling(load.size).items():
        drawn = samples(system, served, load, how, timing)
        figures |= {f"{way} samples/s": drawn.samples_per_s, f"{way} p99 ms": drawn.batch_ms_p99}
    disk = served.disk()
    written = inserts(system, served, load, spec, timing)
    figures |= {"inserts/s": written.inserts_per_s, "ack p99 ms": written.ack_ms_p99}
    figures["server own MB"] = memory_of(served).own_bytes / MEGABYTE
    figures["disk B/record"] = disk.file_bytes / max(1, disk.records)
    figures["file/live"] = disk.file_bytes / max(1, disk.live_bytes)
    figures["segments"] = disk.segments
    return figures


class _DiskWatch(threading.Thread):
    """Looks at a server's disk space until it is stopped; `most` is the largest ratio of file to live bytes."""

    def __init__(self, served: Served) -> None:
        super().__init__(name="disk-watch", daemon=True)
        self._served = served
        self._stopped = threading.Event()
        self._failure: BenchmarkError | None = None
        self.most = 0.0

    def run(self) -> None:
        while not self._stopped.wait(WATCH_S):
            try:
                disk = self._served.disk()
            except BenchmarkError as error:
                self._failure = error
                return
            self.most = max(self.most, disk.file_bytes / max(1, disk.live_bytes))

    def stop(self) -> None:
        """Returns when it has ended. Raises BenchmarkError where it ended before."""
        self._stopped.set()
        self.join()
        if self._failure is not None:
            raise self._failure


@contextlib.contextmanager
def _watched(served: Served) -> Iterator[_DiskWatch]:
    watch = _DiskWatch(served)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
