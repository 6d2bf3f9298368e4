"""ReplayWriter: appends the records of one actor run, exactly once, across broken connections and restarts.

Records are numbered, serialized once, and kept until the service acknowledges them, so that after a break everything
unacknowledged is sent again, in order; the service drops what it has already. What is kept is bounded by the window,
the smaller of the writer's own and the service's: a full window makes `append` wait, and so paces the actor.

One background thread owns the connection. Not for use after a fork.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.client_errors import Backoff, ReplayError, ReplayRefused, ReplayUnavailable, translate
from replay.schema import PAYLOAD_BYTES_MAX

MESSAGE_BYTES_TARGET = 192 * 1024
"""Messages are filled to about this size: the cost of a stream is in messages, not in bytes."""

MESSAGE_RECORDS_MAX = 128
"""Records serialized as one: the largest headers there may be still fit one message with the largest payload."""

_METHOD = "/temper.replay.v1.Replay/Append"
_JOIN_S = 5.0


class WriterStatistics(NamedTuple):
    """Counts of records since the writer was made, of reconnections, and the time `append` waited for room (s)."""

    acknowledged: int
    duplicates: int
    resent: int
    reconnects: int
    waiting_s: float
    unacknowledged: int


class _Entry(NamedTuple):
    """Consecutive records, serialized as one AppendRequest. Several such joined parse as one request with all records,
    because protobuf merges repeated occurrences of a field.
    """

    first: int
    records: int
    payload_bytes: int
    wire: bytes


class _Stream:
    """One attempt to connect; `closed` ends its request iterator, which runs in a thread of gRPC's."""

    def __init__(self) -> None:
        self.opened = False
        self.closed = False


