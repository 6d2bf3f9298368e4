"""The reading half over segments: what the store itself and readers in other processes have in common.

Everything is read as of one moment: the counters, segments and index that the subclass gives. A segment dropped between
that moment and its reading holds only records evicted meanwhile, which are then left out.

Exceptions: StoreCorrupt, StoreError (see replay.store).
"""

from __future__ import annotations

import abc
import bisect
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap64

from protos.common.v1 import common_pb2
from replay.block_index import IndexView
from replay.lmdb_environment import EnvironmentClosed
from replay.priority_file import PriorityFile
from replay.quarantines import Quarantines
from replay.segment import Payloads, Segment, read_signals
from replay.store import CHAIN_START, Quarantine, StoreCorrupt, StoreCounters, StoredRecord, StoreError, StoreSizes


class Moment(NamedTuple):
    """A log as it was after some commit."""

    counters: StoreCounters
    segments: Sequence[Segment]
    """Ascending; the last one is the active one."""
    block_index: IndexView

    def those_there(self, positions: Sequence[int]) -> list[int]:
        """Those of the positions that are in the store, in their order."""
        first, end = self.counters.first_position, self.counters.next_position
        return [position for position in positions if first <= position < end]

    def by_segment(self, positions: Sequence[int]) -> list[tuple[Segment, list[int]]]:
        """Positions, each in the segment that would hold it, in their order there."""
        firsts = [segment.first_position for segment in self.segments]
        groups: dict[int, list[int]] = {}
        for position in positions:
            groups.setdefault(bisect.bisect_right(firsts, position) - 1, []).append(position)
        return [(self.segments[number], groups[number]) for number in sorted(groups) if number >= 0]

    def blocks(self, positions: Sequence[int]) -> list[tuple[Segment, dict[int, list[int]]]]:
        """Positions by the first position of their block, and these by segment."""
        blocks: dict[int, list[int]] = {}
        for position, start in zip(positions, self.block_index.starts_of(positions), strict=True):
            blocks.setdefault(start, []).append(position)
        return [
            (segment, {start: blocks[start] for start in starts}) for segment, starts in self.by_segment(list(blocks))
        ]


