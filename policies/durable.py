"""Files that a crash leaves whole or absent, and that are on the disk once the call returns; and files that are for
their owner alone. Knows no contents."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Puts a file in place of whatever is there: temporary file, fsync, rename, fsync of the directory.

    The temporary file's name begins with a dot. Raises OSError.
    """
    with _temporary(path, data, mode) as temporary:
        temporary.replace(path)
        _sync_directory(path.parent)


def create_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """As `replace_file`, but raises FileExistsError rather than replace a file, or follow a link, at `path`."""
    with _temporary(path, data, mode) as temporary:
        path.hardlink_to(temporary)
        _sync_directory(path.parent)


def move_file(path: Path, target: Path) -> None:
    """Puts a file that is whole and synced in the place of `target`, in the same directory. Raises OSError."""
    path.replace(target)
    _sync_directory(target.parent)


def read_private_file(path: Path, bytes_max: int) -> bytes:
    """At most `bytes_max` bytes of a file that nobody but its owner can access.

    Raises OSError; PermissionError where its mode lets others at it.
    """
    with path.open("rb") as file:
        # Of the open file, not of the path: what is judged is what is read.
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            reason = f"it has mode {mode:04o} and must be for its owner alone (chmod 600)"
            raise PermissionError(errno.EACCES, reason, str(path))
        return file.read(bytes_max)


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    # O_EXCL: never through a link that somebody else has put there.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
