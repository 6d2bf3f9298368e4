"""Reads a log of any length in short calls, for readers that take their time over each record.

One call for a whole log would have to last as long as the work on it: a service ends calls that take too long, and a
stream that nobody reads from holds what it has on the way.

Exceptions: what the source raises.
"""

from __future__ import annotations

from collections.abc import Iterator

from replay.record import LoggedRecord
from replay.source import RecordSource

PAGE_RECORDS = 2048


def paged(
    source: RecordSource, *, filter_text: str = "", from_position: int = 0, limit: int = 0, with_payload: bool = False
) -> Iterator[LoggedRecord]:
    """Records as `RecordSource.records` gives them; those appended meanwhile too, but not without end.

    No more are given than were in the log at the beginning, so that a log which grows faster than it is read is left in
    the end.
    """
    left = source.stats().records
    left = min(left, limit) if limit else left
    while left > 0:
        wanted = min(left, PAGE_RECORDS)
        given = 0
        for record in source.records(
            filter_text=filter_text, from_position=from_position, limit=wanted, with_payload=with_payload
        ):
            from_position = record.position + 1
            given += 1
            yield record
        left -= given
        if given < wanted:
            return