class ReplayWriter:
    """Appends records of one origin. Thread-safe; close it.

    Args:
      address: of the replay service.
      origin: with a run id that no other writer ever used.
      window_records, window_bytes: most records and payload bytes kept unacknowledged.
      reconnect_ms_max: longest pause between attempts to connect (ms).

    Raises:
      AddressError: `address` cannot be parsed.
    """

    def __init__(
        self,
        address: str,
        origin: common_pb2.Origin,
        *,
        window_records: int,
        window_bytes: int,
        reconnect_ms_max: int = 2000,
    ) -> None:
        self._address = address
        self._origin = origin
        self._own_records, self._own_bytes = window_records, window_bytes
        self._window_records, self._window_bytes = window_records, window_bytes
        self._backoff = Backoff(reconnect_ms_max / 1e3)
        self._condition = threading.Condition()
        self._entries: deque[_Entry] = deque()
        self._sent_entries = 0
        self._sent_sequence = 0
        self._next_sequence = 0
        self._records = self._bytes = 0
        self._acknowledged = self._duplicates = self._resent = self._reconnects = 0
        self._waiting_s = 0.0
        self._refusal: ReplayError | None = None
        self._failure: ReplayError | None = None
        self._closing = False
        self._call: Any = None
        self._channel = transport.channel(address)
        self._thread = threading.Thread(target=self._run, name="replay-append", daemon=True)
        self._thread.start()

    def __enter__(self) -> ReplayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(_JOIN_S)

    def append(self, headers: Sequence[common_pb2.RecordHeader], payloads: Sequence[bytes], timeout_s: float) -> None:
        """Queues records, all or none, waiting for room in the window.

        Args:
          headers: one for each payload; `sequence` and `payload_digest` are filled in here, on success only.
          payloads: laid out by the origin's schema.
          timeout_s: longest wait for room (s).

        Raises:
          ReplayUnavailable: no room in time; nothing was queued, try again.
          ReplayRefused: the service refused an earlier record, or this run; nothing more will be taken.
          ValueError: the records alone exceed the writer's window, one of them what any record may have, or headers
            and payloads differ in number.
        """
        total = sum(map(len, payloads))
        if max(map(len, payloads), default=0) > PAYLOAD_BYTES_MAX:
            raise ValueError(
                f"a payload has {max(map(len, payloads))} bytes, the limit is {PAYLOAD_BYTES_MAX}; nothing was queued"
            )
        if len(headers) != len(payloads) or len(headers) > self._own_records or total > self._own_bytes:
            raise ValueError(
                f"{len(headers)} headers with {len(payloads)} payloads of {total} bytes: they must pair, and fit the "
                f"window of {self._own_records} records and {self._own_bytes} bytes; nothing was queued"
            )
        digests = [hashlib.sha256(payload).digest() for payload in payloads]
        with self._condition:
            self._wait_for_room(len(headers), total, time.monotonic() + timeout_s)
            for sequence, (header, digest) in enumerate(zip(headers, digests, strict=True), self._next_sequence):
                header.sequence = sequence
                header.payload_digest = digest
            # All serialized before anything changes: a gap in the sequences could never be closed.
            entries = list(_entries(headers, payloads))
            self._next_sequence += len(headers)
            self._entries.extend(entries)
            self._records += len(headers)
            self._bytes += total
            self._condition.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything is acknowledged; returns whether it is. Raises ReplayRefused."""
        with self._condition:
            self._condition.wait_for(lambda: not self._entries or self._refusal or self._closing, timeout_s)
            if self._refusal is not None:
                raise self._refusal
            return not self._entries

    def close(self, timeout_s: float) -> bool:
        """Flushes for up to `timeout_s`, then ends the connection; returns whether everything was acknowledged."""
        with contextlib.suppress(ReplayRefused):
            self.flush(timeout_s)
        with self._condition:
            self._closing = True
            call = self._call
            self._condition.notify_all()
        if call is not None:
            call.cancel()
        self._thread.join(_JOIN_S)
        self._channel.close()
        return not self._entries

    @property
    def statistics(self) -> WriterStatistics:
        """Counts so far."""
        with self._condition:
            return WriterStatistics(
                self._acknowledged,
                self._duplicates,
                self._resent,
                self._reconnects,
                self._waiting_s,
                self._records,
            )

    def _wait_for_room(self, records: int, payload_bytes: int, deadline_s: float) -> None:
        start_s = time.monotonic()

        def ready() -> bool:
            # The service may grant less than one append needs: that one goes alone.
            room = not self._entries or (
                self._records + records <= self._window_records and self._bytes + payload_bytes <= self._window_bytes
            )
            return room or self._refusal is not None or self._closing

        in_time = ready() or self._condition.wait_for(ready, deadline_s - start_s)
        self._waiting_s += time.monotonic() - start_s
        if self._refusal is not None:
            raise self._refusal
        if self._closing:
            raise ReplayUnavailable(f"the writer to replay at {self._address} is closed: nothing was queued")
        if not in_time:
            raise ReplayUnavailable(
                f"replay at {self._address} left {self._records} records unacknowledged and the window full "
                f"for {time.monotonic() - start_s:.1f} s{self._why()}: nothing was queued; try again"
            )

    def _why(self) -> str:
        return f" (since the last acknowledgement: {self._failure})" if self._failure is not None else ""

    def _run(self) -> None:
        # Requests are serialized already: they pass through as bytes.
        append: Any = self._channel.stream_stream(_METHOD, None, replay_pb2.AppendResponse.FromString)
        while not self._is_done():
            stream = _Stream()
            call: Any = None
            try:
                call = append(self._requests(stream))
                with self._condition:
                    self._call = call
                    if self._closing:
                        call.cancel()
                for response in call:
                    self._receive(stream, response)
            except grpc.RpcError as error:
                self._fail(translate(error, self._address))
            except ReplayRefused as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001  a thread that died in silence would leave callers waiting
                self._fail(ReplayRefused(f"replay at {self._address} answered what it must not: {error!r}"))
            finally:
                if call is not None:
                    call.cancel()
                with self._condition:
                    stream.closed = True
                    self._sent_entries = 0
                    self._condition.notify_all()
            self._pause()

    def _is_done(self) -> bool:
        return self._closing or self._refusal is not None

    def _fail(self, error: ReplayError) -> None:
        with self._condition:
            self._failure = error
            if isinstance(error, ReplayRefused):
                self._refusal = error
                self._condition.notify_all()

    def _pause(self) -> None:
        with self._condition:
            if not self._is_done():
                self._reconnects += 1
                self._condition.wait_for(lambda: self._closing, self._backoff.next_s())

    def _requests(self, stream: _Stream) -> Iterator[bytes]:
        with self._condition:
            below = self._entries[0].first if self._entries else self._next_sequence
        yield replay_pb2.AppendRequest(open=self._origin, acknowledged_below=below).SerializeToString()
        while True:
            with self._condition:
                self._condition.wait_for(
                    lambda: stream.closed or (stream.opened and self._sent_entries < len(self._entries))
                )
                if stream.closed:
                    return
                message = self._take()
            yield message

    def _take(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._sent_entries < len(self._entries):
            entry = self._entries[self._sent_entries]
            if parts and size + len(entry.wire) > MESSAGE_BYTES_TARGET:
                break
            parts.append(entry.wire)
            size += len(entry.wire)
            self._sent_entries += 1
            if entry.first < self._sent_sequence:
                self._resent += entry.records
            self._sent_sequence = max(self._sent_sequence, entry.first + entry.records)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _receive(self, stream: _Stream, response: replay_pb2.AppendResponse) -> None:
        with self._condition:
            if response.WhichOneof("kind") == "opened":
                self._check_continuity(response.opened.next_sequence)
                self._window_records = min(self._own_records, response.opened.window_records)
                self._window_bytes = min(self._own_bytes, response.opened.window_bytes)
                self._drop_below(response.opened.next_sequence)
                stream.opened = True
            else:
                self._backoff.reset()
                self._failure = None
                self._drop_below(response.acknowledged.sequences[-1] + 1)
                self._duplicates += response.acknowledged.duplicates
            self._condition.notify_all()

    def _check_continuity(self, stored: int) -> None:
        """Refuses to go on when the store's account of this run contradicts this writer's."""
        if stored > self._sent_sequence:
            raise ReplayRefused(
                f"replay at {self._address} holds {stored} records of this run, of which this writer sent "
                f"{self._sent_sequence}: the run id was used before; start with a fresh one"
            )
        oldest = self._entries[0].first if self._entries else self._next_sequence
        if stored < oldest:
            raise ReplayRefused(
                f"replay at {self._address} holds {stored} records of this run, but had acknowledged {oldest}: "
                "the store was emptied or replaced; start with a fresh run id"
            )

    def _drop_below(self, sequence: int) -> None:
        while self._entries and self._entries[0].first + self._entries[0].records <= sequence:
            entry = self._entries.popleft()
            self._sent_entries = max(0, self._sent_entries - 1)
            self._records -= entry.records
            self._bytes -= entry.payload_bytes
            self._acknowledged += entry.records


def _entries(headers: Sequence[common_pb2.RecordHeader], payloads: Sequence[bytes]) -> Iterator[_Entry]:
    request = replay_pb2.AppendRequest()
    first = size = 0
    for index, (header, payload) in enumerate(zip(headers, payloads, strict=True)):
        request.batch.records.add(header=header, payload=payload)
        size += len(payload)
        many = index + 1 - first >= MESSAGE_RECORDS_MAX
        if size >= MESSAGE_BYTES_TARGET or many or index == len(headers) - 1:
            yield _Entry(headers[first].sequence, index + 1 - first, size, request.SerializeToString())
            request = replay_pb2.AppendRequest()
            first, size = index + 1, 0
