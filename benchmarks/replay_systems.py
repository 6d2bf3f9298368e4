"""The systems that the replay benchmark compares, as processes: how each is served, written to and sampled.

A *way* is one of several manners of doing the same with a system; the peer gets all that we know of. Both systems keep
the same number of records and are sent the same unrolls.

Exceptions: BenchmarkError where a server fails, or does not answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.peer_installation import environment
from benchmarks.process_group import BenchmarkError
from benchmarks.replay_process import ANSWER_S, BenchmarkProcess, started
from benchmarks.replay_worker import payload_bytes_mean
from protos.replay.v1 import replay_pb2
from replay.client import ReplayClient, ReplayError

PEER_SCRIPT = Path(__file__).with_name("peer_reverb.py")
CHECKPOINT_S = 300.0
_MANY = 10**12

Spec = Mapping[str, Any]


class Counted(NamedTuple):
    """A server's own counters at one moment, on the clock of time.monotonic."""

    time_s: float
    inserted: int
    records: int


class Disk(NamedTuple):
    """What the records take on disk (bytes), and how much of that is records; for the peer, a checkpoint of them."""

    file_bytes: int
    live_bytes: int
    records: int
    segments: int = 0


class Load(NamedTuple):
    """What is stored and how: the size of the unrolls, where they are, and how many the server keeps."""

    size: str
    payloads: Path
    records_max: int

    def payload_bytes_max(self, encoding: str) -> int:
        """Bytes of so many unrolls in an encoding: who compresses them must not keep more of them for that."""
        return int(self.records_max * payload_bytes_mean(self.payloads, encoding))


class Served(Protocol):
    """A running server of one system."""

    @property
    def processes(self) -> Sequence[BenchmarkProcess]:
        """The server's processes: one, or one for each shard."""
        ...

    def counted(self) -> Counted:
        """Its counters now."""
        ...

    def disk(self) -> Disk:
        """What it takes on disk."""
        ...

    def worker(self, role: str, spec: Spec) -> Sequence[str]:
        """The command of a worker ("write" or "sample") for this server."""
        ...


class System(Protocol):
    """One system under measurement."""

    name: str
    environment: Mapping[str, str]

    def serving(self, scratch: Path, load: Load, way: Spec) -> contextlib.AbstractContextManager[Served]:
        """Runs a server with an empty store, to be written to in that way; `scratch` exists, and takes its files."""
        ...

    def writing(self, size: str) -> Mapping[str, Spec]:
        """The ways to write unrolls of a size, the first the one to fill a server with."""
        ...

    def sampling(self, size: str) -> Mapping[str, Spec]:
        """The ways to sample unrolls of a size."""
        ...


def batch_size(size: str) -> int:
    """Records of one batch that is sampled."""
    return 32 if size in ("sprites", "noise") else 64


class Temper:
    """Our own replay service, as `temper replay serve` runs it: every insert that is counted is committed and synced.

    Args:
      shards: servers that it consists of; each keeps as much as a single one would.
    """

    name = "temper"

    def __init__(self, shards: int = 1) -> None:
        self.environment: Mapping[str, str] = dict(os.environ)
        self._shards = shards

    @contextlib.contextmanager
    def serving(self, scratch: Path, load: Load, way: Spec) -> Iterator[Served]:
        """See System."""
        settings = {
            # By bytes, not by number: nobody draws from the fresh table here, so its bound must not be met.
            "records_max": _MANY,
            "payload_bytes_max": load.payload_bytes_max(way["encoding"]),
            "fresh_unconsumed_max": _MANY,
        }
        config = scratch / "config.toml"
        lines = (f"{name} = {json.dumps(value)}" for name, value in settings.items())
        config.write_text("\n".join(['recipe = "cartpole"', "[replay]", *lines]), encoding="utf-8")
        command = [sys.executable, "-m", "launch.cli", "replay", "serve", "--config", str(config)]
        command += ["--listen", "127.0.0.1:0", "--directory"]
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(started([*command, str(scratch / f"store-{shard}")], scratch / "log"))
                for shard in range(self._shards)
            ]
            addresses = [process.line().rpartition(" ")[2] for process in processes]
            clients = [stack.enter_context(ReplayClient(address, ANSWER_S)) for address in addresses]
            yield _ServedTemper(processes, ",".join(addresses), clients)

    def writing(self, size: str) -> Mapping[str, Spec]:
        """See System. A lane is an unroll of one `append`: a batched actor has many, the smallest actor one."""
        spec = {"encoding": "none", "window_records": 1024, "window_bytes": 8 * 1024**2}
        if size in ("cartpole", "tiny"):
            return {"64 lanes": {**spec, "lanes": 64}, "1 lane": {**spec, "lanes": 1}}
        raw = {"raw, 4 lanes": {**spec, "lanes": 4}}
        return raw if size == "noise" else {"zstd, 4 lanes": {**spec, "lanes": 4, "encoding": "zstd"}, **raw}

    def sampling(self, size: str) -> Mapping[str, Spec]:
        """See System."""
        spec = {"batch_size": batch_size(size), "prefetch": 4}
        return {"gRPC": {**spec, "same_host": False}, "same host": {**spec, "same_host": True}}


