"""The segments of a store that is open for writing: opening all of them, beginning the next, removing the oldest.

Knows the index and how large a segment may become; neither what is committed nor why anything is evicted.

Exceptions: StoreFull, StoreCorrupt, StoreFormatError, StoreBusy, StoreError (see replay.store).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

from replay.block import BlockSummary
from replay.block_index import BlockIndex
from replay.lmdb_environment import EnvironmentOptions, Transaction
from replay.quarantines import Quarantines
from replay.segment import Segment, damaged_segment, open_segment, read_summaries
from replay.segment_files import clear_leftovers, create_segment, list_segments, remove_segment
from replay.segment_spare import SpareSegment
from replay.segment_state import (
    SegmentInfo,
    copy_state,
    put_counters,
    put_quarantines,
    read_counters,
    reading_state,
    state_bytes,
)
from replay.store import CHAIN_START, StoreCorrupt, StoreCounters, StoreError, StoreFormatError, StoreSettings

_SEGMENTS_MIN = 16
"""Live bytes are spread over so many segments, so that the evicted ones in the oldest are few beside them."""
_SEGMENTS_MANY = 64
"""With more, segments become larger than the setting says: each takes two file descriptors."""
_SEGMENT_BYTES_MIN = 8 * 1024**2
_AHEAD_BYTES_MIN, _AHEAD_BYTES_MAX = 256 * 1024, 4 * 1024**2

_log = logging.getLogger(__name__)


class SegmentLog:
    """The segments in a directory and the index of their blocks. Changed by one thread, read by any.

    Args:
      segments: their directory, in that of the store; a first segment is made if there is none.
      store_id: of the store.
      settings: how large a segment may become.
      options: how to open their environments.
    """

    def __init__(self, segments: Path, store_id: str, settings: StoreSettings, options: EnvironmentOptions) -> None:
        self._directory = segments
        self._store_id = store_id
        self._settings = settings
        self._options = options
        self._spare = SpareSegment(segments.parent)
        self.index = BlockIndex()
        self.segments: tuple[Segment, ...] = ()
        """Ascending; replaced, never mutated."""
        try:
            self._open()
        except BaseException:  # whatever went wrong, no environment is left open
            self.close()
            raise

    @property
    def active(self) -> Segment:
        """The newest, which commits go to."""
        return self.segments[-1]

    def is_full(self, next_position: int, live_bytes: int) -> bool:
        """Whether the next commit should go to another segment.

        Args:
          next_position: of the log.
          live_bytes: headers and payloads of the records in the store.
        """
        records = next_position - self.active.first_position
        filled_bytes = self.index.view.bytes - self._bytes_before_active
        return records > 0 and (
            records >= self._settings.segment_records or filled_bytes >= self._segment_bytes(live_bytes)
        )

    def begin_next(self, counters: StoreCounters, quarantines: Quarantines, live_bytes: int) -> None:
        """Makes the next segment the active one, in the file of a dropped one if there is any.

        Raises:
          StoreFull, StoreError: everything is as it was.
        """
        before = self.active
        if not self._options.metasync:
            before.environment.sync()
        with before.reading() as old:

            def fill(new: Transaction) -> None:
                copy_state(old, new)
                put_quarantines(new, quarantines.from_position(counters.first_position).all())
                put_counters(new, counters)

            info = SegmentInfo(self._store_id, counters.next_position, counters.chain_head)
            self._spare.discard_if_larger(2 * self._segment_bytes(live_bytes))
            new = create_segment(self._directory, info, self._options, 2 * state_bytes(old), fill, spare=self._spare)
        self.segments = (*self.segments, new)
        self._bytes_before_active = self.index.view.bytes
        before.cut()

    def allocate(self, needed_bytes: int, live_bytes: int) -> bool:
        """Sets space for a commit aside in the active segment; returns False where the disk has none."""
        ahead_bytes = self._segment_bytes(live_bytes) // 8
        ahead_bytes = min(max(ahead_bytes, _AHEAD_BYTES_MIN), _AHEAD_BYTES_MAX)
        if self.active.make_room(needed_bytes, ahead_bytes):
            return True
        return self._spare.discard() and self.active.make_room(needed_bytes, ahead_bytes)

    def drop_below(self, first_position: int) -> None:
        """Removes the segments that hold no record from `first_position` on; those being read go with their readers."""
        while len(self.segments) > 1 and self.segments[1].first_position <= first_position:
            oldest, *others = self.segments
            if not self._options.metasync:
                self.active.environment.sync()  # or a crash of the machine might bring back what is removed here
            self.segments = tuple(others)
            self.index.drop_before(others[0].first_position)
            oldest.let_go()
            self._dropping(self._spare.keep, oldest.directory)

    def check_readers(self) -> None:
        """Forgets readers of other processes that died while they read."""
        for segment in self.segments:
            segment.environment.check_readers()

    def close(self) -> None:
        """Waits for what is being read, and closes all."""
        for segment in self.segments:
            segment.close()
        self._spare.discard()

    def _open(self) -> None:
        try:
            clear_leftovers(self._directory)
        except OSError as error:
            raise StoreError(f"{self._directory} cannot be cleared of leftovers: {error.strerror}") from error
        paths = list_segments(self._directory)
        if not paths:
            self._begin_first()
            return
        active = open_segment(paths[-1], self._store_id, self._options)
        self.segments = (active,)
        with active.reading() as transaction, reading_state(active.directory):
            first_position = read_counters(transaction).first_position
        sealed = []
        for path, following in itertools.pairwise(paths):
            if int(following.name) <= first_position:
                self._dropping(remove_segment, path)
            else:
                sealed.append(self._opened(path))
                self.segments = (*sealed, active)
        for segment in self.segments:
            self._bytes_before_active = self.index.view.bytes
            self.index.extend(_summaries(segment))
        for segment in sealed:
            segment.cut()

    def _begin_first(self) -> None:
        def fill(new: Transaction) -> None:
            put_counters(new, StoreCounters())

        info = SegmentInfo(self._store_id, 0, CHAIN_START)
        self.segments = (create_segment(self._directory, info, self._options, 0, fill),)
        self._bytes_before_active = 0

    def _opened(self, path: Path) -> Segment:
        try:
            return open_segment(path, self._store_id, self._options)
        except (StoreCorrupt, StoreFormatError) as error:
            _log.error("the records of one segment cannot be read: %s", error)
            return damaged_segment(path, error)

    def _segment_bytes(self, live_bytes: int) -> int:
        wanted = min(self._settings.segment_bytes, max(_SEGMENT_BYTES_MIN, live_bytes // _SEGMENTS_MIN))
        return max(wanted, live_bytes // _SEGMENTS_MANY)

    def _dropping(self, drop: Callable[[Path], None], path: Path) -> None:
        try:
            drop(path)
        except OSError as error:
            _log.warning("a segment of evicted records is left until the next start: %s: %s", path, error.strerror)


def _summaries(segment: Segment) -> list[BlockSummary]:
    try:
        with segment.reading() as transaction:
            return read_summaries(transaction)
    except StoreError:
        # One block of unknown size: whoever reads it will be told.
        return [BlockSummary(segment.first_position, 0, 0, 0, 0)]
