"""Writers and samplers of Temper's replay as processes, driven by lines on standard input (see replay_process.py).

    python -m benchmarks.replay_worker write SPEC       python -m benchmarks.replay_worker sample SPEC   (SPEC is JSON)

Through the public client only. A writer does what an actor does with N lanes: it puts N unrolls into a buffer laid out
like N payloads, encodes them, makes N headers and appends all of them with one call. A sampler takes batches as a
learner does: arrays [T, B, ...], decoded.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.replay_payloads import Columns, load
from protos.common.v1 import common_pb2
from replay.client_sharded import open_sampler, open_writer
from replay.payload_encoding import ENCODINGS, encode_payload
from replay.schema import Encoding, PayloadLayout, schema_of

TIMEOUT_S = 60.0
DIGEST = bytes(32)

Spec = dict[str, Any]


class Lanes:
    """N lanes of one actor: unrolls from a file, as records."""

    def __init__(self, columns: Columns, lanes: int, first: int, encoding: Encoding) -> None:
        self._columns = columns
        self._lanes = lanes
        self._next = first
        self._encoding = encoding
        self._unrolls, self._steps = columns["action"].shape
        self.schema = schema_of({name: column[0] for name, column in columns.items()}, self._steps)
        layout = PayloadLayout(self.schema)
        self._buffer = np.zeros((lanes, layout.payload_bytes(self._steps)), np.uint8)
        self._views = layout.views(self._buffer, self._steps)

    def records(self) -> tuple[list[common_pb2.RecordHeader], list[bytes]]:
        """The next record of each lane."""
        start = self._next % (self._unrolls - self._lanes + 1)
        self._next += self._lanes
        for name, view in self._views.items():
            view[...] = self._columns[name][start : start + self._lanes]
        payloads = [encode_payload(payload.tobytes(), self._encoding) for payload in self._buffer]
        now_ns = time.time_ns()
        spans = [common_pb2.PolicySpan(first_step=0, version=1, digest=DIGEST)]
        headers = [
            common_pb2.RecordHeader(
                steps=self._steps,
                lane=lane,
                environment_seed=self._next,
                episode=self._next,
                policies=spans,
                start_time_ns=now_ns,
                end_time_ns=now_ns,
                signals={"steps": float(self._steps), "episodes": 0.0, "return": 0.0, "cost": 0.0},
                encoding=self._encoding,
            )
            for lane in range(self._lanes)
        ]
        return headers, payloads


@functools.cache
def payload_bytes_mean(payloads: Path, encoding: str) -> float:
    """Mean size of the payloads of the unrolls in a directory, in an encoding (bytes)."""
    columns = load(payloads)
    lanes, unrolls = Lanes(columns, 1, 0, ENCODINGS[encoding]), len(columns["action"])
    return sum(len(lanes.records()[1][0]) for _ in range(unrolls)) / unrolls


class Stream:
    """One append stream: writes until its time is up and remembers how long acknowledgements took.

    Args:
      spec: what to write, and where.
      columns: the unrolls.
      number: of the stream, among those of this process.
    """

    def __init__(self, spec: Spec, columns: Columns, number: int) -> None:
        self._one_at_a_time = spec["one_at_a_time"]
        self._records_max = spec.get("records") or sys.maxsize
        self._lanes = Lanes(columns, spec["lanes"], spec["first"] + number * 17, ENCODINGS[spec["encoding"]])
        origin = common_pb2.Origin(
            # As the actors of a run are called: by these names they are spread over shards.
            actor_id=f"actor-{spec['actors'][number]:04d}",
            run_id=f"run-{time.time_ns()}-{spec['actors'][number]}",
            environment=common_pb2.EnvironmentIdentity(id="Benchmark-v0", version="1", code_digest=DIGEST),
            schema=self._lanes.schema,
            config_digest=DIGEST,
            source_revision="benchmark",
        )
        self._writer = open_writer(
            spec["address"], origin, window_records=spec["window_records"], window_bytes=spec["window_bytes"]
        )
        self._waiting: collections.deque[tuple[int, float]] = collections.deque()
        self._appended = 0
        self.latencies_s: list[float] = []

    def run(self, timed_s: float, end_s: float) -> None:
        """Writes until `end_s`; what is appended before `timed_s` is not timed. Both on the clock of time.monotonic."""
        while time.monotonic() < end_s and self._appended < self._records_max:
            headers, payloads = self._lanes.records()
            before_s = time.monotonic()
            self._writer.append(headers, payloads, TIMEOUT_S)
            self._appended += len(headers)
            if before_s >= timed_s:
                self._waiting.append((self._appended, before_s))
            if self._one_at_a_time:
                self._writer.flush(TIMEOUT_S)
            self._look()
        self._writer.close(TIMEOUT_S)

    def _look(self) -> None:
        """Notes what has been acknowledged since: at most one append late."""
        acknowledged, now_s = self._writer.statistics.acknowledged, time.monotonic()
        while self._waiting and self._waiting[0][0] <= acknowledged:
            self.latencies_s.append(now_s - self._waiting.popleft()[1])


def write(spec: Spec) -> None:
    """Appends on so many streams from the line that says go for the time in it; fails where one fails."""
    columns = load(Path(spec["payloads"]))
    streams = [Stream(spec, columns, number) for number in range(len(spec["actors"]))]
    _say("ready")
    warm_up_s, seconds = (float(word) for word in sys.stdin.readline().split())
    timed_s = time.monotonic() + warm_up_s
    with ThreadPoolExecutor(len(streams)) as pool:
        for done in [pool.submit(stream.run, timed_s, timed_s + seconds) for stream in streams]:
            done.result()
    _say({"latency_ms": _percentiles(list(itertools.chain.from_iterable(each.latencies_s for each in streams)))})


def sample(spec: Spec) -> None:
    """Draws batches from the line that says go for the time in it."""
    with open_sampler(
        spec["address"],
        "uniform",
        spec["batch_size"],
        prefetch=spec["prefetch"],
        same_host=spec["same_host"],
    ) as sampler:
        sampler.next(TIMEOUT_S)
        _say("ready")
        warm_up_s, seconds = (float(word) for word in sys.stdin.readline().split())
        start_s = time.monotonic() + warm_up_s
        while time.monotonic() < start_s:
            sampler.next(TIMEOUT_S)
        records = 0
        start_s = before_s = time.monotonic()
        latencies_s = []
        while before_s < start_s + seconds:
            records += len(sampler.next(TIMEOUT_S).positions)
            after_s = time.monotonic()
            latencies_s.append(after_s - before_s)
            before_s = after_s
    _say({"records_per_s": records / (before_s - start_s), "latency_ms": _percentiles(latencies_s)})


def _percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {f"p{rank}": float(np.percentile(seconds, rank)) * 1e3 for rank in (50, 99)}


def _say(what: object) -> None:
    print(what if isinstance(what, str) else json.dumps(what), flush=True)


if __name__ == "__main__":
    {"write": write, "sample": sample}[sys.argv[1]](json.loads(sys.argv[2]))
