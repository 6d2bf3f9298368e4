"""What the replay benchmark measures of one server: inserts, acknowledgements, samples, and what they cost.

Inserts are counted by the server, between two looks at its counters while all writers write: warm-up is over by then.
A writer's latency "under load" is mostly its window, divided by the speed; alone it is one record appended and waited
for. A sampler's latency is the time between two batches of a learner that does nothing else.

Exceptions: BenchmarkError where anything fails, takes too long, or would make a figure that means something else.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process_group import BenchmarkError
from benchmarks.replay_process import ANSWER_S, BenchmarkProcess, MemoryUse, all_started
from benchmarks.replay_systems import Disk, Load, Served, Spec, System

FILL_S = 600.0
FILLED_PER_S_MIN = 2_000
"""A server may take FILL_S to be filled, and longer where this many records a second take longer."""

PROCESSES_MAX = 4
SLACK_S = 2.0
"""Writers go on for so long after what is measured, which is not over until the server has said its counters."""


@dataclass(frozen=True)
class Timing:
    """How long things are measured (s)."""

    warm_up_s: float
    seconds: float


@dataclass(frozen=True)
class Inserts:
    """What writers came to.

    Attributes:
      inserts_per_s: records that the server had stored, per second.
      ack_ms_p99: the slowest writer's 99th percentile, under load; None where it cannot be told.
      server_cpu, writer_cpu: cores used, of the server and of all writers.
    """

    inserts_per_s: float
    ack_ms_p99: float | None
    server_cpu: float
    writer_cpu: float


@dataclass(frozen=True)
class Samples:
    """What one sampler came to; the latency is between batches."""

    samples_per_s: float
    batch_ms_p50: float
    batch_ms_p99: float


@dataclass(frozen=True)
class Footprint:
    """What a server takes up with the records it keeps, and before it had any."""

    records: int
    memory: MemoryUse
    memory_empty: MemoryUse
    disk: Disk


@contextlib.contextmanager
def server(system: System, directory: Path, load: Load, way: Spec | None = None) -> Iterator[Served]:
    """A server of a system, with its files in a new directory, which is removed.

    Args:
      way: how it will be written to; as it is filled, by default.
    """
    directory.mkdir(parents=True)
    try:
        with system.serving(directory, load, way or first_way(system, load)) as served:
            yield served
    finally:
        shutil.rmtree(directory)


def first_way(system: System, load: Load) -> Spec:
    """How a server is filled."""
    return next(iter(system.writing(load.size).values()))


def inserts(system: System, served: Served, load: Load, spec: Spec, timing: Timing, *, streams: int = 2) -> Inserts:
    """Measures inserts by so many writers, each an append stream, in at most PROCESSES_MAX processes."""
    commands = _writers(served, load, {**spec, "one_at_a_time": False}, streams)
    log = load.payloads.parent / "writers.log"
    with all_started(commands, log, system.environment) as writers:
        for writer in writers:
            writer.say(f"{timing.warm_up_s} {timing.seconds + SLACK_S}")
        time.sleep(timing.warm_up_s)
        before, server_s, writers_s = served.counted(), _cpu_s(served.processes), _cpu_s(writers)
        time.sleep(timing.seconds)
        after = served.counted()
        elapsed_s = after.time_s - before.time_s
        server_s, writers_s = _cpu_s(served.processes) - server_s, _cpu_s(writers) - writers_s
        if any(writer.has_answered() for writer in writers):
            raise BenchmarkError(
                f"writers of {system.name} ended before the {elapsed_s:.1f} s in which they were measured: one failed, "
                f"or the counters were more than {SLACK_S:.0f} s late"
            )
        found = [writer.result()["latency_ms"] for writer in writers]
    if after.inserted == before.inserted:
        raise BenchmarkError(f"{system.name} stored nothing in {elapsed_s:.1f} s; see {log}")
    latencies = [latency["p99"] for latency in found if latency]
    return Inserts(
        inserts_per_s=(after.inserted - before.inserted) / elapsed_s,
        ack_ms_p99=max(latencies, default=None),
        server_cpu=server_s / elapsed_s,
        writer_cpu=writers_s / elapsed_s,
    )


def acknowledged_alone(system: System, served: Served, load: Load, spec: Spec, timing: Timing) -> Mapping[str, float]:
    """Percentiles ("p50", "p99") of the time to acknowledge one record (ms), of two writers the slower one's."""
    one = {**spec, "one_at_a_time": True, "lanes": 1}
    with all_started(
        _writers(served, load, one, 2), load.payloads.parent / "writers.log", system.environment
    ) as writers:
        for writer in writers:
            writer.say(f"{timing.warm_up_s} {timing.seconds}")
        longest_s = ANSWER_S + timing.warm_up_s + timing.seconds
        found = [writer.result(longest_s)["latency_ms"] for writer in writers]
    if not all(found):
        raise BenchmarkError(f"{system.name} acknowledged nothing in {timing.seconds:.1f} s to one of its writers")
    return {rank: max(latency[rank] for latency in found) for rank in ("p50", "p99")}


