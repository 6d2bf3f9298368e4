"""The hash chain over a store's log: each record's link commits to everything appended before it.

    chain_i = SHA-256(chain_{i-1} || origin_digest || SHA-256(serialized header) || payload_digest)

so that no stored header, payload or provenance can be altered, dropped or reordered without every later link, and the
head that Stats reports, changing. It shows tampering to whoever kept an older head; it does not prevent it.
"""

from __future__ import annotations

import hashlib

from replay.store import CHAIN_START, Store, StoreCorrupt, StoredRecord, origin_digest

_READ_RECORDS = 512


def next_link(previous: bytes, digest_of_origin: bytes, header: bytes, payload_digest: bytes) -> bytes:
    """The 32-byte link of a record after `previous`."""
    header_digest = hashlib.sha256(header).digest()
    return hashlib.sha256(previous + digest_of_origin + header_digest + payload_digest).digest()


def verify_chain(store: Store) -> int:
    """Recomputes the chain over every record in the store and returns how many there were.

    The oldest record's link is taken as given unless it is position 0: what it links to was evicted. Raises
    StoreCorrupt, naming the position, where a record is missing, a payload does not match or a link is wrong.
    """
    counters = store.counters()
    previous = CHAIN_START if counters.first_position == 0 else None
    for start in range(counters.first_position, counters.next_position, _READ_RECORDS):
        positions = range(start, min(start + _READ_RECORDS, counters.next_position))
        records = store.read(positions)
        if [record.position for record in records] != list(positions):
            raise StoreCorrupt(f"positions {positions.start} to {positions.stop - 1} are not all in the store")
        for record in records:
            previous = _checked_link(store, previous, record)
    if previous is not None and previous != counters.chain_head:
        raise StoreCorrupt("the newest record's link is not the chain head of the store")
    return counters.records


def _checked_link(store: Store, previous: bytes | None, record: StoredRecord) -> bytes:
    if previous is not None:
        digest = origin_digest(store.origin(record.origin_id))
        if next_link(previous, digest, record.header_bytes, record.header.payload_digest) != record.chain:
            raise StoreCorrupt(f"the chain is broken at position {record.position}")
    return record.chain
