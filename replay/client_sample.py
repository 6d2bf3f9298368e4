"""ReplaySampler: batches of one table, asked for ahead of time and decoded in the background.

One background thread owns the connection, reassembles each batch from its responses and decodes it to time-major
arrays. Where the service's files can be read from here it asks for positions only and reads the records itself
(same_host.py). After a break it reconnects, says in the log why it had to, once a reason, and asks again for what is
missing; a service that is there, but fails over and over, is given up. Batches of `fresh` that were on the way when the
connection broke, or that wait here when the process ends, were consumed and do not come again (replay/tables), unless
the sampler was told from where on they are wanted again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client_errors import (
    Backoff,
    FailureLog,
    ReplayError,
    ReplayFaulty,
    ReplayRefused,
    ReplayUnavailable,
    SampleTimeout,
    translate,
)
from replay.packing import unpack
from replay.same_host import SameHostReader, is_local
from replay.sampled_batch import BatchMaker, DrawnRecord, SampledBatch
from replay.schema import SchemaError

__all__ = ["ReplaySampler", "SampledBatch"]

FAULTS_MAX = 20
"""So often a service may fail (INTERNAL, UNKNOWN) without a batch in between, which takes about 20 s."""

_log = logging.getLogger(__name__)

_JOIN_S = 5.0
_RECONNECT_S_MAX = 2.0
_LOOK_S = 5.0
"""How often an idle sampler looks whether there are files that it should let go of."""


class ReplaySampler:
    """Draws batches from one table. `next` is for one thread; close it.

    Args:
      address: of the replay service.
      table: name of a table, e.g. "fresh" or "uniform".
      batch_size: B.
      prefetch: batches asked for ahead, at least 1; for `fresh`, as many may be lost with this process.
      same_host: whether to read payloads from the service's files; None: where that can be done.
      again_from: of a table that gives each record once: from this position on every record comes, those that were
        drawn before too, and none is lost on its way. For the table's only consumer. None: what was not drawn yet.

    Raises:
      AddressError: `address` cannot be parsed.

    Attributes:
      next_position: where to go on from after the batches delivered so far; None if `again_from` was.
    """

    def __init__(
        self,
        address: str,
        table: str,
        batch_size: int,
        *,
        prefetch: int = 2,
        same_host: bool | None = None,
        again_from: int | None = None,
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch = {prefetch} must be at least 1: nothing would ever be asked for")
        self._address = address
        self._table = table
        self._batch_size = batch_size
        self._prefetch = prefetch
        self._same_host = same_host
        self.next_position = again_from
        self._condition = threading.Condition()
        self._ready: deque[SampledBatch | SchemaError] = deque()
        self._asked = 0
        self._missing = 0
        self._waiting_s = 0.0
        self._refusal: ReplayError | None = None
        self._failure: ReplayError | None = None
        self._faults = 0
        self._failures = FailureLog(_log)
        self._closing = False
        self._call: Any = None
        self._backoff = Backoff(_RECONNECT_S_MAX)
        self._maker = BatchMaker()
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
          ReplayRefused: the service refused the request, e.g. an unknown table; or failed FAULTS_MAX times in a row.
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
            why = str(self._failure or "")
        since = f" (since the last batch: {why})" if why else ""
        raise SampleTimeout(
            f"no batch of {self._table!r} from replay at {self._address} in {timeout_s:.1f} s{since}", why
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
        stub = replay_pb2_grpc.ReplayStub(self._channel)
        while not self._is_done():
            try:
                self._sample(stub)
                self._fail(ReplayUnavailable(f"replay at {self._address} ended the stream"))
            except grpc.RpcError as error:
                self._fail(translate(error, self._address))
            except ReplayRefused as error:
                self._fail(error)
            except _FilesUnreadable as error:
                # Once is enough: over the wire the service says what is wrong with them.
                self._same_host = False
                self._fail(ReplayUnavailable(str(error)))
            except Exception as error:  # noqa: BLE001  a thread that died in silence would leave callers waiting
                self._fail(ReplayRefused(f"replay at {self._address} answered what it must not: {error!r}"))
            with self._condition:
                if self._refusal is None:
                    self._condition.wait_for(lambda: self._closing, self._backoff.next_s())

    def _sample(self, stub: replay_pb2_grpc.ReplayStub) -> None:
        """One connection, until it breaks."""
        wanted = is_local(self._address) if self._same_host is None else self._same_host
        reader = SameHostReader.find(stub) if wanted else None
        if reader is None and self._same_host:
            raise ReplayRefused(f"the files of replay at {self._address} cannot be read from this host")
        ended = threading.Event()
        call: Any = None
        try:
            call = stub.Sample(self._requests(ended, reader))
            with self._condition:
                self._call = call
                if self._closing:
                    call.cancel()
            if reader is None:
                self._receive(call)
            else:
                self._receive_keys(call, reader)
        finally:
            if call is not None:
                call.cancel()
            if reader is not None:
                reader.close()
            with self._condition:
                ended.set()
                self._asked = self._missing = 0
                self._condition.notify_all()

    def _is_done(self) -> bool:
        return self._closing or self._refusal is not None

    def _fail(self, error: ReplayError) -> None:
        if isinstance(error, ReplayFaulty):
            self._faults += 1
            if self._faults >= FAULTS_MAX:
                error = ReplayRefused(
                    f"{error}; so it did {self._faults} times without giving a batch of {self._table!r}"
                )
        if not isinstance(error, ReplayRefused) and not self._closing:
            self._failures.failed(f"waiting for batches of {self._table!r}: {error}")
        with self._condition:
            self._failure = error
            self._refusal = error if isinstance(error, ReplayRefused) else None
            self._condition.notify_all()

    def _requests(self, ended: threading.Event, reader: SameHostReader | None) -> Iterator[replay_pb2.SampleRequest]:
        # Of keys, several batches are asked for at once: a message for each takes as long as reading some records.
        several = reader is not None and reader.takes_batches
        again_from = self.next_position
        room_min = (self._prefetch + 1) // 2 if several else 1
        while True:
            with self._condition:
                due = self._condition.wait_for(
                    lambda: ended.is_set() or self._missing or self._room() >= room_min,
                    _LOOK_S if reader is not None else None,
                )
                if ended.is_set():
                    return
                # What could not be read comes first: a batch waits for it. But no more at once than a batch has: a
                # table may never be able to give more.
                again = min(self._missing, self._batch_size)
                batches = self._room() if several and not again else 1
                if due:
                    self._missing -= again
                    self._asked += 0 if again else batches
            if due:
                yield replay_pb2.SampleRequest(
                    table=self._table,
                    batch_size=again or self._batch_size,
                    keys_only=reader is not None,
                    batches=batches,
                    again_from=again_from,
                )
                again_from = None
            elif reader is not None:
                reader.look()

    def _room(self) -> int:
        """Batches that may be asked for."""
        return self._prefetch - self._asked - len(self._ready)

    def _receive(self, responses: Iterator[replay_pb2.SampleResponse]) -> None:
        origins: dict[int, common_pb2.Origin] = {}
        records: list[DrawnRecord] = []
        for response in responses:
            origins.update(response.origins)
            for record, probability in zip(unpack(response.records), response.probabilities, strict=True):
                header = common_pb2.RecordHeader.FromString(record.header)
                origin = origins[record.origin_id]
                records.append(DrawnRecord(record.position, header, origin, record.payload, probability))
            if response.end_of_batch:
                self._deliver(records, response.available)
                records = []

    def _receive_keys(self, responses: Iterator[replay_pb2.SampleResponse], reader: SameHostReader) -> None:
        """As `_receive`, with records read from the service's files; those that are gone are asked for again."""
        from replay.store import StoreError  # noqa: PLC0415  known where there is a reader

        kept: list[DrawnRecord] = []
        for response in responses:
            positions = list(response.records.positions)
            probability_of = dict(zip(positions, response.probabilities, strict=True))
            try:
                with reader.lend(positions) as stored:
                    # One pass, and nothing looked up twice: this is where the time of small records goes.
                    parse, origin_of = common_pb2.RecordHeader.FromString, reader.origin
                    drawn = [
                        DrawnRecord(position, parse(header), origin_of(origin_id), payload, probability_of[position])
                        for position, origin_id, header, payload, _, _ in stored
                    ]
                    if not kept and len(drawn) == self._batch_size:
                        self._deliver(drawn, response.available)
                        continue
                    # Kept beyond this transaction, so copied out of the map.
                    kept += [record._replace(payload=bytes(record.payload)) for record in drawn]
            except (StoreError, OSError) as error:
                raise _FilesUnreadable(str(error)) from error
            self._complete(kept, len(positions) - len(drawn), response.available)

    def _complete(self, kept: list[DrawnRecord], missing: int, available: int) -> None:
        while len(kept) >= self._batch_size:
            self._deliver(kept[: self._batch_size], available)
            del kept[: self._batch_size]
        with self._condition:
            self._missing += missing
            self._condition.notify_all()

    def _deliver(self, records: list[DrawnRecord], available: int) -> None:
        batch: SampledBatch | SchemaError
        try:
            batch = self._maker.make(records, available)
        except SchemaError as error:
            batch = error
        with self._condition:
            if self.next_position is not None:
                self.next_position = records[-1].position + 1
            self._asked -= 1
            self._failure, self._faults = None, 0
            self._failures.worked()
            self._ready.append(batch)
            self._backoff.reset()
            self._condition.notify_all()


class _FilesUnreadable(Exception):
    """The service's files are here, but cannot be read."""
