"""The directory of a durable store: one owner at a time, and a note of which format lies in it.

    store.lock   flock'ed while the store is open; holds the owner's process id, for people
    format.json  {"format": "temper-replay", "version": 1, "engine": "lmdb-0.9"}, written before any data

The note is there because neither LMDB nor its Python binding promises that another engine can read a file, or says
clearly that it cannot. Not for network file systems: neither flock nor LMDB can be trusted there.

Exceptions: StoreBusy, StoreFormatError, StoreError (see replay.store).
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from replay.store import StoreBusy, StoreError, StoreFormatError

FORMAT = {"format": "temper-replay", "version": 1, "engine": "lmdb-0.9"}

_NOTE = "format.json"
_DRAFT = "format.json.new"
_LOCK = "store.lock"
_DATA = "data.mdb"


class StoreDirectory:
    """An exclusively held store directory of the current format, created if need be. Close it to let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"replay directory {path} cannot be used: {error.strerror}; choose another") from error
        try:
            self._take()
            self._check_format()
        except OSError as error:
            self.close()
            raise StoreError(f"replay directory {path} cannot be used: {error.strerror}; choose another") from error
        except BaseException:  # whatever went wrong, the lock is not left behind
            self.close()
            raise

    @property
    def data_file(self) -> Path:
        """LMDB's data file."""
        return self.path / _DATA

    def close(self) -> None:
        """Lets go of the directory. A second call does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreBusy(
                f"replay directory {self.path} is open already, by process {owner}: stop it or choose another directory"
            ) from error
        # Written over what is there and cut after it: on a full disk a block that was let go might not come back.
        os.ftruncate(self._lock, os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0))

    def _check_format(self) -> None:
        note = self.path / _NOTE
        if not note.exists():
            # What a first opening that died may have left behind is ours; anything else is somebody else's directory.
            foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in (_LOCK, _DRAFT))
            if foreign:
                raise StoreFormatError(
                    f"replay directory {self.path} holds {foreign[0]} but no {_NOTE}: "
                    "it was not written by this store; choose another directory"
                )
            self._write_note(note)
            return
        try:
            found = json.loads(note.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StoreFormatError(f"{note} is not JSON: the directory's format is unknown; choose another") from error
        if found != FORMAT:
            raise StoreFormatError(
                f"replay directory {self.path} was written in format {_described(found)}, this build reads and writes "
                f"{_described(FORMAT)}: choose another directory, or the build that wrote it"
            )

    def _write_note(self, note: Path) -> None:
        draft = self.path / _DRAFT
        with draft.open("w") as file:
            json.dump(FORMAT, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(note)
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _described(note: object) -> str:
    if not isinstance(note, dict):
        return repr(note)
    return f"{note.get('format')} version {note.get('version')} on {note.get('engine')}"
