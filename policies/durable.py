"""Files that a crash leaves whole or absent, and that are on the disk once the call returns. Knows no contents."""

from __future__ import annotations

import contextlib
import os
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
