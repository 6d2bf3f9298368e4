"""The journal of draws: which records each batch since the last checkpoints was made of, so that it can be made again.

RUN_DIR/learner/draws holds one file for each checkpoint, NUMBER-UPDATES.draws: the batches taken from batch NUMBER on,
which was when the learner had made UPDATES updates. A file begins with a line of JSON that says where the fresh table
then stood, by shard; then comes an entry for each batch, little-endian:

    number u64 | era u32 | fresh u32 | others u32 | content u32 | checksum u32 | positions u64 [fresh + others]

`era` is the count of rollbacks: batches are made again only onto the state that they were first learnt onto. `content`
is a CRC-32 over the records' payload digests, so that other records in their place are noticed; `checksum` one over all
else of the entry.

An entry is written before its batch is learnt from, and survives the death of the process, not that of the machine:
files are synced when the next one is begun. The checkpoints are the truth. What is torn, missing or out of order ends
what can be made again, and nothing worse: the fresh table goes on from where that ends.

Exceptions: JournalFailed where it cannot be written.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from protos.common.v1 import common_pb2

DIRECTORY = "learner/draws"
"""Its name in a run directory."""

_ENTRY = struct.Struct("<QIIII")
_CHECKSUM = struct.Struct("<I")
_SUFFIX = ".draws"
_FORMAT = "temper.draws.v1"


class JournalFailed(RuntimeError):
    """The journal cannot be written; what was learnt is in the checkpoints."""


class DrawnBatch(NamedTuple):
    """The records of one batch, by position in the log, in the order in which they stood in it."""

    number: int
    """Batches of the run before it."""
    era: int
    fresh: tuple[int, ...]
    others: tuple[int, ...]
    """Those of other tables."""
    content: int
    """See `content_of`."""


def content_of(headers: Sequence[common_pb2.RecordHeader]) -> int:
    """A checksum over what these records hold."""
    return zlib.crc32(b"".join([header.payload_digest for header in headers]))


class DrawJournal:
    """Reads what an earlier process left, then goes on from some batch. One thread; close it.

    Args:
      directory: made if it is not there.

    Raises:
      JournalFailed: it cannot be.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def clear(self) -> None:
        """Forgets everything. Raises JournalFailed."""
        try:
            for path in self._paths():
                path.unlink()
        except OSError as error:
            raise self._failed(error) from error

    def first_fresh(self) -> dict[int, int] | None:
        """Where the fresh table stood, by shard, before the first batch of the run; None where that is not known."""
        paths = self._paths()
        if not paths or _numbers(paths[0])[0]:
            return None
        try:
            with paths[0].open("rb") as file:
                return _read_head(file)
        except OSError:
            return None

    def batches(self, number: int, era: int) -> list[DrawnBatch]:
        """The batches of this era from `number` on, as far as they are known without a gap."""
        found: list[DrawnBatch] = []
        for path in self._paths_from(number):
            entries, _ = _read_entries(path)
            for entry in entries:
                if entry.number < number:
                    continue
                if entry.number != number + len(found) or entry.era != era:
                    return found
                found.append(entry)
        return found

    def go_on_from(self, number: int, updates: int, fresh: Mapping[int, int]) -> None:
        """Forgets what is known of batches from `number` on, and takes those that come. Raises JournalFailed.

        Args:
          number: batches of the run so far.
          updates: of the learner so far.
          fresh: where the fresh table stands, by shard.
        """
        try:
            paths = self._paths_from(number)
            for path in paths[1:]:
                path.unlink()
            entries, ends = _read_entries(paths[0]) if paths else ([], [])
            if not ends or _numbers(paths[0])[0] > number:
                for path in paths[:1]:
                    path.unlink()
                self._begin(number, updates, fresh)
                return
            kept = sum(entry.number < number for entry in entries)
            self._file = paths[0].open("r+b")
            self._file.truncate(ends[kept])
            self._file.seek(ends[kept])
        except OSError as error:
            raise self._failed(error) from error

    def append(self, batch: DrawnBatch) -> None:
        """Writes down a batch that is about to be learnt from. Raises JournalFailed."""
        if self._file is None:
            raise RuntimeError("a journal takes batches after go_on_from only")
        try:
            self._file.write(_entry(batch))
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def checkpointed(self, number: int, updates: int, fresh: Mapping[int, int], oldest_updates: int) -> None:
        """A checkpoint was begun here: what is before all that may still be gone back to can go. Raises JournalFailed.

        Args:
          number, updates, fresh: as for `go_on_from`.
          oldest_updates: updates of the oldest checkpoint that may be gone back to; 0: to the beginning.
        """
        if self._file is None:
            return
        try:
            if self._place(number, updates) != Path(self._file.name):
                os.fsync(self._file.fileno())
                self._file.close()
                self._begin(number, updates, fresh)
            paths = self._paths()
            for path, following in itertools.pairwise(paths):
                if _numbers(following)[1] > oldest_updates:
                    break
                path.unlink()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, number: int, updates: int, fresh: Mapping[int, int]) -> None:
        self._file = self._place(number, updates).open("wb")
        head = {"format": _FORMAT, "fresh": {str(shard): position for shard, position in fresh.items()}}
        self._file.write(json.dumps(head).encode() + b"\n")
        self._file.flush()

    def _place(self, number: int, updates: int) -> Path:
        return self._directory / f"{number:012d}-{updates:012d}{_SUFFIX}"

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{_SUFFIX}"))

    def _paths_from(self, number: int) -> list[Path]:
        """The last file that begins at or before a batch, and all after it."""
        paths = self._paths()
        before = sum(_numbers(path)[0] <= number for path in paths)
        return paths[max(0, before - 1) :]

    def _failed(self, error: OSError) -> JournalFailed:
        return JournalFailed(
            f"the journal of draws in {self._directory} cannot be written: {error}; the run ends, and can be resumed "
            "from its checkpoints"
        )


