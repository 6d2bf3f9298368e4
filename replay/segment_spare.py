"""The file of the segment that was dropped last, kept for the next one to be made in.

To write to new space in a file, pages have to be found, cleared and charged, and the file system has to note down where
they went and that they are written; all that is done already for a file whose records are evicted. So once the store is
as large as it may be, commits of large records cost a copy and the writing. (PostgreSQL does the same with its log.)

    DIR/spare/   the directory of a segment, no longer part of the log; whoever opens the store for writing removes it

Nobody may read a file while it is used anew, so it is not used where anybody has it open, in this process or, as LMDB's
lock on its lock file tells, in another. Only a reader without locks (reader.py) is not known: it has let go of the
segment, or reads what fails a checksum and looks again.

Exceptions: none; where a spare cannot be used, it is removed, and the next segment gets a new file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

from replay.lmdb_environment import is_open_here
from replay.lmdb_files import DATA_FILE, is_open_elsewhere

SPARE = "spare"

KEPT_BYTES_MIN = 4 * 1024**2
"""A smaller file is not kept: nothing is gained by it, and beside a small store it would weigh much."""

_COPY_BYTES = 1024**2

_log = logging.getLogger(__name__)


class SpareSegment:
    """At most one dropped segment. For the thread that writes to the store.

    Args:
      directory: of the store; what an earlier process left there is removed.
    """

    def __init__(self, directory: Path) -> None:
        self._place = directory / SPARE
        self._data_file = self._place / DATA_FILE
        self.discard()

    def keep(self, segment: Path) -> None:
        """Takes a segment out of the log, whether or not anybody still reads it; the one kept before is removed.

        Raises:
          OSError: it is where it was.
        """
        self.discard()
        segment.rename(self._place)
        if not self._data_file.exists() or self._data_file.stat().st_size < KEPT_BYTES_MIN:
            self.discard()

    def discard(self) -> bool:
        """Gives its space back, but for what somebody still reads; returns whether there was any."""
        try:
            shutil.rmtree(self._place)
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.warning("the files of evicted records are left until the next start: %s", error)
            return False
        return True

    def is_there(self) -> bool:
        """Whether there is one whose file can be used; one that somebody still reads goes with its readers."""
        try:
            usable = self._data_file.exists() and not (is_open_here(self._place) or is_open_elsewhere(self._place))
        except OSError as error:
            _log.warning("the file of a dropped segment cannot be used again: %s", error)
            usable = False
        if not usable:
            self.discard()
        return usable

    def discard_if_larger(self, file_bytes: int) -> None:
        """Gives its space back where there is more than that (bytes)."""
        with contextlib.suppress(OSError):
            if self._data_file.stat().st_size > file_bytes:
                self.discard()

    def put_under(self, data_file: Path) -> None:
        """Puts what is in a data file, which nobody has open, into this one, which then takes its place.

        Only where `is_there`. There is no spare any more; should it fail, the data file is as it was.
        """
        try:
            with data_file.open("rb") as source, self._data_file.open("r+b") as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)
                target.flush()
                os.fsync(target.fileno())
            self._data_file.rename(data_file)
        except OSError as error:
            _log.warning("the file of a dropped segment cannot be used again: %s", error)
        finally:
            self.discard()
