"""Brings records from wherever they were read into a sink, a group at a time.

Exceptions: what the iteration and the sink raise; records of earlier groups are stored then, and an import that is run
again goes on after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from protos.common.v1 import common_pb2
from replay.exchange.sink import RecordSink, RunRecords
from replay.store import run_key

GROUP_RECORDS_MAX = 1024
GROUP_BYTES_MAX = 8 * 1024**2


class ImportedRecord(NamedTuple):
    """A record with its origin, as a sink takes them."""

    origin: common_pb2.Origin
    record: common_pb2.Record
    quarantined: bool = False
    """Whether it is under quarantine where it comes from."""


class ImportSummary(NamedTuple):
    """What an import brought."""

    records: int
    """Taken, and in the store now."""
    steps: int
    """Rows of all of them."""
    inserted: int
    """Those that were new."""
    left_out: int = 0
    """Those under quarantine, where these were not to be taken."""


def import_records(
    records: Iterable[ImportedRecord], sink: RecordSink, *, with_quarantined: bool = False
) -> ImportSummary:
    """Appends records to a sink. Within a group those of a run may come in any order, as a log may hold them.

    Args:
      records: to be appended.
      sink: where to.
      with_quarantined: whether those under quarantine too, which the caller then has to bring (mark_intake.py).
    """
    count = steps = inserted = left_out = 0

    def wanted() -> Iterator[ImportedRecord]:
        nonlocal left_out
        for each in records:
            if each.quarantined and not with_quarantined:
                left_out += 1
            else:
                yield each

    for group in _groups(wanted()):
        count += len(group)
        steps += sum(each.record.header.steps for each in group)
        inserted += sink.append(_by_run(group)).inserted
    return ImportSummary(count, steps, inserted, left_out)


def _groups(records: Iterable[ImportedRecord]) -> Iterator[list[ImportedRecord]]:
    group: list[ImportedRecord] = []
    size = 0
    for each in records:
        group.append(each)
        size += len(each.record.payload)
        if len(group) >= GROUP_RECORDS_MAX or size >= GROUP_BYTES_MAX:
            yield group
            group, size = [], 0
    if group:
        yield group


def _by_run(group: list[ImportedRecord]) -> list[RunRecords]:
    """The records by run and origin, each in ascending sequence."""
    runs: dict[tuple[bytes, bytes], list[ImportedRecord]] = {}
    for each in group:
        key = (run_key(each.origin), each.origin.SerializeToString(deterministic=True))
        runs.setdefault(key, []).append(each)
    return [
        RunRecords(run[0].origin, sorted((each.record for each in run), key=lambda record: record.header.sequence))
        for run in runs.values()
    ]