class _ServedTemper:
    def __init__(self, processes: Sequence[BenchmarkProcess], address: str, clients: Sequence[ReplayClient]) -> None:
        self.processes = processes
        self._address = address
        self._clients = clients

    def counted(self) -> Counted:
        stats = self._stats()
        inserted = sum(each.appended_records for each in stats)
        return Counted(time.monotonic(), inserted, sum(each.records for each in stats))

    def disk(self) -> Disk:
        stats = self._stats()
        return Disk(
            file_bytes=sum(each.file_bytes for each in stats),
            live_bytes=sum(each.live_bytes for each in stats),
            records=sum(each.records for each in stats),
            segments=sum(each.segments for each in stats),
        )

    def _stats(self) -> list[replay_pb2.StatsResponse]:
        try:
            return [client.stats() for client in self._clients]
        except ReplayError as error:
            raise BenchmarkError(f"temper gives no counters: {error}") from error

    def worker(self, role: str, spec: Spec) -> Sequence[str]:
        described = json.dumps({**spec, "address": self._address})
        return [sys.executable, "-m", "benchmarks.replay_worker", role, described]


class Reverb:
    """dm-reverb in its own environment, in memory.

    Args:
      python: of its environment.
    """

    name = "reverb"

    def __init__(self, python: Path) -> None:
        self._python = python
        self.environment: Mapping[str, str] = {
            **environment(),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
        }

    @contextlib.contextmanager
    def serving(self, scratch: Path, load: Load, way: Spec) -> Iterator[Served]:
        """See System. What it keeps is counted in items, however they are written."""
        del way
        spec = {
            "payloads": str(load.payloads),
            "records_max": load.records_max,
            "checkpoints": str(scratch / "checkpoints"),
        }
        command = [str(self._python), str(PEER_SCRIPT), "serve", json.dumps(spec)]
        with started(command, scratch / "log", self.environment) as process:
            yield _ServedReverb(process, process.line(), self._python)

    def writing(self, size: str) -> Mapping[str, Spec]:
        """See System. How many items may be in flight is what was fastest."""
        small = size in ("cartpole", "tiny")
        in_flight = 1000 if small else 25
        fastest = {"in_flight": in_flight, "delta_encoded": size == "sprites"}
        return {
            "sequence": {**fastest, "way": "sequence"},
            "unroll": {"way": "unroll", "in_flight": in_flight, "delta_encoded": False},
            "steps": {**fastest, "way": "steps"},
            "trajectory": {"way": "trajectory", "in_flight": 25, "delta_encoded": False},
        }

    def sampling(self, size: str) -> Mapping[str, Spec]:
        """See System."""
        batch = batch_size(size)
        small = size in ("cartpole", "tiny")
        spec = {"batch_size": batch, "in_flight": 3 * batch if small else batch, "prefetch": 2}
        dataset = {**spec, "way": "dataset", "workers": -1 if small else 2}
        return {
            "dataset": dataset,
            "client": {**spec, "way": "client", "workers": 1},
            "dataset in the server's process": {**dataset, "in_server": True},
        }


class _ServedReverb:
    def __init__(self, process: BenchmarkProcess, address: str, python: Path) -> None:
        self.processes = (process,)
        self._process = process
        self._address = address
        self._python = python

    def counted(self) -> Counted:
        return Counted(**self._process.ask("count"))

    def disk(self) -> Disk:
        records = self.counted().records
        size = int(self._process.ask("checkpoint", CHECKPOINT_S)["bytes"])
        return Disk(size, size, records)

    def worker(self, role: str, spec: Spec) -> Sequence[str]:
        described = json.dumps({**spec, "address": self._address})
        return [str(self._python), str(PEER_SCRIPT), role, described]
