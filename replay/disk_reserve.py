"""Disk space set aside for what must still be written when the disk is full: a file that can be deleted.

A draw is committed before it is delivered, and an eviction is what frees space; both need a few pages. On a disk
without even these nothing could be drawn any more. So a store keeps this file (databases call it ballast), gives it up
for such a commit, and takes no record until it has it again. File systems that cannot set space aside, or that copy on
write, give no such promise.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

RESERVE_BYTES = 1024**2

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class DiskReserve:
    """RESERVE_BYTES of the disk that `path` lies on. Used from one thread; the file outlives its owner."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = False

    def take(self) -> bool:
        """Sets the space aside unless it already is; returns False where the disk has no space for it."""
        if not self._held:
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
                finally:
                    os.close(descriptor)
                self._held = True
            except OSError as error:
                self._remove()  # what there was of it is of no use
                self._held = error.errno not in _NO_SPACE  # where it cannot be had at all, the store does without
        return self._held

    def release(self) -> bool:
        """Gives the space back to the disk; returns whether there was any."""
        held, self._held = self._held, False
        self._remove()
        return held

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # then there is no more space than before, which the commit will find out
            self._path.unlink()