def _numbers(path: Path) -> tuple[int, int]:
    number, _, updates = path.stem.partition("-")
    return int(number), int(updates)


def _entry(batch: DrawnBatch) -> bytes:
    head = _ENTRY.pack(batch.number, batch.era, len(batch.fresh), len(batch.others), batch.content)
    positions = np.array([*batch.fresh, *batch.others], "<u8").tobytes()
    return head + _CHECKSUM.pack(zlib.crc32(head + positions)) + positions


def _read_head(file: BinaryIO) -> dict[int, int] | None:
    try:
        head = json.loads(file.readline())
        known = head["format"] == _FORMAT
        return {int(shard): int(position) for shard, position in head["fresh"].items()} if known else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_entries(path: Path) -> tuple[list[DrawnBatch], list[int]]:
    """The entries of a file up to the first that is torn, and where in it the head and each of them ends (bytes).

    Of a file without a head there is neither.
    """
    entries: list[DrawnBatch] = []
    with path.open("rb") as file:
        if _read_head(file) is None:
            return [], []
        ends = [file.tell()]
        data = file.read()
    start, at = ends[0], 0
    while len(data) - at >= _ENTRY.size + _CHECKSUM.size:
        number, era, fresh, others, content = _ENTRY.unpack_from(data, at)
        first = at + _ENTRY.size + _CHECKSUM.size
        end = first + 8 * (fresh + others)
        (checksum,) = _CHECKSUM.unpack_from(data, at + _ENTRY.size)
        if end > len(data) or zlib.crc32(data[at : at + _ENTRY.size] + data[first:end]) != checksum:
            break
        positions = np.frombuffer(data[first:end], "<u8").tolist()
        entries.append(DrawnBatch(number, era, tuple(positions[:fresh]), tuple(positions[fresh:]), content))
        ends.append(start + end)
        at = end
    return entries, ends