def fill(system: System, served: Served, load: Load, records: int, spec: Spec | None = None) -> None:
    """Writes so many records more, with two writers, and waits for the last. Raises BenchmarkError."""
    if records <= 0:
        return
    spec = spec or first_way(system, load)
    seconds = max(FILL_S, records / FILLED_PER_S_MIN)
    before = served.counted().inserted
    lanes = int(spec.get("lanes", 1))
    each = -(-records // (2 * lanes)) * lanes
    commands = _writers(served, load, {**spec, "one_at_a_time": False, "records": each}, 2)
    with all_started(commands, load.payloads.parent / "writers.log", system.environment) as writers:
        for writer in writers:
            writer.say(f"0 {seconds}")
        for writer in writers:
            writer.result(seconds + ANSWER_S)
    if (written := served.counted().inserted - before) < records:
        raise BenchmarkError(f"{system.name} took in {written:,} of {records:,} records in {seconds:.0f} s")


def samples(system: System, served: Served, load: Load, spec: Spec, timing: Timing) -> Samples:
    """Measures one sampler."""
    log = load.payloads.parent / "samplers.log"
    go = f"{timing.warm_up_s} {timing.seconds}"
    longest_s = ANSWER_S + timing.warm_up_s + timing.seconds
    if spec.get("in_server"):
        (process,) = served.processes
        process.say("sample " + json.dumps(dict(spec)))
        if (line := process.line()) != "ready":
            raise BenchmarkError(f"the server was to sample, and said {line!r}")
        found = process.ask(go, longest_s)
    else:
        with all_started([served.worker("sample", spec)], log, system.environment) as (sampler,):
            found = sampler.ask(go, longest_s)
    return Samples(found["records_per_s"], found["latency_ms"]["p50"], found["latency_ms"]["p99"])


def footprint(served: Served, memory_empty: MemoryUse) -> Footprint:
    """What the server takes up now."""
    return Footprint(served.counted().records, memory_of(served), memory_empty, served.disk())


def memory_of(served: Served) -> MemoryUse:
    """Memory of all processes of a server together."""
    used = [process.memory() for process in served.processes]
    return MemoryUse(sum(each.resident_bytes for each in used), sum(each.own_bytes for each in used))


def _cpu_s(processes: Sequence[BenchmarkProcess]) -> float:
    return sum(process.cpu_s() for process in processes)


def _writers(served: Served, load: Load, spec: Spec, streams: int) -> list[Sequence[str]]:
    processes = min(streams, PROCESSES_MAX)
    return [
        served.worker(
            "write",
            {
                **spec,
                "payloads": str(load.payloads),
                "actors": list(range(number, streams, processes)),
                "first": number * 57,
            },
        )
        for number in range(processes)
    ]
