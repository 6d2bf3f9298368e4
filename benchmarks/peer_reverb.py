"""dm-reverb's server, writers and samplers as processes, driven by lines on standard input (see replay_process.py).

    peer_reverb.py serve SPEC       peer_reverb.py write SPEC       peer_reverb.py sample SPEC      (SPEC is JSON)

Runs inside the peer's own environment and imports nothing of Temper's. There are several ways to do the same with
Reverb, and its users write the first ones; the others are the fastest that we found:

    trajectory   TrajectoryWriter, one `append` a step, one chunk an unroll: what Reverb's documentation recommends
    steps        the older Writer, one `append` a step
    sequence     the older Writer, `append_sequence` of a whole unroll (delta_encoded where that helps)
    unroll       the older Writer, a whole unroll as one step of a table whose rows are unrolls

    dataset      TrajectoryDataset, batched and prefetched by tf.data: what its documentation recommends
    client       Client.sample, records one by one, not even put together to batches
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import reverb  # type: ignore[import-not-found, import-untyped, unused-ignore]  # in the peer's environment only
import tensorflow as tf  # type: ignore[import-not-found, import-untyped, unused-ignore]

TABLE = "uniform"
_MANY = 10**9

Spec = dict[str, Any]


def serve(spec: Spec) -> None:
    """Answers each line with its counters, or with what a checkpoint took; until standard input ends."""
    columns = _load(spec)
    signature = {name: tf.TensorSpec(column.shape[1:], column.dtype) for name, column in columns.items()}
    del columns
    table = reverb.Table(
        TABLE,
        reverb.selectors.Uniform(),
        reverb.selectors.Fifo(),
        max_size=spec["records_max"],
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature,
    )
    checkpointer = reverb.platform.checkpointers_lib.DefaultCheckpointer(path=spec["checkpoints"])
    server = reverb.Server([table], checkpointer=checkpointer)
    _say(f"localhost:{server.port}")
    for line in sys.stdin:
        if line.strip() == "checkpoint":
            start_s = time.monotonic()
            path = Path(server.localhost_client().checkpoint())
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            _say({"bytes": size, "seconds": time.monotonic() - start_s})
        elif line.startswith("sample "):
            sample({**json.loads(line.partition(" ")[2]), "address": f"localhost:{server.port}"})
        else:
            info = table.info
            inserted = info.rate_limiter_info.insert_stats.completed
            _say({"time_s": time.monotonic(), "inserted": inserted, "records": info.current_size})
    server.stop()


def write(spec: Spec) -> None:
    """Inserts unrolls on so many streams from the line that says go for the time in it; fails where one fails."""
    columns = _load(spec)
    client = reverb.Client(spec["address"])
    _say("ready")
    warm_up_s, seconds = (float(word) for word in sys.stdin.readline().split())
    timed_s = time.monotonic() + warm_up_s
    latencies_s: list[float] = []
    streams = len(spec["actors"])

    def stream(number: int) -> None:
        first = spec["first"] + number * 17
        _write_stream(spec, columns, client, first, timed_s=timed_s, end_s=timed_s + seconds, latencies_s=latencies_s)

    with ThreadPoolExecutor(streams) as pool:
        for done in [pool.submit(stream, number) for number in range(streams)]:
            done.result()
    _say({"latency_ms": _percentiles(latencies_s)})


def sample(spec: Spec) -> None:
    """Draws batches from the line that says go for the time in it."""
    batches = _dataset(spec) if spec["way"] == "dataset" else _client(spec)
    next(batches)
    _say("ready")
    warm_up_s, seconds = (float(word) for word in sys.stdin.readline().split())
    start_s = time.monotonic() + warm_up_s
    while time.monotonic() < start_s:
        next(batches)
    records = 0
    start_s = before_s = time.monotonic()
    latencies_s = []
    while before_s < start_s + seconds:
        records += next(batches)
        after_s = time.monotonic()
        latencies_s.append(after_s - before_s)
        before_s = after_s
    _say({"records_per_s": records / (before_s - start_s), "latency_ms": _percentiles(latencies_s)})


def _write_stream(
    spec: Spec, columns: Spec, client: Any, first: int, *, timed_s: float, end_s: float, latencies_s: list[float]
) -> None:
    unrolls = len(columns["action"])
    index = first
    stop_at = spec.get("records") or sys.maxsize
    insert, settle, close = _WAYS[spec["way"]](spec, columns, client)
    done = 0
    while done < stop_at and time.monotonic() < end_s:
        before_s = time.monotonic()
        insert(index % unrolls)
        if spec["one_at_a_time"]:
            settle()
            if before_s >= timed_s:
                latencies_s.append(time.monotonic() - before_s)
        index += 1
        done += 1
    close()


Way = tuple[Callable[[int], None], Callable[[], None], Callable[[], None]]


def _trajectory(spec: Spec, columns: Spec, client: Any) -> Way:
    steps = columns["action"].shape[1]
    writer = client.trajectory_writer(num_keep_alive_refs=steps)
    for name in columns:
        writer.configure((name,), num_keep_alive_refs=steps, max_chunk_length=steps)

    def insert(unroll: int) -> None:
        for step in range(steps):
            writer.append({name: column[unroll, step] for name, column in columns.items()})
        trajectory = {name: writer.history[name][-steps:] for name in columns}
        writer.create_item(TABLE, 1.0, trajectory)
        writer.flush(block_until_num_items=spec["in_flight"])

    return insert, writer.flush, writer.flush


def _older(spec: Spec, steps: int, client: Any) -> Any:
    return client.writer(
        max_sequence_length=steps,
        chunk_length=steps,
        delta_encoded=spec["delta_encoded"],
        max_in_flight_items=spec["in_flight"],
    )


def _steps(spec: Spec, columns: Spec, client: Any) -> Way:
    steps = columns["action"].shape[1]
    writer = _older(spec, steps, client)

    def insert(unroll: int) -> None:
        for step in range(steps):
            writer.append({name: column[unroll, step] for name, column in columns.items()})
        writer.create_item(TABLE, steps, 1.0)

    return insert, writer.flush, writer.close


def _sequence(spec: Spec, columns: Spec, client: Any) -> Way:
    steps = columns["action"].shape[1]
    writer = _older(spec, steps, client)

    def insert(unroll: int) -> None:
        writer.append_sequence({name: column[unroll] for name, column in columns.items()})
        writer.create_item(TABLE, steps, 1.0)

    return insert, writer.flush, writer.close


def _unroll(spec: Spec, columns: Spec, client: Any) -> Way:
    writer = _older(spec, 1, client)

    def insert(unroll: int) -> None:
        writer.append({name: column[unroll] for name, column in columns.items()})
        writer.create_item(TABLE, 1, 1.0)

    return insert, writer.flush, writer.close


_WAYS: dict[str, Callable[[Spec, Spec, Any], Way]] = {
    "trajectory": _trajectory,
    "steps": _steps,
    "sequence": _sequence,
    "unroll": _unroll,
}


def _dataset(spec: Spec) -> Iterator[int]:
    dataset = reverb.TrajectoryDataset.from_table_signature(
        spec["address"],
        TABLE,
        max_in_flight_samples_per_worker=spec["in_flight"],
        num_workers_per_iterator=spec["workers"],
    )
    for _ in dataset.batch(spec["batch_size"]).prefetch(spec["prefetch"]):
        yield spec["batch_size"]


def _client(spec: Spec) -> Iterator[int]:
    client = reverb.Client(spec["address"])
    size = spec["batch_size"]
    # One sampler for all batches: making one takes longer than a batch does.
    for number, _ in enumerate(client.sample(TABLE, num_samples=_MANY, emit_timesteps=False), 1):
        if number % size == 0:
            yield size


def _load(spec: Spec) -> Spec:
    paths = sorted(Path(spec["payloads"]).glob("*.npy"))
    return {path.stem: np.load(path, allow_pickle=False) for path in paths}


def _percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {f"p{rank}": float(np.percentile(seconds, rank)) * 1e3 for rank in (50, 99)}


def _say(what: object) -> None:
    print(what if isinstance(what, str) else json.dumps(what), flush=True)


if __name__ == "__main__":
    {"serve": serve, "write": write, "sample": sample}[sys.argv[1]](json.loads(sys.argv[2]))
