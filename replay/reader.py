"""Reads a store from any process, also while a service writes to it: read-only, always up to date, never in the way.

Every call first looks for what was committed since. The next segment is told by its name, which is the position up to
which the log is committed (segment.py), and a dropped one by being gone: one look at each of two directory entries.
Dropped segments are let go of at the same time: until then their disk space stays taken.

Where the directory may only be read, LMDB cannot note down that somebody reads. Pages may then be written anew while
they are read: what comes of it fails a checksum, and is read again; and what is lent out is a copy.

Exceptions: StoreCorrupt, StoreFormatError, StoreError (see replay.store).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.block import BlockSummary
from replay.block_index import BlockIndex
from replay.lmdb_environment import EnvironmentOptions, Transaction
from replay.lmdb_files import DATA_FILE
from replay.log_view import LogView, Moment
from replay.quarantines import Quarantines
from replay.segment import Payloads, Segment, damaged_segment, open_segment, read_summaries
from replay.segment_files import SEGMENTS, list_segments, segment_name
from replay.segment_state import read_counters, read_origins, read_quarantines, read_tables, reading_state
from replay.store import StoreCorrupt, StoreCounters, StoredRecord, StoreError, StoreFormatError
from replay.store_directory import read_store_id

_LOOKS_MAX = 100
"""At the segments of a store that is being written to; another look is needed only if there is a new one since."""
_UNLOCKED_ATTEMPTS = 5

T = TypeVar("T")


class StoreReader(LogView):
    """A StoreView of the store in a directory, which need not be open, and may be open anywhere. Thread-safe.

    A store that was just created and holds no segment yet is empty.

    Raises:
      StoreFormatError: there is no store of this format; StoreCorrupt: its newest segment cannot be read; StoreError.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self._store_id = read_store_id(directory)
        self._lock = threading.Lock()
        self._closed = False
        self._locks = os.access(directory, os.W_OK)
        self._segments: tuple[Segment, ...] = ()
        self._index = BlockIndex()
        self._indexed_to = 0
        self._active_inode = -1
        self._seen = (-1, -1)
        """First position of the segment, and number of its transaction, that the counters are of."""
        self._counters = StoreCounters()
        self._origins: list[bytes] = []
        self._quarantines = (-1, -1), Quarantines()
        try:
            self._moment()
        except BaseException:  # whatever went wrong, no environment is left open
            self.close()
            raise

    @property
    def store_id(self) -> bytes:
        """Random id of the store (16 bytes), the one in format.json."""
        return bytes.fromhex(self._store_id)

    def tables(self) -> Mapping[str, replay_pb2.TableState]:
        """See StoreView.tables."""
        return self._of_active(read_tables, {})

    def origin(self, origin_id: int) -> common_pb2.Origin:
        """See StoreView.origin."""
        if origin_id >= len(self._origins):
            self._origins = self._of_active(read_origins, [])
        if not 0 <= origin_id < len(self._origins):
            raise StoreCorrupt(f"origin {origin_id} was never stored; there are {len(self._origins)}")
        return common_pb2.Origin.FromString(self._origins[origin_id])

    def close(self) -> None:
        """See StoreView.close."""
        with self._lock:
            self._closed = True
            segments, self._segments = self._segments, ()
        for segment in segments:
            segment.close()

    def _moment(self) -> Moment:
        with self._lock:
            self._steadily(self._look)
            return Moment(self._counters, self._segments, self._index.view)

    def _quarantines_now(self) -> Quarantines:
        return self._of_active(self._read_quarantines, Quarantines())

    @contextlib.contextmanager
    def _collected(self, positions: Sequence[int], payloads: Payloads) -> Iterator[list[StoredRecord]]:
        # What nobody knows to be lent out may be written over.
        copy = payloads is Payloads.LEND and not self._locks
        with contextlib.ExitStack() as reading:
            collected = partial(super()._collected, positions, Payloads.COPY if copy else payloads)
            records = self._steadily(lambda: reading.enter_context(collected()))
            yield [record._replace(payload=memoryview(record.payload)) for record in records] if copy else records

    def _of_active(self, read: Callable[[Transaction], T], empty: T) -> T:
        """Reads something of the state; `empty` of a store without segments."""

        def read_active() -> T:
            _, segments, _ = self._moment()
            if not segments:
                return empty
            with segments[-1].reading() as transaction, reading_state(segments[-1].directory):
                return read(transaction)

        return self._steadily(read_active)

    def _read_quarantines(self, transaction: Transaction) -> Quarantines:
        seen = self._seen[0], transaction.txn.id()
        if self._quarantines[0] != seen:
            self._quarantines = seen, read_quarantines(transaction)
        return self._quarantines[1]

    def _steadily(self, read: Callable[[], T]) -> T:
        """Reads again what may have been written over while it was read."""
        for _ in range(0 if self._locks else _UNLOCKED_ATTEMPTS):
            with contextlib.suppress(StoreCorrupt):
                return read()
        return read()

    def _look(self) -> None:
        """Brings everything up to date."""
        for _ in range(_LOOKS_MAX):
            if self._closed:
                raise StoreError("the reader is closed")
            self._index_new()
            if self._is_current():
                break
            self._open_listed()
        else:
            raise StoreError(f"{self.directory} changed {_LOOKS_MAX} times while it was looked at; try again")
        segments = self._segments
        if not segments:
            return
        while len(segments) > 1 and segments[1].first_position <= self._counters.first_position:
            segments[0].let_go()
            segments = segments[1:]
        self._segments = segments
        self._index.drop_before(segments[0].first_position)
        # As in the store: a crash of the machine may have taken its last commit, but not what that had removed.
        if self._counters.first_position < segments[0].first_position:
            self._counters = dataclasses.replace(self._counters, first_position=segments[0].first_position)

    def _is_current(self) -> bool:
        """Whether the newest segment known is the newest there is."""
        place = self.directory / SEGMENTS
        if not self._segments:
            return not list_segments(place)
        active, next_position = self._segments[-1], self._counters.next_position
        if next_position > active.first_position and (place / segment_name(next_position)).exists():
            return False
        return _inode(active.directory) == self._active_inode

    def _open_listed(self) -> None:
        """Opens segments not known yet; those dropped meanwhile are none."""
        if read_store_id(self.directory) != self._store_id:
            raise StoreFormatError(f"{self.directory} holds another store now: open it anew")
        known = {segment.first_position: segment for segment in self._segments}
        paths = list_segments(self.directory / SEGMENTS)
        segments = []
        for path in paths:
            segment = known.pop(int(path.name), None) or self._opened(path, is_newest=path == paths[-1])
            if segment is not None:
                segments.append(segment)
        for segment in known.values():
            segment.let_go()
        self._segments = tuple(segments)
        self._active_inode = _inode(segments[-1].directory) if segments else -1

    def _opened(self, path: Path, *, is_newest: bool) -> Segment | None:
        self._locks = self._locks and os.access(path, os.W_OK)
        try:
            return open_segment(path, self._store_id, EnvironmentOptions(writable=False, lock=self._locks))
        except StoreError as error:
            if not path.exists():
                return None
            if is_newest or not isinstance(error, StoreCorrupt | StoreFormatError):
                raise
            return damaged_segment(path, error)

    def _index_new(self) -> None:
        """Adds the blocks committed since to the index; the counters are of the last one's transaction."""
        for segment in self._segments:
            if segment.first_position < self._seen[0]:
                continue
            try:
                with segment.reading() as transaction, reading_state(segment.directory):
                    seen = segment.first_position, transaction.txn.id()
                    if seen == self._seen:
                        continue
                    blocks = read_summaries(transaction, self._indexed_to)
                    self._counters, self._seen = read_counters(transaction), seen
            except StoreError:
                if segment is self._segments[-1]:
                    raise
                starts = self._index.view.starts
                unread = not len(starts) or segment.first_position > starts[-1]
                blocks = [BlockSummary(segment.first_position, 0, 0, 0, 0)] if unread else []
            if blocks:
                self._index.extend(blocks)
                self._indexed_to = blocks[-1].first_position  # that one may be continued


def _inode(segment: Path) -> int:
    try:
        return (segment / DATA_FILE).stat().st_ino
    except OSError:
        return -1
