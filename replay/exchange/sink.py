"""Where imported records go: the interface, and the store of a directory that no service has open.

Records keep the run ids and sequences that they come with, so what is there already is recognised, and an import that
was interrupted goes on when it is run again. The other implementations are service_sink.ServiceSink, and over several
stores sharded_sink.ShardedSink.

Exceptions: ImportRefused for records that break the contract of common.proto; StoreError from the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from protos.common.v1 import common_pb2
from replay.exchange.errors import ImportRefused
from replay.listing import Listing
from replay.provenance import check_batch, check_origin
from replay.record import LoggedRecord
from replay.schema import PayloadLayout
from replay.store import SEQUENCE_LEAD_MAX, Append, RecordInvalid, Store, origin_digest, run_key


class RunRecords(NamedTuple):
    """Records of one origin, in ascending sequence; at least one."""

    origin: common_pb2.Origin
    records: Sequence[common_pb2.Record]


class Appended(NamedTuple):
    """How many records were new, and how many there already."""

    inserted: int
    duplicates: int


class RecordSink(Protocol):
    """Takes records; close it."""

    def append(self, runs: Sequence[RunRecords]) -> Appended:
        """Appends records of several runs. Raises ImportRefused; records that came before may be stored then."""
        ...

    def close(self) -> None:
        """Makes durable what was appended. A second call does nothing."""
        ...


class SinkPart(RecordSink, Protocol):
    """A RecordSink that is one whole log, which marks can be written to."""

    @property
    def store(self) -> Store | None:
        """Where records come under quarantine before anybody draws them; None of a service, which others draw from."""
        ...

    def knows(self, origin: common_pb2.Origin) -> bool:
        """Whether the log has, or had, the beginning of this run."""
        ...

    def records(self, filter_text: str) -> Iterator[LoggedRecord]:
        """The records that pass a filter, in log order, without payloads."""
        ...

    def marks(self, positions: Sequence[int]) -> Mapping[int, common_pb2.RecordMarks]:
        """What is known about these records; those of which nothing is, may be left out."""
        ...

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """Writes signals about at most ANNOTATIONS_MAX (replay.source) records; returns how many are in the log."""
        ...


class StoreSink:
    """A SinkPart that appends to a store, which is closed with it.

    Of runs whose oldest records are missing, because they were evicted or filtered out, those are given up that lie
    SEQUENCE_LEAD_MAX or more behind one appended; a store in durability mode "sync" refuses such a record instead.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._layouts: dict[bytes, PayloadLayout] = {}

    def append(self, runs: Sequence[RunRecords]) -> Appended:
        """See RecordSink.append: all of them in one commit, or none."""
        try:
            appends = [self._append(run) for run in runs]
        except RecordInvalid as error:
            raise ImportRefused(str(error)) from error
        inserted = duplicates = 0
        for outcome in self.store.commit(appends, {}):
            if outcome.refusal is not None:
                raise ImportRefused(str(outcome.refusal)) from outcome.refusal
            inserted += outcome.inserted
            duplicates += outcome.duplicates
        return Appended(inserted, duplicates)

    def knows(self, origin: common_pb2.Origin) -> bool:
        """See SinkPart.knows."""
        return self.store.next_sequence(run_key(origin)) > 0

    def records(self, filter_text: str) -> Iterator[LoggedRecord]:
        """See SinkPart.records. Damaged ones are left out."""
        listing = Listing(self.store, filter_text=filter_text)
        for group in listing.groups():
            yield from listing.logged(group)

    def marks(self, positions: Sequence[int]) -> Mapping[int, common_pb2.RecordMarks]:
        """See SinkPart.marks."""
        return self.store.marks(positions)

    def annotate(self, signals: Mapping[int, Mapping[str, float]]) -> int:
        """See SinkPart.annotate."""
        return self.store.annotate(signals)

    def close(self) -> None:
        """See RecordSink.close."""
        self.store.sync()
        self.store.close()

    def _append(self, run: RunRecords) -> Append:
        digest = origin_digest(run.origin)
        if digest not in self._layouts:
            self._layouts[digest] = check_origin(run.origin)
        pending = check_batch(run.records, self._layouts[digest])
        return Append(
            run_key(run.origin),
            run.origin.SerializeToString(deterministic=True),
            digest,
            pending,
            given_up_below(run.records),
        )


def given_up_below(records: Sequence[common_pb2.Record]) -> int:
    """The sequence below which those missing from a run have to be given up for these records to be taken."""
    return max(0, records[-1].header.sequence - SEQUENCE_LEAD_MAX + 1)