class LogView(abc.ABC):
    """A StoreView of segments."""

    directory: Path
    """Of the store."""

    def __init__(self) -> None:
        self._partial_block: tuple[int, NDArray[np.int64]] = (-1, np.zeros((1, 2), np.int64))

    @abc.abstractmethod
    def _moment(self) -> Moment:
        """The newest commit. Raises StoreError once it is closed."""

    @abc.abstractmethod
    def _quarantines_now(self) -> Quarantines:
        """The quarantines after it."""

    def counters(self) -> StoreCounters:
        """See StoreView.counters."""
        return self._moment().counters

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See StoreView.read."""
        with self._collected(positions, Payloads.COPY) as records:
            return records

    def read_headers(self, positions: Sequence[int]) -> list[StoredRecord]:
        """See StoreView.read_headers."""
        with self._collected(positions, Payloads.NONE) as records:
            return records

    @contextlib.contextmanager
    def lend(self, positions: Sequence[int]) -> Iterator[list[StoredRecord]]:
        """See StoreView.lend. Afterwards the memoryviews raise ValueError, but not what was made of them."""
        with self._collected(positions, Payloads.LEND) as records:
            try:
                yield records
            finally:
                _release(records)

    @contextlib.contextmanager
    def _collected(self, positions: Sequence[int], payloads: Payloads) -> Iterator[list[StoredRecord]]:
        moment = self._moment()
        there = moment.those_there(positions)
        found: dict[int, StoredRecord] = {}
        damage: dict[int, str] = {}
        with contextlib.ExitStack() as readings:
            for segment, blocks in moment.blocks(there):
                try:
                    sealed = segment is not moment.segments[-1]
                    source = readings.enter_context(segment.reading_blocks(sealed=sealed))
                    segment.collect(source, blocks, payloads, found, damage)
                except EnvironmentClosed:
                    self._moment()  # raises where it is the store that was closed
                except StoreError as error:
                    damage.update((position, str(error)) for wanted in blocks.values() for position in wanted)
            _raise_damage(damage)
            yield [found[position] for position in there if position in found]

    def marks(self, positions: Sequence[int]) -> dict[int, common_pb2.RecordMarks]:
        """See StoreView.marks. Raises StoreCorrupt, naming in `positions` those whose marks are damaged."""
        moment = self._moment()
        there = moment.those_there(positions)
        signals: dict[int, Mapping[str, float]] = {}
        damage: dict[int, str] = {}
        for segment, of_segment in moment.by_segment(there):
            try:
                with segment.reading() as transaction:
                    signals.update(read_signals(transaction, of_segment))
            except EnvironmentClosed:
                self._moment()
            except StoreError as error:
                damage.update(dict.fromkeys(of_segment, str(error)))
        _raise_damage(damage)
        return self._quarantines_now().marks(there, signals)

    def quarantines(self) -> Sequence[Quarantine]:
        """See StoreView.quarantines."""
        return self._quarantines_now().all()

    def quarantined(self) -> BitMap64:
        """See StoreView.quarantined."""
        return self._quarantines_now().in_force()

    def priorities(self, table: str) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float64]]]:
        """See StoreView.priorities."""
        counters, segments, _ = self._moment()
        for segment in segments:
            offsets, priorities = PriorityFile(segment.directory, table).read()
            positions = offsets + segment.first_position
            there = (positions >= counters.first_position) & (positions < counters.next_position)
            if there.any():
                yield positions[there].astype(np.uint64), priorities[there]

    def window(self, records_max: int, payload_bytes_max: int, newer_than_ns: int) -> int:
        """See StoreView.window."""
        counters, _, index = self._moment()
        return index.window(counters, records_max, payload_bytes_max, newer_than_ns)

    def link_before(self, position: int) -> bytes | None:
        """See StoreView.link_before."""
        counters, segments, index = self._moment()
        if position == 0:
            return CHAIN_START
        if position == counters.next_position:
            return counters.chain_head
        for segment in reversed(segments):
            if segment.first_position <= position:
                try:
                    return segment.link_before(position, index.starts_of([position - 1])[0])
                except (StoreError, lmdb.Error):
                    return None
        return None

    def sizes(self) -> StoreSizes:
        """See StoreView.sizes."""
        moment = self._moment()
        _, evicted_bytes = self._bytes_below(moment.counters.first_position, moment)
        return StoreSizes(_disk_bytes(self.directory), moment.block_index.bytes - evicted_bytes, len(moment.segments))

    def _bytes_below(self, position: int, moment: Moment) -> tuple[int, int]:
        """Payload bytes, and bytes of headers and payloads, of the records below a position, as the index counts."""
        index = moment.block_index
        row = index.row_of(position)
        if row < 0:
            return (0, 0) if not len(index.starts) else (int(index.payload_bytes_before[0]), int(index.bytes_before[0]))
        start = int(index.starts[row])
        below = int(index.payload_bytes_before[row]), int(index.bytes_before[row])
        if position == start:
            return below
        # The oldest block is looked at again and again until it is gone: its sizes are remembered.
        known, sums = self._partial_block
        if known != start or position - start >= len(sums):
            sums = _sums(moment, start)
            self._partial_block = start, sums
        payload_bytes, all_bytes = sums[min(position - start, len(sums) - 1)].tolist()
        return below[0] + payload_bytes, below[1] + all_bytes


def _release(records: Sequence[StoredRecord]) -> None:
    for record in records:
        payload = record.payload
        if isinstance(payload, memoryview):
            try:
                payload.release()
            except BufferError:  # an array was made of it, and still lives
                continue


def _sums(moment: Moment, start: int) -> NDArray[np.int64]:
    """[records + 1, 2]: payload bytes, and all bytes, of the records of a block before each of its records."""
    ((segment, _),) = moment.by_segment([start])
    try:
        sizes = segment.sizes(start)
    except (StoreError, lmdb.Error):  # a damaged block counts in full until it is gone
        return np.zeros((1, 2), np.int64)
    sums = np.zeros((len(sizes) + 1, 2), np.int64)
    np.cumsum(sizes["payload_bytes"], dtype=np.int64, out=sums[1:, 0])
    np.cumsum(sizes["header_bytes"], dtype=np.int64, out=sums[1:, 1])
    sums[:, 1] += sums[:, 0]
    return sums


def _raise_damage(damage: Mapping[int, str]) -> None:
    if damage:
        positions = sorted(damage)
        others = f" ({len(positions) - 1} others are damaged too)" if len(positions) > 1 else ""
        raise StoreCorrupt(damage[positions[0]] + others, positions)


def _disk_bytes(directory: Path) -> int:
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
                total += Path(place, name).stat().st_blocks * 512
    return total
