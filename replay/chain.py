"""The hash chain over a store's log: each record's link commits to everything appended before it.

    chain_i = SHA-256(chain_{i-1} || origin_digest || SHA-256(serialized header) || payload_digest)

so that no stored header, payload or provenance can be altered, dropped or reordered without every later link, and the
head that Stats reports, changing. It shows tampering to whoever kept an older head; it does not prevent it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from replay.store import StoreCorrupt, StoreCounters, StoredRecord, StoreView, origin_digest

_READ_RECORDS = 512
_READ_BYTES = 8 * 1024**2


class ChainReport(NamedTuple):
    """What was verified: this many records, at positions [first_position, next_position), and the newest one's link."""

    records: int
    first_position: int
    next_position: int
    head: bytes


def next_link(previous: bytes, digest_of_origin: bytes, header: bytes, payload_digest: bytes) -> bytes:
    """The 32-byte link of a record after `previous`."""
    header_digest = hashlib.sha256(header).digest()
    return hashlib.sha256(previous + digest_of_origin + header_digest + payload_digest).digest()


def verify_chain(view: StoreView, progress: Callable[[int, int], None] | None = None) -> ChainReport:
    """Recomputes the chain over every record in the store; reads each payload against its digest.

    Args:
      view: a store or a reader of one. What it evicts or appends meanwhile is left out.
      progress: called now and then with the records verified and those to verify.

    Raises:
      StoreCorrupt: names, in `positions` too, the first record that is damaged, missing, or whose link does not follow
        from the one before it. The oldest record's is checked against the link that was kept of the one before.
    """
    counters = view.counters()
    first, end = counters.first_position, counters.next_position
    position, previous = first, view.link_before(first)
    digest_of_origin = functools.cache(lambda origin_id: origin_digest(view.origin(origin_id)))
    while position < end:
        records, damage = _read(view, range(position, min(position + _group(counters), end)))
        for record in records:
            if record.position != position:
                break
            previous = _checked_link(digest_of_origin, previous, record)
            position += 1
        if (evicted := view.counters().first_position) > position:
            first = position = min(evicted, end)
            previous = view.link_before(position)
        elif damage is not None and damage.positions[0] == position:
            raise damage
        elif not records or records[-1].position >= position:
            raise StoreCorrupt(f"the record at position {position} is missing from the store", (position,))
        if progress is not None:
            progress(position - first, end - first)
    if first < end and previous != counters.chain_head:
        raise StoreCorrupt(
            f"the link of position {end - 1}, the newest, is not the chain head of the store", (end - 1,)
        )
    return ChainReport(end - first, first, end, counters.chain_head)


def _group(counters: StoreCounters) -> int:
    mean_bytes = counters.payload_bytes // max(1, counters.records)
    return max(1, min(_READ_RECORDS, _READ_BYTES // max(1, mean_bytes)))


def _read(view: StoreView, positions: Sequence[int]) -> tuple[list[StoredRecord], StoreCorrupt | None]:
    """The records, and where some are damaged, those before the first of them, with what is wrong with it."""
    try:
        return view.read(positions), None
    except StoreCorrupt as damage:
        bad = min(damage.positions)
        sound = view.read([position for position in positions if position < bad])
        try:
            view.read([bad])
        except StoreCorrupt as first:
            return sound, first
        return sound, None  # it was evicted meanwhile


def _checked_link(digest_of_origin: Callable[[int], bytes], previous: bytes | None, record: StoredRecord) -> bytes:
    position = record.position
    try:
        digest = record.header.payload_digest
        origin = digest_of_origin(record.origin_id)
    except DecodeError as error:
        raise StoreCorrupt(f"the header at position {position} cannot be read: {error}", (position,)) from error
    except StoreCorrupt as error:
        raise StoreCorrupt(f"the origin of position {position} cannot be read: {error}", (position,)) from error
    if digest != record.payload_digest:
        raise StoreCorrupt(f"the payload at position {position} is not the one that its header names", (position,))
    if previous is not None and next_link(previous, origin, record.header_bytes, digest) != record.chain:
        raise StoreCorrupt(
            f"the chain is broken at position {position}: it, or its link to the record before, was altered",
            (position,),
        )
    return record.chain
