"""Priorities that clients gave to the records of one segment, for one table: a file of numbers, changed in place.

Format: little-endian f4, one for each record of the segment in order, as far as any was put. +0 (all bits zero, as in
whatever part of the file was never written) stands for "none", -0 for the priority 0. What has more or less than f4 can
tell is stored as the largest or the smallest that it can.

Not part of any commit and not synced: priorities are advice for a sampler, they change by the thousand every second,
all over the log, and a transaction for each segment would cost more than all that is appended. A crash of the process
loses nothing that was put; one of the machine may lose changes of the last seconds, each number being the old or the
new one.

Exceptions: StoreFull, StoreError (see replay.store).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from replay.lmdb_files import NO_SPACE
from replay.store import StoreError, StoreFull

_PREFIX = "priorities-"
_DTYPE = np.dtype("<f4")
_LOWEST, _HIGHEST = float(np.finfo(_DTYPE).tiny), float(np.finfo(_DTYPE).max)


class PriorityFile:
    """The priorities of one segment's records for one table; the file is made when the first is put."""

    def __init__(self, segment: Path, table: str) -> None:
        self._path = segment / (_PREFIX + quote(table, safe=""))

    def put(self, offsets: NDArray[np.int64], priorities: NDArray[np.float64]) -> None:
        """Stores priorities [n], finite and not negative, of the records at offsets [n], ascending, of the segment."""
        start, end = int(offsets[0]), int(offsets[-1]) + 1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                span = np.zeros(end - start, _DTYPE)
                there = os.pread(descriptor, span.nbytes, start * _DTYPE.itemsize)
                there = there[: len(there) - len(there) % _DTYPE.itemsize]
                span[: len(there) // _DTYPE.itemsize] = np.frombuffer(there, _DTYPE)
                span[offsets - start] = np.where(priorities > 0, np.clip(priorities, _LOWEST, _HIGHEST), -0.0)
                if os.pwrite(descriptor, span.tobytes(), start * _DTYPE.itemsize) < span.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            what = f"writing {self._path} failed: {error.strerror}; not all priorities were stored"
            raise (StoreFull(what) if error.errno in NO_SPACE else StoreError(what)) from error

    def read(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The records that have a priority, as offsets [n] ascending, and the priorities [n]."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error.strerror}") from error
        values = np.frombuffer(data, _DTYPE, len(data) // _DTYPE.itemsize)
        # Whatever is no priority, as a damaged disk may leave it, is none.
        there = np.flatnonzero(((values > 0) & np.isfinite(values)) | ((values == 0) & np.signbit(values)))
        return there, np.abs(values[there].astype(np.float64))

    def delete(self) -> None:
        """Forgets them all."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be deleted: {error.strerror}") from error
