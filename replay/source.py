"""Where records can be read, marked and quarantined: a running service, or the directory of one that is not running.

The interface only. Implementations: replay.client.ReplayClient (live) and replay.offline.OfflineSource (a directory).
Whatever works over the log - curation, verification, exports, lineage, the command line - works on a RecordSource, so
it works on both.

Exceptions of every implementation: FilterError (replay.filters) for a filter that cannot be read; SourceReadOnly where
marks are written to a source opened for reading; SourceRefused for what cannot be done as asked; besides, ReplayError
(replay.client_errors) of a service, StoreError (replay.store) of a directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from protos.replay.v1 import replay_pb2
from replay.record import LoggedRecord

if TYPE_CHECKING:
    from pyroaring import BitMap64

ANNOTATIONS_MAX = 10_000
"""Most records that one request to annotate is about."""

POSITIONS_MAX = 100_000
"""Most positions that one request for records names."""


class SourceReadOnly(ValueError):
    """The source was opened for reading only; the message says how to open it for writing."""


class SourceRefused(ValueError):
    """What was asked of the source cannot be: the message says why, and nothing was changed."""


class QuarantineResult(NamedTuple):
    """A quarantine as it stands, and the positions that it is about."""

    entry: replay_pb2.QuarantineEntry
    positions: BitMap64


class RecordSource(Protocol):
    """A log of records. Use as a context manager, or close it."""

    def records(
        self, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
    ) -> Iterator[LoggedRecord]:
        """Records in log order, as of the beginning of the call.

        Args:
          filter_text: a filter expression; "" for every record.
          from_position: first position wanted; evicted ones are left out.
          limit: most records, 0 for as many as there are.
          with_payload: whether to read the payloads.
        """
        ...

    def get(self, positions: Sequence[int], *, with_payload: bool = True) -> list[LoggedRecord]:
        """The records at these positions, ascending, without those not in the store."""
        ...

    def stats(self) -> replay_pb2.StatsResponse:
        """Counters; of a directory those of its last commit."""
        ...

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """Writes signals about records, durably; returns how many of the positions are in the store."""
        ...

    def quarantine(self, filter_text: str, why: str, *, dry_run: bool = False) -> QuarantineResult:
        """Keeps the records that pass the filter from being sampled; with dry_run only says which they are."""
        ...

    def lift_quarantine(self, quarantine_id: int, why: str) -> QuarantineResult:
        """Ends a quarantine. Raises SourceRefused for one that is not in force."""
        ...

    def quarantines(self) -> Sequence[replay_pb2.QuarantineEntry]:
        """Every quarantine, ascending by id, lifted ones included."""
        ...

    def close(self) -> None:
        """Releases everything. A second call does nothing."""
        ...
