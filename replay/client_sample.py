"""ReplaySampler: batches of one table, asked for ahead of time and decoded in the background.

One background thread owns the connection, reassembles each batch from its responses and decodes it to time-major
arrays. After a break it reconnects and asks again for what is missing. Batches of `fresh` that were on the way when
the connection broke, or that wait here when the process ends, were consumed and do not come again (tables.py).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client_errors import Backoff, ReplayError, ReplayRefused, ReplayUnavailable, SampleTimeout, translate
from replay.schema import PayloadLayout, SchemaError

_JOIN_S = 5.0
_RECONNECT_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """B records of equal schema and equal T, in the order in which they were drawn."""

    positions: NDArray[np.uint64]
    """[B] positions in the store's log."""
    headers: list[common_pb2.RecordHeader]
    origins: list[common_pb2.Origin]
    columns: dict[str, NDArray[Any]]
    """Time-major: [T, B, ...], or [T + 1, B, ...] where the schema has a row beyond the steps."""
    probabilities: NDArray[np.float64]
    """[B] probability of each record in this draw; 1 for a FIFO table."""


class ReplaySampler:
    """Draws batches from one table. `next` is for one thread; close it.

    Args:
      address: of the replay service.
      table: "fresh" or "uniform".
      batch_size: B.
      prefetch: batches asked for ahead, at least 1; for `fresh`, as many may be lost with this process.

    Raises:
      AddressError: `address` cannot be parsed.
    """

    def __init__(self, address: str, table: str, batch_size: int, *, prefetch: int = 2) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch = {prefetch} must be at least 1: nothing would ever be asked for")
        self._address = address
        self._request = replay_pb2.SampleRequest(table=table, batch_size=batch_size)
        self._prefetch = prefetch
        self._condition = threading.Condition()
        self._ready: deque[SampledBatch | SchemaError] = deque()
        self._asked = 0
        self._waiting_s = 0.0
        self._refusal: ReplayError | None = None
        self._failure: ReplayError | None = None
        self._closing = False
        self._call: Any = None
        self._backoff = Backoff(_RECONNECT_S_MAX)
        self._layouts: dict[bytes, PayloadLayout] = {}
        self._channel = transport.channel(address)
        self._thread = threading.Thread(target=self._run, name="replay-sample", daemon=True)
        self._thread.start()

    def __enter__(self) -> ReplaySampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waiting_s(self) -> float:
        """Total time that `next` waited for a batch (s)."""
        return self._waiting_s

    def next(self, timeout_s: float) -> SampledBatch:
        """The next batch.

        Raises:
          SampleTimeout: none arrived in time; nothing is lost, call again.
          ReplayRefused: the service refused the request, e.g. an unknown table.
          ReplayUnavailable: the sampler is closed.
          SchemaError: the records of this batch differ in schema or in T; the next call goes on with the next batch.
        """
        start_s = time.monotonic()
        with self._condition:
            self._condition.wait_for(lambda: self._ready or self._refusal or self._closing, timeout_s)
            self._waiting_s += time.monotonic() - start_s
            if self._ready:
                batch = self._ready.popleft()
                self._condition.notify_all()
                if isinstance(batch, SchemaError):
                    raise batch
                return batch
            if self._refusal is not None:
                raise self._refusal
            if self._closing:
                raise ReplayUnavailable(f"the sampler of replay at {self._address} is closed")
            why = f" (since the last batch: {self._failure})" if self._failure is not None else ""
        raise SampleTimeout(
            f"no batch of {self._request.table!r} from replay at {self._address} in {timeout_s:.1f} s{why}"
        )

    def close(self) -> None:
        """Ends the connection; what waits here is dropped. A second call does nothing."""
        with self._condition:
            self._closing = True
            self._ready.clear()
            call = self._call
            self._condition.notify_all()
        if call is not None:
            call.cancel()
        self._thread.join(_JOIN_S)
        self._channel.close()

    def _run(self) -> None:
        sample = replay_pb2_grpc.ReplayStub(self._channel).Sample
        while not self._is_done():
            ended = threading.Event()
            call: Any = None
            try:
                call = sample(self._requests(ended))
                with self._condition:
                    self._call = call
                    if self._closing:
                        call.cancel()
                self._receive(call)
            except grpc.RpcError as error:
                failure = translate(error, self._address)
                with self._condition:
                    self._failure = failure
                    self._refusal = failure if isinstance(failure, ReplayRefused) else None
            except Exception as error:  # noqa: BLE001  a thread that died in silence would leave callers waiting
                self._refusal = ReplayRefused(f"replay at {self._address} answered what it must not: {error!r}")
            finally:
                if call is not None:
                    call.cancel()
                with self._condition:
                    ended.set()
                    self._asked = 0
                    self._condition.notify_all()
            with self._condition:
                if self._refusal is None:
                    self._condition.wait_for(lambda: self._closing, self._backoff.next_s())

    def _is_done(self) -> bool:
        return self._closing or self._refusal is not None

    def _requests(self, ended: threading.Event) -> Iterator[replay_pb2.SampleRequest]:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: ended.is_set() or self._asked + len(self._ready) < self._prefetch)
                if ended.is_set():
                    return
                self._asked += 1
            yield self._request

    def _receive(self, responses: Iterator[replay_pb2.SampleResponse]) -> None:
        origins: dict[int, common_pb2.Origin] = {}
        records: list[replay_pb2.SampledRecord] = []
        for response in responses:
            origins.update(response.origins)
            records.extend(response.records)
            if not response.end_of_batch:
                continue
            batch = self._decoded(records, origins)
            records = []
            with self._condition:
                self._asked -= 1
                self._failure = None
                self._ready.append(batch)
                self._backoff.reset()
                self._condition.notify_all()

    def _decoded(
        self, records: list[replay_pb2.SampledRecord], origins: dict[int, common_pb2.Origin]
    ) -> SampledBatch | SchemaError:
        try:
            return self._decode(records, origins)
        except SchemaError as error:
            return error

    def _decode(self, records: list[replay_pb2.SampledRecord], origins: dict[int, common_pb2.Origin]) -> SampledBatch:
        headers = [record.header for record in records]
        own = [origins[record.origin_id] for record in records]
        steps, schema = headers[0].steps, own[0].schema
        for header, origin in zip(headers, own, strict=True):
            if header.steps != steps:
                raise SchemaError(
                    f"a batch mixes records of T = {steps} and T = {header.steps}: they cannot be stacked"
                )
            if origin is not own[0] and origin.schema != schema:
                raise SchemaError(
                    f"a batch mixes schemas: actor {own[0].actor_id!r} writes {_described(schema)}, "
                    f"actor {origin.actor_id!r} writes {_described(origin.schema)}: they cannot be stacked"
                )
        key = schema.SerializeToString(deterministic=True)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = PayloadLayout(schema)
        return SampledBatch(
            positions=np.array([record.position for record in records], np.uint64),
            headers=headers,
            origins=own,
            columns=layout.decode_batch([record.payload for record in records], steps),
            probabilities=np.array([record.probability for record in records], np.float64),
        )


def _described(schema: common_pb2.Schema) -> str:
    return ", ".join(f"{column.name} {column.dtype}{list(column.shape)}" for column in schema.columns)
