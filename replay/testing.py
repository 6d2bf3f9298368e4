"""For tests of this and other packages: small valid records, and a service in a thread.

Not imported by production code. The contract of every store is in `store_contract.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.config import ReplayConfig
from replay.provenance import check_batch, check_origin
from replay.schema import PayloadLayout, schema_of
from replay.service import serve
from replay.store import Append, origin_digest, run_key

DIGEST = hashlib.sha256(b"temper").digest()
SERVER_TIMEOUT_S = 20.0


def make_columns(steps: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Arrays of one small record: observation [T + 1, 4], action, reward and mask [T]."""
    generator = np.random.default_rng(seed)
    return {
        "observation": generator.standard_normal((steps + 1, 4), np.float32),
        "action": generator.integers(0, 2, steps, np.int32),
        "reward": np.ones(steps, np.float32),
        "mask": np.ones(steps, np.bool_),
    }


def make_origin(
    actor_id: str = "actor-0",
    run_id: str = "run-0",
    columns: Mapping[str, NDArray[Any]] | None = None,
    steps: int = 2,
    once: Collection[str] = frozenset(),
) -> common_pb2.Origin:
    """A valid origin whose schema is that of `columns` (default: `make_columns`), those in `once` stored once."""
    return common_pb2.Origin(
        actor_id=actor_id,
        run_id=run_id,
        environment=common_pb2.EnvironmentIdentity(id="Test-v0", version="test 1", code_digest=DIGEST),
        schema=schema_of(make_columns(steps) if columns is None else columns, steps, once),
        config_digest=DIGEST,
        source_revision="test",
    )


def make_header(
    steps: int = 2, policy_version: int = 0, signals: Mapping[str, float] | None = None
) -> common_pb2.RecordHeader:
    """A valid header but for sequence and payload_digest, which a ReplayWriter fills in."""
    return common_pb2.RecordHeader(
        steps=steps,
        policies=[common_pb2.PolicySpan(first_step=0, version=policy_version, digest=DIGEST)],
        start_time_ns=1,
        end_time_ns=2,
        signals={"steps": float(steps)} if signals is None else signals,
    )


def make_record(
    origin: common_pb2.Origin,
    sequence: int,
    *,
    steps: int = 2,
    policy_version: int = 0,
    signals: Mapping[str, float] | None = None,
) -> common_pb2.Record:
    """A valid record of an origin with the default schema; its arrays differ by sequence."""
    payload = PayloadLayout(origin.schema).encode(make_columns(steps, seed=sequence))
    header = make_header(steps, policy_version, signals)
    header.sequence = sequence
    header.payload_digest = hashlib.sha256(payload).digest()
    return common_pb2.Record(header=header, payload=payload)


def make_append(origin: common_pb2.Origin, sequences: Sequence[int], **record: Any) -> Append:
    """An Append of valid records of `origin`, ready for Store.commit."""
    records = [make_record(origin, sequence, **record) for sequence in sequences]
    pending = check_batch(records, check_origin(origin))
    return Append(run_key(origin), origin.SerializeToString(deterministic=True), origin_digest(origin), pending)


@contextlib.contextmanager
def serving(
    config: ReplayConfig | None = None, directory: Path | None = None, address: str | None = None, shard: int = 0
) -> Iterator[str]:
    """Runs a replay service in a thread of this process and gives its address; stops it at the end.

    By default the store is in memory and the address a new Unix socket. What the service raised is raised here.
    """
    sockets = Path(tempfile.mkdtemp(prefix="temper-"))
    ready = threading.Event()
    stops: list[Callable[[], object]] = []
    failures: list[BaseException] = []
    config = config or ReplayConfig(store="memory")
    address = address or f"unix:{sockets / 'replay.sock'}"

    async def run() -> None:
        stop = asyncio.Event()
        stops.append(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
        await serve(
            config, directory or sockets / "replay", address, on_ready=lambda _: ready.set(), stop=stop, shard=shard
        )

    def run_in_thread() -> None:
        try:
            asyncio.run(run())
        except Exception as error:  # noqa: BLE001  raised in the caller's thread below
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run_in_thread, name="replay-service", daemon=True)
    thread.start()
    try:
        if not ready.wait(SERVER_TIMEOUT_S):
            raise TimeoutError(f"the replay service did not start in {SERVER_TIMEOUT_S} s")
        if not failures:
            yield address
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has closed already where the service failed
            for stop in stops:
                stop()
        thread.join(SERVER_TIMEOUT_S)
        shutil.rmtree(sockets, ignore_errors=True)
    if failures:
        raise failures[0]
