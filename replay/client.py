"""The clients of the replay service, for threads: what actors, learner, safety monitor and the command line import.

`ReplayWriter` appends (client_append.py), `ReplaySampler` draws batches (client_sample.py), `ReplayClient` is the log
as a RecordSource, and the service's counters, priorities and tables. None of them imports the store, but for the
sampler where it reads a store's files itself. All exceptions are in client_errors.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from replay.client_append import ReplayWriter, WriterStatistics
from replay.client_errors import ReplayError, ReplayRefused, ReplayUnavailable, SampleTimeout, translate
from replay.client_sample import ReplaySampler, SampledBatch
from replay.packing import unpack
from replay.record import LoggedRecord
from replay.source import ANNOTATIONS_MAX, POSITIONS_MAX, QuarantineResult

__all__ = [
    "LoggedRecord",
    "ReplayClient",
    "ReplayError",
    "ReplayRefused",
    "ReplaySampler",
    "ReplayUnavailable",
    "ReplayWriter",
    "SampleTimeout",
    "SampledBatch",
    "WriterStatistics",
]

LIST_TIMEOUT_S = 600.0
WRITE_TIMEOUT_S = 600.0


class ReplayClient:
    """The log of a running service as a RecordSource (replay/source.py), and its counters, priorities and tables.

    Thread-safe; close it.

    Args:
      address: of the service.
      timeout_s: longest wait for an answer that takes the service no work (s).

    Raises:
      AddressError: `address` cannot be parsed.
    """

    def __init__(self, address: str, timeout_s: float = 10.0) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = transport.channel(address)
        self._stub = replay_pb2_grpc.ReplayStub(self._channel)

    def __enter__(self) -> ReplayClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stats(self, timeout_s: float | None = None) -> replay_pb2.StatsResponse:
        """All counters of the service. Raises ReplayUnavailable, ReplayRefused."""
        # Waits for a service that is just coming up, within the deadline.
        response: replay_pb2.StatsResponse = self._call(self._stub.Stats, replay_pb2.StatsRequest(), timeout_s)
        return response

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        """See RecordSource.records. Raises ReplayUnavailable, ReplayRefused from the iteration.

        What takes longer than LIST_TIMEOUT_S to read may also give what was appended in that time.
        """
        request = replay_pb2.ListRequest(
            from_position=from_position, limit=limit, with_payload=with_payload, filter=filter_text
        )
        return self._list(request)

    def get(self, positions: Sequence[int], *, with_payload: bool = True) -> list[LoggedRecord]:
        """See RecordSource.get: in several requests where many. Raises ReplayUnavailable, ReplayRefused."""
        wanted = sorted(set(positions))
        found: list[LoggedRecord] = []
        for start in range(0, len(wanted), POSITIONS_MAX):
            request = replay_pb2.ListRequest(positions=wanted[start : start + POSITIONS_MAX], with_payload=with_payload)
            found += self._list(request)
        return found

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See RecordSource.annotate: in several requests where many. Raises ReplayUnavailable, ReplayRefused."""
        annotations = [replay_pb2.Annotation(position=position, signals=values) for position, values in signals.items()]
        annotated = 0
        for start in range(0, len(annotations), ANNOTATIONS_MAX):
            request = replay_pb2.AnnotateRequest(annotations=annotations[start : start + ANNOTATIONS_MAX])
            annotated += self._call(self._stub.Annotate, request, WRITE_TIMEOUT_S).annotated
        return annotated

    def update_priorities(self, table: str, positions: Sequence[int], priorities: Sequence[float]) -> int:
        """Changes priorities in a prioritised table; returns how many of the positions are in it.

        Raises:
          ReplayRefused: no such table, not a prioritised one, or a priority below 0 or not finite; nothing changed.
          ReplayUnavailable: not reached.
        """
        request = replay_pb2.UpdatePrioritiesRequest(table=table, positions=positions, priorities=priorities)
        updated: int = self._call(self._stub.UpdatePriorities, request, None).updated
        return updated

    def quarantine(self, filter_text: str, why: str, *, dry_run: bool = False) -> QuarantineResult:
        """See RecordSource.quarantine. Raises ReplayUnavailable, ReplayRefused."""
        return self._quarantine(replay_pb2.QuarantineRequest(filter=filter_text, why=why, dry_run=dry_run))

    def lift_quarantine(self, quarantine_id: int, why: str) -> QuarantineResult:
        """See RecordSource.lift_quarantine. Raises ReplayUnavailable, ReplayRefused."""
        return self._quarantine(replay_pb2.QuarantineRequest(lift=quarantine_id, why=why))

    def quarantines(self) -> Sequence[replay_pb2.QuarantineEntry]:
        """See RecordSource.quarantines. Raises ReplayUnavailable, ReplayRefused."""
        response = self._call(self._stub.ListQuarantines, replay_pb2.ListQuarantinesRequest(), None)
        entries: Sequence[replay_pb2.QuarantineEntry] = response.entries
        return entries

    def set_table(self, spec: replay_pb2.TableSpec) -> replay_pb2.TableStats:
        """Makes a table, or changes one in use. Raises ReplayRefused with nothing changed, ReplayUnavailable."""
        request = replay_pb2.SetTableRequest(spec=spec)
        stats: replay_pb2.TableStats = self._call(self._stub.SetTable, request, WRITE_TIMEOUT_S).stats
        return stats

    def locate(self) -> replay_pb2.LocateResponse:
        """Where the service's store lies on its host. Raises ReplayUnavailable, ReplayRefused."""
        response: replay_pb2.LocateResponse = self._call(self._stub.Locate, replay_pb2.LocateRequest(), None)
        return response

    def close(self) -> None:
        """Ends the connection. A second call does nothing."""
        self._channel.close()

    def _call(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        try:
            timeout_s = self._timeout_s if timeout_s is None else timeout_s
            return method(request, timeout=timeout_s, wait_for_ready=timeout_s <= self._timeout_s)
        except grpc.RpcError as error:
            raise translate(error, self._address) from error

    def _quarantine(self, request: replay_pb2.QuarantineRequest) -> QuarantineResult:
        from pyroaring import BitMap64  # noqa: PLC0415  thin hosts do without

        response = self._call(self._stub.Quarantine, request, WRITE_TIMEOUT_S)
        return QuarantineResult(response.entry, BitMap64.deserialize(response.positions))

    def _list(self, request: replay_pb2.ListRequest) -> Iterator[LoggedRecord]:
        """As many calls as it takes: whoever reads may be slow, and a call has a deadline."""
        # As the other calls do, and within their deadline: a service that is just coming up is waited for.
        self.locate()
        end = math.inf
        while True:
            looked_to, found = request.from_position, 0
            try:
                for response in self._responses(request):
                    for record in response.records:
                        if record.position >= end:
                            return
                        yield record
                    looked_to, found = response.next_position, found + len(response.records)
                return
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED or looked_to == request.from_position:
                    raise translate(error, self._address) from error
            if found == request.limit > 0:
                return
            # What arrives from here on does not belong to it, or it might never end.
            end = min(end, self.stats().appended_records)
            request = replay_pb2.ListRequest(
                from_position=looked_to,
                limit=request.limit and request.limit - found,
                with_payload=request.with_payload,
                filter=request.filter,
                positions=[position for position in request.positions if position >= looked_to],
            )
            if looked_to >= end:
                return

    def _responses(self, request: replay_pb2.ListRequest) -> Iterator[_Listed]:
        origins: dict[int, common_pb2.Origin] = {}
        call = self._stub.List(request, timeout=LIST_TIMEOUT_S)
        try:
            for response in call:
                origins.update(response.origins)
                records = (
                    LoggedRecord(
                        record.position,
                        common_pb2.RecordHeader.FromString(record.header),
                        origins[record.origin_id],
                        bytes(record.payload),
                        common_pb2.RecordMarks.FromString(record.marks),
                    )
                    for record in unpack(response.records)
                )
                yield _Listed(list(records), response.next_position)
        finally:
            call.cancel()


class _Listed(NamedTuple):
    """Records of one response, and the position below which everything has been looked at."""

    records: list[LoggedRecord]
    next_position: int
