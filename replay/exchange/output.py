"""Where an export goes: a new file or directory, which is there whole or not at all.

It is written under another name beside its own (.NAME.*.unfinished), put on disk, and only then renamed; what a killed
export leaves under that name can be deleted. Nothing that is there is ever overwritten.

Exceptions: ExportRefused where something is there already, or nothing can be made there; ExportFailed where the disk
does not take what is written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from replay.exchange.errors import ExportFailed, ExportRefused


class ExportSummary(NamedTuple):
    """What an export wrote."""

    records: int
    steps: int
    """Rows of the records, boundary rows among them."""
    files: tuple[Path, ...]
    size_bytes: int
    """Of all files."""
    episodes: int = 0
    """Where that is what it wrote."""


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `path` at the end of the context and is removed on an exception."""
    try:
        _check_absent(path)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".unfinished", dir=path.parent))
    except OSError as error:
        raise _cannot_begin(path, error) from error
    with _finished_or_gone(path, partial(shutil.rmtree, unfinished, ignore_errors=True)):
        yield unfinished
        with failing(path):
            for file in unfinished.iterdir():
                _sync(file)
            _sync(unfinished)
            unfinished.chmod(0o777 & ~_umask())
            _finish(unfinished, path)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` at the end of the context and is removed on an exception."""
    try:
        _check_absent(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".unfinished", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _cannot_begin(path, error) from error
    unfinished = Path(name)
    with _finished_or_gone(path, partial(unfinished.unlink, missing_ok=True)):
        yield unfinished
        with failing(path):
            _sync(unfinished)
            unfinished.chmod(0o666 & ~_umask())
            _finish(unfinished, path)


class TextFile:
    """A UTF-8 file being written, as a context manager. Raises ExportFailed where the disk does not take it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with failing(path):
            self._file = path.open("w", encoding="utf-8", newline="\n")

    def __enter__(self) -> TextFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing writes as well, which is of no interest any more once something has failed.
        with contextlib.suppress(OSError) if error is not None else failing(self._path):
            self._file.close()

    def write(self, text: str) -> None:
        """Appends text."""
        with failing(self._path):
            self._file.write(text)


@contextlib.contextmanager
def failing(path: Path) -> Iterator[None]:
    """Turns what the file system says inside the context into ExportFailed, which names `path`."""
    try:
        yield
    except OSError as error:
        raise ExportFailed(path, _reason(error)) from error


def files_in(path: Path) -> tuple[tuple[Path, ...], int]:
    """The file, or those of the directory by name, and their size together (bytes)."""
    files = (path,) if path.is_file() else tuple(sorted(path.iterdir()))
    return files, sum(file.stat().st_size for file in files)


@contextlib.contextmanager
def _finished_or_gone(path: Path, remove: Callable[[], object]) -> Iterator[None]:
    """Removes what was begun on any exception; ExportFailed names `path`, whichever file of it was written to."""
    try:
        yield
    except BaseException as error:
        remove()
        if isinstance(error, ExportFailed):
            raise ExportFailed(path, error.reason) from error
        raise


def _cannot_begin(path: Path, error: OSError) -> ExportRefused:
    return ExportRefused(f"cannot write {path}: {_reason(error)}; nothing was written")


def _reason(error: OSError) -> str:
    """What the system calls it: other words may come with it."""
    return os.strerror(error.errno) if error.errno else str(error)


def _check_absent(path: Path) -> None:
    if path.is_symlink() or path.exists():
        raise ExportRefused(f"{path} exists already: nothing was written; remove it, or name another")


def _finish(unfinished: Path, path: Path) -> None:
    _check_absent(path)
    unfinished.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
