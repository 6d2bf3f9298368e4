"""The durable store: an LMDB environment, written by one thread in synced group commits.

On disk, format version 1 (recorded in format.json, see store_directory.py; engine pinned to LMDB 0.9, data format 1).
Integers in keys are big-endian, so that key order is log order; integers in values are little-endian.

    blocks   first position u64 -> block of consecutive records (block.py)
    origins  origin id u32 -> serialized Origin; ids count from 0, equal origins share one
    runs     actor_id NUL run_id -> u64, the sequence below which everything of the run is stored
    gaps     actor_id NUL run_id NUL sequence u64 -> empty; sequences stored ahead of that
    tables   table name -> cursor u64, samples u64
    meta     "counters" -> JSON of StoreCounters (chain head in hexadecimal)

Invariants, true after every commit and therefore after every crash, for a commit is one synced LMDB transaction:

  1. Blocks cover the positions [first block's key, next_position) without gap or overlap.
  2. A record is in the log, its sequence is in runs or gaps, and it counts in meta, or none of the three.
  3. first_position lies in the oldest block (or equals next_position): records below it are evicted, though their
     block stays until all of it is. Retention is exact to the record; disk space lags by less than one block.
  4. meta's chain head is the link of record next_position - 1 (chain.py).

Evicted records are deleted oldest first, a few blocks per commit, so that free pages stay contiguous and no commit
stalls. Readers hold a transaction for one batch only: an old reader would keep every page freed since in the file.
Closing waits for transactions under way, whose memory would be unmapped under them. The file `reserve` beside the data
lets draws and evictions go on when the disk is full (disk_reserve.py).

Exceptions: StoreFull, StoreCorrupt, StoreFormatError, StoreBusy, StoreError (see replay.store).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import struct
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
from google.protobuf.message import DecodeError

from protos.common.v1 import common_pb2
from replay.block import BlockReader, BlockRecord, encode_block, split_into_blocks
from replay.block_index import BlockIndex
from replay.commit_plan import CommitPlan, eviction_budget, plan_commit
from replay.disk_reserve import RESERVE_BYTES, DiskReserve
from replay.sequences import RunSequences
from replay.store import (
    Append,
    AppendOutcome,
    StoreCorrupt,
    StoreCounters,
    StoredRecord,
    StoreError,
    StoreFormatError,
    StoreFull,
    StoreSettings,
    TableState,
    origin_digest,
)
from replay.store_directory import StoreDirectory

_ENGINE_MAJOR = 0
_DATABASES = (b"blocks", b"origins", b"runs", b"gaps", b"tables", b"meta")
_COUNTERS_KEY = b"counters"
_U64 = struct.Struct("<Q")
_TABLE = struct.Struct("<QQ")
_BLOCKS_PER_EVICTION = 64
_RESERVE = "reserve"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""EIO too: LMDB reports a short write, as a full disk makes it, as EIO."""


class _BlockSizes(NamedTuple):
    start: int
    payload_bytes: Sequence[int]


class _Eviction(NamedTuple):
    first_position: int
    payload_bytes: int
    dropped_blocks: int
    oldest: _BlockSizes


