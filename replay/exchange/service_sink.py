"""A running service as the place that imported records go to.

A ReplayWriter numbers the records of a new run; here records come with their numbers, and their run may be known. So
each batch goes over a stream of its own, which first says what the service has. Nothing is tried again: after a failure
the import is run again, and goes on where it stopped.

Exceptions: ReplayError (replay.client_errors) where the service refuses or does not answer.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client_errors import ReplayError, ReplayUnavailable, translate
from replay.exchange.sink import Appended, RunRecords, given_up_below

APPEND_TIMEOUT_S = 120.0
"""Longest time for the records of one run in a group: limiters and a slow disk hold them back."""

_MESSAGE_BYTES_MAX = 1024 * 1024


class ServiceSink:
    """A RecordSink that appends to a service.

    Args:
      address: of the service.
      timeout_s: longest time for the records of one run in one call of `append` (s).

    Raises:
      AddressError: `address` cannot be parsed.
    """

    def __init__(self, address: str, timeout_s: float = APPEND_TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = transport.channel(address)
        self._stub = replay_pb2_grpc.ReplayStub(self._channel)

    def append(self, runs: Sequence[RunRecords]) -> Appended:
        """See RecordSink.append: acknowledged when it returns. Raises ReplayRefused, ReplayUnavailable."""
        parts = [self._append(run) for run in runs]
        return Appended(sum(part.inserted for part in parts), sum(part.duplicates for part in parts))

    def close(self) -> None:
        """See RecordSink.close."""
        self._channel.close()

    def _append(self, run: RunRecords) -> Appended:
        requests: queue.SimpleQueue[replay_pb2.AppendRequest | None] = queue.SimpleQueue()
        responses = self._stub.Append(iter(requests.get, None), timeout=self._timeout_s)
        try:
            below = given_up_below(run.records)
            requests.put(replay_pb2.AppendRequest(open=run.origin, acknowledged_below=below))
            opened = self._next(responses).opened
            unsent = [record for record in run.records if record.header.sequence >= opened.next_sequence]
            duplicates = len(run.records) - len(unsent)
            inserted = 0
            for message in _messages(unsent, opened):
                requests.put(message)
                acknowledged = self._next(responses).acknowledged
                inserted += len(acknowledged.sequences) - acknowledged.duplicates
                duplicates += acknowledged.duplicates
            return Appended(inserted, duplicates)
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
