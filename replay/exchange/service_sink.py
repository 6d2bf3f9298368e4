"""A running service as the place that imported records go to.

A ReplayWriter numbers the records of a new run; here records come with their numbers, and their run may be known. So
each batch goes over a stream of its own, which first says what the service has. Nothing is tried again: after a failure
the import is run again, and goes on where it stopped.

Exceptions: ReplayError (replay.client_errors) where the service refuses or does not answer.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client import ReplayClient
from replay.client_errors import ReplayError, ReplayUnavailable, translate
from replay.exchange.sink import Appended, RunRecords, given_up_below
from replay.record import LoggedRecord
from replay.store import Store

APPEND_TIMEOUT_S = 120.0
"""Longest time for the records of one run in a group: limiters and a slow disk hold them back."""

_MESSAGE_BYTES_MAX = 1024 * 1024


class _Stream(NamedTuple):
    """One call of Append."""

    requests: queue.SimpleQueue[replay_pb2.AppendRequest | None]
    responses: Any
    opened: replay_pb2.AppendOpened


class ServiceSink:
    """A SinkPart that appends to a service.

    Args:
      address: of the service.
      timeout_s: longest time for the records of one run in one call of `append` (s).

    Raises:
      AddressError: `address` cannot be parsed.
    """

    def __init__(self, address: str, timeout_s: float = APPEND_TIMEOUT_S) -> None:
        self.store: Store | None = None
        self._address = address
        self._timeout_s = timeout_s
        self._client = ReplayClient(address)
        self._channel = transport.channel(address)
        self._stub = replay_pb2_grpc.ReplayStub(self._channel)

    def append(self, runs: Sequence[RunRecords]) -> Appended:
        """See RecordSink.append: acknowledged when it returns. Raises ReplayRefused, ReplayUnavailable."""
        parts = [self._append(run) for run in runs]
        return Appended(sum(part.inserted for part in parts), sum(part.duplicates for part in parts))

    def knows(self, origin: common_pb2.Origin) -> bool:
        """See SinkPart.knows. Raises ReplayRefused, ReplayUnavailable."""
        with self._stream(origin, 0) as (_, _, opened):
            return opened.next_sequence > 0

    def records(self, filter_text: str) -> Iterator[LoggedRecord]:
        """See SinkPart.records. Raises ReplayRefused, ReplayUnavailable from the iteration."""
        return self._client.records(filter_text=filter_text)

    def marks(self, positions: Sequence[int]) -> Mapping[int, common_pb2.RecordMarks]:
        """See SinkPart.marks. Raises ReplayRefused, ReplayUnavailable."""
        return {record.position: record.marks for record in self._client.get(positions, with_payload=False)}

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See SinkPart.annotate. Raises ReplayRefused, ReplayUnavailable."""
        return self._client.annotate(signals)

    def close(self) -> None:
        """See RecordSink.close."""
        self._client.close()
        self._channel.close()

    def _append(self, run: RunRecords) -> Appended:
        with self._stream(run.origin, given_up_below(run.records)) as (requests, responses, opened):
            unsent = [record for record in run.records if record.header.sequence >= opened.next_sequence]
            duplicates = len(run.records) - len(unsent)
            inserted = 0
            for message in _messages(unsent, opened):
                requests.put(message)
                acknowledged = self._next(responses).acknowledged
                inserted += len(acknowledged.sequences) - acknowledged.duplicates
                duplicates += acknowledged.duplicates
            return Appended(inserted, duplicates)

    @contextlib.contextmanager
    def _stream(self, origin: common_pb2.Origin, acknowledged_below: int) -> Iterator[_Stream]:
        """A stream that the service has opened. Raises ReplayRefused, ReplayUnavailable, also for what is in it."""
        requests: queue.SimpleQueue[replay_pb2.AppendRequest | None] = queue.SimpleQueue()
        responses = self._stub.Append(iter(requests.get, None), timeout=self._timeout_s)
        try:
            requests.put(replay_pb2.AppendRequest(open=origin, acknowledged_below=acknowledged_below))
            yield _Stream(requests, responses, self._next(responses).opened)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            requests.put(None)
            responses.cancel()

    def _translated(self, error: grpc.RpcError) -> ReplayError:
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return ReplayUnavailable(
                f"replay at {self._address} took longer than {self._timeout_s:g} s to store records: a limiter holds "
                "appends back while nobody draws, or the disk is slow; import again to go on, or stop the service and "
                "import into its directory"
            )
        return translate(error, self._address)

    def _next(self, responses: Any) -> replay_pb2.AppendResponse:
        response: replay_pb2.AppendResponse | None = next(responses, None)
        if response is None:
            raise ReplayUnavailable(f"replay at {self._address} ended the stream: it is stopping")
        return response


def _messages(
    records: Sequence[common_pb2.Record], opened: replay_pb2.AppendOpened
) -> Iterator[replay_pb2.AppendRequest]:
    """The records in messages that fit the service's window; a larger record goes alone."""
    bytes_max = min(_MESSAGE_BYTES_MAX, opened.window_bytes)
    batch: list[common_pb2.Record] = []
    size = 0
    for record in records:
        if batch and (len(batch) >= opened.window_records or size + len(record.payload) > bytes_max):
            yield replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=batch))
            batch, size = [], 0
        batch.append(record)
        size += len(record.payload)
    if batch:
        yield replay_pb2.AppendRequest(batch=replay_pb2.RecordBatch(records=batch))