class LmdbStore:
    """A Store in a directory.

    Args:
      directory: created if need be; held exclusively until `close`.
      settings: retention and totals; may differ from those of earlier openings.
      map_bytes: address space, and the most the file can grow to.

    Raises:
      StoreBusy, StoreFormatError, StoreCorrupt, StoreError.
    """

    def __init__(self, directory: Path, settings: StoreSettings, *, map_bytes: int) -> None:
        self._settings = settings
        self._closed = False
        self._transactions = 0
        self._condition = threading.Condition()
        self._runs: dict[bytes, RunSequences] = {}
        self._oldest = _BlockSizes(-1, ())
        self._reserve = DiskReserve(directory / _RESERVE)
        with contextlib.ExitStack() as undo:
            self._directory = StoreDirectory(directory)
            undo.callback(self._directory.close)
            self._environment = _open_environment(self._directory.path, map_bytes)
            undo.callback(self._environment.close)
            try:
                with _translated("open"):
                    self._load()
            except (struct.error, ValueError, TypeError, KeyError, DecodeError) as error:
                raise StoreCorrupt(
                    f"replay directory {directory} is damaged: {error}; restore it, or move it away"
                ) from error
            undo.pop_all()

    def _load(self) -> None:
        self._databases = {name: self._environment.open_db(name) for name in _DATABASES}
        self._environment.reader_check()
        with self._environment.begin() as txn:
            self._counters = _decode_counters(txn.get(_COUNTERS_KEY, db=self._databases[b"meta"]))
            self._origins: list[bytes] = [value for _, value in txn.cursor(self._databases[b"origins"])]
            self._tables = {
                name.decode(): TableState(*_TABLE.unpack(value))
                for name, value in txn.cursor(self._databases[b"tables"])
            }
            blocks = txn.cursor(self._databases[b"blocks"])
            self._index = BlockIndex(int.from_bytes(key, "big") for key in blocks.iternext(values=False))
        parsed = (common_pb2.Origin.FromString(origin) for origin in self._origins)
        self._origin_ids = {origin_digest(origin): index for index, origin in enumerate(parsed)}

    def commit(self, appends: Sequence[Append], tables: Mapping[str, TableState]) -> list[AppendOutcome]:
        """See Store.commit. Always from the same thread."""
        if not (appends or tables or self._exceeds_retention()):
            return []  # not worth a synced transaction, nor on a full disk the reserve
        if appends and not self._reserve.take():
            raise StoreFull(f"commit failed: less than {RESERVE_BYTES} bytes left on the disk; nothing was stored")
        try:
            return self._commit(appends, tables)
        except StoreFull:
            if appends or not self._reserve.release():
                raise
            return self._commit(appends, tables)

    def _commit(self, appends: Sequence[Append], tables: Mapping[str, TableState]) -> list[AppendOutcome]:
        plan = plan_commit(appends, self._counters, self._sequences, self._settings.signal_names)
        new_origins = self._new_origins(plan)
        blocks = list(self._blocks(plan, new_origins))
        with self._transaction("commit", write=True) as txn:
            self._put(txn, b"blocks", blocks, append=True)
            self._put(txn, b"origins", [(index.to_bytes(4, "big"), data) for data, index in new_origins.values()])
            self._put_runs(txn, plan.runs)
            self._put(txn, b"tables", [(name.encode(), _TABLE.pack(*state)) for name, state in tables.items()])
            eviction = self._evict(txn, plan, [key for key, _ in blocks])
            counters = dataclasses.replace(
                plan.counters, first_position=eviction.first_position, payload_bytes=eviction.payload_bytes
            )
            self._put(txn, b"meta", [(_COUNTERS_KEY, _encode_counters(counters))])
        # Only now, with the transaction synced, does memory follow.
        self._index.replace(eviction.dropped_blocks, [int.from_bytes(key, "big") for key, _ in blocks])
        self._oldest = eviction.oldest
        for digest, (data, index) in new_origins.items():
            self._origins.append(data)
            self._origin_ids[digest] = index
        self._runs.update(plan.runs)
        self._tables = {**self._tables, **tables}
        self._counters = counters
        return plan.outcomes

    def counters(self) -> StoreCounters:
        """See Store.counters."""
        return self._counters

    def tables(self) -> Mapping[str, TableState]:
        """See Store.tables."""
        return self._tables

    def next_sequence(self, run: bytes) -> int:
        """See Store.next_sequence."""
        return self._sequences(run).next

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See Store.read."""
        return self._read(positions, BlockReader.record)

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See Store.read_headers."""
        return self._read(positions, BlockReader.header)

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """See Store.origin."""
        if not 0 <= origin_id < len(self._origins):
            raise StoreCorrupt(f"origin {origin_id} was never stored; there are {len(self._origins)}")
        return common_pb2.Origin.FromString(self._origins[origin_id])

    def sizes(self) -> tuple[int, int]:
        """See Store.sizes."""
        with self._transaction("read") as txn:
            stats = [txn.stat(), *(txn.stat(database) for database in self._databases.values())]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return self._directory.data_file.stat().st_size, pages * stats[0]["psize"]

    def close(self) -> None:
        """See Store.close."""
        with self._condition:
            self._closed, closed = True, self._closed
            self._condition.wait_for(lambda: not self._transactions)
        if not closed:
            self._environment.close()
            self._directory.close()

    @contextlib.contextmanager
    def _transaction(self, what: str, **options: bool) -> Iterator[Any]:
        """An LMDB transaction, committed unless something is raised. Raises StoreError, StoreFull."""
        with self._condition:
            if self._closed:
                raise StoreError(f"{what} failed: the store is closed")
            self._transactions += 1
        try:
            with _translated(what), self._environment.begin(**options) as txn:
                yield txn
        finally:
            with self._condition:
                self._transactions -= 1
                self._condition.notify_all()

    def _sequences(self, run: bytes) -> RunSequences:
        known = self._runs.get(run)
        if known is not None:
            return known
        with self._transaction("read") as txn:
            value = txn.get(run, db=self._databases[b"runs"])
            if value is None:
                return RunSequences()
            prefix = run + b"\0"
            cursor = txn.cursor(self._databases[b"gaps"])
            ahead = []
            if cursor.set_range(prefix):
                for key in cursor.iternext(values=False):
                    if len(key) != len(prefix) + 8 or not key.startswith(prefix):
                        break
                    ahead.append(int.from_bytes(key[-8:], "big"))
        return RunSequences(_U64.unpack(value)[0], ahead)

    def _new_origins(self, plan: CommitPlan) -> dict[bytes, tuple[bytes, int]]:
        new: dict[bytes, tuple[bytes, int]] = {}
        for append, _, _ in plan.records:
            if append.origin_digest not in self._origin_ids and append.origin_digest not in new:
                new[append.origin_digest] = (append.origin, len(self._origins) + len(new))
        return new

    def _blocks(
        self, plan: CommitPlan, new_origins: Mapping[bytes, tuple[bytes, int]]
    ) -> Iterator[tuple[bytes, bytes]]:
        ids = ChainMap({digest: index for digest, (_, index) in new_origins.items()}, self._origin_ids)
        records = [
            BlockRecord(ids[append.origin_digest], record.header, record.payload, chain)
            for append, record, chain in plan.records
        ]
        position = plan.first_position
        for block in split_into_blocks(records):
            yield position.to_bytes(8, "big"), encode_block(block)
            position += len(block)

    def _put(self, txn: Any, name: bytes, items: Sequence[tuple[bytes, bytes]], *, append: bool = False) -> None:
        # One call for all: every call into LMDB lets other threads take the interpreter lock.
        if items:
            txn.cursor(self._databases[name]).putmulti(items, append=append)

    def _put_runs(self, txn: Any, runs: Mapping[bytes, RunSequences]) -> None:
        self._put(txn, b"runs", [(run, _U64.pack(sequences.next)) for run, sequences in runs.items()])
        for run, sequences in runs.items():
            before = self._sequences(run).ahead
            self._put(txn, b"gaps", [(_gap_key(run, sequence), b"") for sequence in sorted(sequences.ahead - before)])
            for sequence in before - sequences.ahead:
                txn.delete(_gap_key(run, sequence), db=self._databases[b"gaps"])

    def _exceeds_retention(self) -> bool:
        counters, settings = self._counters, self._settings
        return counters.records > settings.records_max or counters.payload_bytes > settings.payload_bytes_max

    def _evict(self, txn: Any, plan: CommitPlan, new_keys: Sequence[bytes]) -> _Eviction:
        """Advances first_position as far as retention asks, and deletes the blocks left behind."""
        counters, settings = plan.counters, self._settings
        first, payload_bytes = counters.first_position, counters.payload_bytes
        limit = min(counters.next_position, first + eviction_budget(plan))
        # As with records: more than came in, or blocks of one large record each would outgrow the retention.
        blocks_max = max(_BLOCKS_PER_EVICTION, 2 * len(new_keys))
        starts = [*self._index.oldest(blocks_max)]
        starts += [int.from_bytes(key, "big") for key in new_keys]
        oldest, dropped = self._oldest, 0
        for start in starts[:blocks_max]:
            # The oldest block is looked at in every commit until it is gone: its sizes are remembered.
            if oldest.start != start:
                oldest = self._sizes_of(txn, start)
            end = start + len(oldest.payload_bytes)
            while first < min(end, limit) and (
                counters.next_position - first > settings.records_max or payload_bytes > settings.payload_bytes_max
            ):
                payload_bytes -= oldest.payload_bytes[first - start]
                first += 1
            if first < end:
                break
            txn.delete(start.to_bytes(8, "big"), db=self._databases[b"blocks"])
            dropped += 1
        return _Eviction(first, payload_bytes, dropped, oldest)

    def _sizes_of(self, txn: Any, start: int) -> _BlockSizes:
        data = txn.get(start.to_bytes(8, "big"), db=self._databases[b"blocks"])
        return _BlockSizes(start, BlockReader(start, memoryview(data)).payload_sizes())

    def _read(
        self, positions: Sequence[int], extract: Callable[[BlockReader, int], StoredRecord]
    ) -> list[StoredRecord]:
        # Of one moment, before the transaction begins: it will see at least what they count.
        counters = self._counters
        first, end = counters.first_position, counters.next_position
        positions = [position for position in positions if first <= position < end]
        starts = self._index.locate(positions)
        keys = [start.to_bytes(8, "big") for start in sorted(set(starts)) if start >= 0]
        with self._transaction("read", buffers=True) as txn:
            found = txn.cursor(self._databases[b"blocks"]).getmulti(keys)
            blocks = ((int.from_bytes(key, "big"), data) for key, data in found)
            readers = {start: BlockReader(start, data) for start, data in blocks}
            return [
                extract(readers[start], position)
                for start, position in zip(starts, positions, strict=True)
                if start in readers
            ]


