"""The directory of a durable store: one owner at a time, and a note of which format lies in it.

    store.lock   flock'ed while the store is open for writing; holds the owner's process id, for people
    format.json  {"format": "temper-replay", "version": 2, "engine": "lmdb-0.9", "store_id": "<32 hexadecimal digits>"},
                 written before any data; the id is random, and names this store wherever it is moved
    reserve      see disk_reserve.py
    segments/    see segment.py
    spare/       see segment_spare.py

The note is there because neither LMDB nor its Python binding promises that another engine can read a file, or says
clearly that it cannot. Not for network file systems: neither flock nor LMDB can be trusted there.

Exceptions: StoreBusy, StoreFormatError, StoreError (see replay.store).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from pathlib import Path

from replay.segment_files import SEGMENTS, sync_directory
from replay.store import StoreBusy, StoreError, StoreFormatError

FORMAT = {"format": "temper-replay", "version": 2, "engine": "lmdb-0.9"}
RESERVE = "reserve"

_NOTE = "format.json"
_DRAFT = "format.json.new"
_LOCK = "store.lock"
_ID = re.compile(r"[0-9a-f]{32}")


class StoreDirectory:
    """An exclusively held store directory of the current format, created if need be. Close it to let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            self._take()
            self.store_id = self._checked_id()
        except OSError as error:
            self.close()
            raise _unusable(path, error) from error
        except BaseException:  # whatever went wrong, the lock is not left behind
            self.close()
            raise

    @property
    def segments(self) -> Path:
        """Where the segments are."""
        return self.path / SEGMENTS

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

    def _checked_id(self) -> str:
        if (self.path / _NOTE).exists():
            return read_store_id(self.path)
        # What a first opening that died may have left behind is ours; anything else is somebody else's directory.
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in (_LOCK, _DRAFT))
        if foreign:
            raise StoreFormatError(
                f"replay directory {self.path} holds {foreign[0]} but no {_NOTE}: "
                "it was not written by this store; choose another directory"
            )
        store_id = secrets.token_hex(16)
        draft = self.path / _DRAFT
        with draft.open("w") as file:
            json.dump({**FORMAT, "store_id": store_id}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path / _NOTE)
        sync_directory(self.path)
        return store_id


def read_store_id(path: Path) -> str:
    """The id of the store in a directory of the current format. Raises StoreFormatError, StoreError."""
    note = path / _NOTE
    try:
        found = json.loads(note.read_text())
    except FileNotFoundError as error:
        raise StoreFormatError(f"{path} holds no {_NOTE}: there is no store of trajectories") from error
    except OSError as error:
        raise _unusable(path, error) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreFormatError(f"{note} is not JSON: the directory's format is unknown; choose another") from error
    if not isinstance(found, dict) or {name: found.get(name) for name in FORMAT} != FORMAT:
        raise StoreFormatError(
            f"replay directory {path} was written in format {_described(found)}, this build reads and writes "
            f"{_described(FORMAT)}: choose another directory, or the build that wrote it"
        )
    if not _ID.fullmatch(str(found.get("store_id"))):
        raise StoreFormatError(f"{note} names no store: store_id is {found.get('store_id')!r}, not 32 hex digits")
    return str(found["store_id"])


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"replay directory {path} cannot be used: {error.strerror}; choose another")


def _described(note: object) -> str:
    if not isinstance(note, dict):
        return repr(note)
    return f"{note.get('format')} version {note.get('version')} on {note.get('engine')}"
