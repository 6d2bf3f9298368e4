"""What a segment's state databases hold, and how: encoding, reading, writing, and the copy for the next segment.

The format is specified in segment.py. Every function works inside a transaction of its caller. Reading raises whatever
a damaged value brings about: callers use `reading_state`, which makes one StoreCorrupt of it all.

Exceptions: StoreCorrupt (see replay.store).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError
from pyroaring import BitMap64

from protos.replay.v1 import replay_pb2
from replay.checksums import with_checksum, without_checksum
from replay.lmdb_environment import Transaction
from replay.quarantines import Quarantines
from replay.sequences import RunSequences
from replay.store import Quarantine, StoreCorrupt, StoreCounters

STATE_DATABASES = (b"origins", b"runs", b"gaps", b"tables", b"quarantines", b"meta")

_COPIED = (b"origins", b"runs", b"gaps", b"tables")
_COUNTERS = b"counters"
_SEGMENT = b"segment"
_U64 = struct.Struct("<Q")
_ENTRY_BYTES = struct.Struct("<I")


class SegmentInfo(NamedTuple):
    """What a segment says about itself."""

    store_id: str
    first_position: int
    link_before: bytes
    """Of the record before its first one."""


@contextlib.contextmanager
def reading_state(of: object) -> Iterator[None]:
    """Raises StoreCorrupt where a value cannot be read."""
    try:
        yield
    except (struct.error, ValueError, TypeError, KeyError, DecodeError) as error:
        raise StoreCorrupt(f"{of} is damaged: {error}; restore it, or move it away") from error


def read_info(transaction: Transaction) -> SegmentInfo:
    """See SegmentInfo."""
    fields = json.loads(_get(transaction, b"meta", _SEGMENT))
    return SegmentInfo(fields["store_id"], fields["first_position"], bytes.fromhex(fields["link_before"]))


def put_info(transaction: Transaction, info: SegmentInfo) -> None:
    """Once, when the segment is made."""
    fields = {**info._asdict(), "link_before": info.link_before.hex()}
    _put(transaction, b"meta", [(_SEGMENT, json.dumps(fields).encode())])


def read_counters(transaction: Transaction) -> StoreCounters:
    """The counters after the newest commit."""
    fields = json.loads(_get(transaction, b"meta", _COUNTERS))
    return StoreCounters(**{**fields, "chain_head": bytes.fromhex(fields["chain_head"])})


def put_counters(transaction: Transaction, counters: StoreCounters) -> None:
    """In every commit."""
    fields = {**dataclasses.asdict(counters), "chain_head": counters.chain_head.hex()}
    _put(transaction, b"meta", [(_COUNTERS, json.dumps(fields).encode())])


def read_origins(transaction: Transaction, first_id: int = 0) -> list[bytes]:
    """Serialized origins by id, from `first_id` on."""
    return [value for _, value in _items(transaction, b"origins", first_id.to_bytes(4, "big"))]


def put_origins(transaction: Transaction, first_id: int, origins: Iterable[bytes]) -> None:
    """Origins that get consecutive ids."""
    items = ((index.to_bytes(4, "big"), origin) for index, origin in enumerate(origins, first_id))
    _put(transaction, b"origins", items)


def read_sequences(transaction: Transaction, run: bytes) -> RunSequences:
    """What is stored of a run."""
    txn, databases = transaction
    value = txn.get(run, db=databases[b"runs"])
    if value is None:
        return RunSequences()
    prefix = run + b"\0"
    cursor = txn.cursor(databases[b"gaps"])
    ahead = []
    if cursor.set_range(prefix):
        for found in cursor.iternext(values=False):
            key = bytes(found)
            if len(key) != len(prefix) + 8 or not key.startswith(prefix):
                break
            ahead.append(int.from_bytes(key[-8:], "big"))
    return RunSequences(_U64.unpack(without_checksum(run, value))[0], ahead)


def put_sequences(
    transaction: Transaction, runs: Mapping[bytes, RunSequences], before: Mapping[bytes, RunSequences]
) -> None:
    """What is stored of some runs, given what was `before`."""
    txn, databases = transaction
    _put(transaction, b"runs", [(run, _U64.pack(sequences.next)) for run, sequences in runs.items()])
    for run, sequences in runs.items():
        ahead = before[run].ahead
        gaps = [(_gap_key(run, sequence), b"") for sequence in sorted(sequences.ahead - ahead)]
        if gaps:
            txn.cursor(databases[b"gaps"]).putmulti(gaps)
        for sequence in ahead - sequences.ahead:
            txn.delete(_gap_key(run, sequence), db=databases[b"gaps"])


def read_tables(transaction: Transaction) -> dict[str, replay_pb2.TableState]:
    """The states of all tables, by name."""
    items = _items(transaction, b"tables")
    return {name.decode(): replay_pb2.TableState.FromString(value) for name, value in items}


def put_tables(transaction: Transaction, tables: Mapping[str, replay_pb2.TableState]) -> None:
    """The states of some tables."""
    _put(transaction, b"tables", [(name.encode(), state.SerializeToString()) for name, state in tables.items()])


def delete_table(transaction: Transaction, name: str) -> None:
    """The state of one, if there is any."""
    transaction.txn.delete(name.encode(), db=transaction.databases[b"tables"])


def read_quarantines(transaction: Transaction) -> Quarantines:
    """All of them."""
    quarantines = []
    for _, value in _items(transaction, b"quarantines"):
        (size,) = _ENTRY_BYTES.unpack_from(value)
        entry = replay_pb2.QuarantineEntry.FromString(value[_ENTRY_BYTES.size : _ENTRY_BYTES.size + size])
        quarantines.append(Quarantine(entry, BitMap64.deserialize(value[_ENTRY_BYTES.size + size :])))
    return Quarantines(quarantines)


def put_quarantines(transaction: Transaction, quarantines: Iterable[Quarantine]) -> None:
    """Some of them, new or changed."""
    items = []
    for entry, positions in quarantines:
        serialized = entry.SerializeToString()
        value = _ENTRY_BYTES.pack(len(serialized)) + serialized + positions.serialize()
        items.append((entry.id.to_bytes(4, "big"), value))
    _put(transaction, b"quarantines", items)


def state_bytes(transaction: Transaction) -> int:
    """About how much space the state takes, and so a copy of it (bytes)."""
    stats = [transaction.txn.stat(transaction.databases[name]) for name in STATE_DATABASES]
    pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] + 1 for stat in stats)
    return int(pages * stats[0]["psize"])


def copy_state(old: Transaction, new: Transaction) -> None:
    """Copies origins, runs, gaps and tables as they are; the rest is written by whoever makes a segment."""
    for name in _COPIED:
        items = ((bytes(key), bytes(value)) for key, value in old.txn.cursor(old.databases[name]))
        new.txn.cursor(new.databases[name]).putmulti(items, append=True)


def _get(transaction: Transaction, name: bytes, key: bytes) -> bytes:
    value = transaction.txn.get(key, db=transaction.databases[name])
    if value is None:
        raise KeyError(f"{name.decode()} has no {key.decode()}")
    return without_checksum(key, value)


def _items(transaction: Transaction, name: bytes, first_key: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    cursor = transaction.txn.cursor(transaction.databases[name])
    if cursor.set_range(first_key) if first_key else cursor.first():
        for found, value in cursor.iternext():
            key = bytes(found)
            yield key, without_checksum(key, value)


def _put(transaction: Transaction, name: bytes, items: Iterable[tuple[bytes, bytes]]) -> None:
    # One call for all: every call into LMDB lets other threads take the interpreter lock.
    checked = [(key, with_checksum(key, value)) for key, value in items]
    if checked:
        transaction.txn.cursor(transaction.databases[name]).putmulti(checked)


def _gap_key(run: bytes, sequence: int) -> bytes:
    return run + b"\0" + sequence.to_bytes(8, "big")