def _open_environment(path: Path, map_bytes: int) -> Any:
    try:
        return lmdb.open(
            str(path), map_size=map_bytes, max_dbs=len(_DATABASES), lib_version=_ENGINE_MAJOR, max_spare_txns=4
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise StoreFormatError(f"replay directory {path} does not hold an LMDB 0.9 file: {error}") from error
    except lmdb.Error as error:
        raise StoreError(f"replay directory {path} cannot be opened: {error}") from error


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except lmdb.MapFullError as error:
        raise StoreFull(
            f"{what} failed: the file has grown to replay.map_bytes; nothing was stored: raise it, or lower retention"
        ) from error
    except lmdb.Error as error:
        if isinstance(error, lmdb.DiskError) or getattr(error, "code", 0) in _NO_SPACE:
            raise StoreFull(f"{what} failed: no space on the disk ({error}); nothing was stored") from error
        raise StoreError(f"{what} failed: {error}") from error


def _gap_key(run: bytes, sequence: int) -> bytes:
    return run + b"\0" + sequence.to_bytes(8, "big")


def _encode_counters(counters: StoreCounters) -> bytes:
    return json.dumps({**dataclasses.asdict(counters), "chain_head": counters.chain_head.hex()}).encode()


def _decode_counters(value: bytes | None) -> StoreCounters:
    if value is None:
        return StoreCounters()
    fields = json.loads(value)
    return StoreCounters(**{**fields, "chain_head": bytes.fromhex(fields["chain_head"])})
