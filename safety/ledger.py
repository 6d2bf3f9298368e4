"""The ledger: everything the safety service has decided, in order, on disk, such that changes to it show.

Format of `ledger.jsonl`: one entry per line, each the canonical JSON (safety.canonical_json) of

    {"index": 0, 1, ..., "previous": hex, "kind": text, "time_ns": int, ...fields of the kind..., "digest": hex}

where "digest" is the SHA-256 of the canonical JSON of the entry without it, and "previous" the digest of the entry
before (zeros for the first). `ledger.head` names the newest synced entry by index and digest, so that a ledger whose
last lines were cut off at a line's end is noticed, too.

Invariants:
  - An entry is on disk and synced, and the head says so, before `append` returns it. The head is at most one behind.
  - A last line without its line feed was never acknowledged: it is cut off when the ledger is opened, and an entry of
    kind "recovered" notes how many bytes it had and their SHA-256. Every other damage is a LedgerError.
  - One process at a time has it open for writing (flock).
  - After a failed write nothing more is appended until it has been opened anew.

A hash chain shows changes to whoever remembers a later digest, or checks the signed statements in it, each of which
names the entry before it (safety.history does). Whoever can write both files, but has no key, can thus cut off the end
of the ledger, but not change what stands before a verdict that remains.

Exceptions:
  LedgerError: the ledger is damaged, or cannot be written; nothing may be decided with it.
    LedgerInUse: another process has it open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policies.durable import replace_file
from safety.canonical_json import canonical_json

NO_ENTRY = bytes(32)
"""The digest that the first entry has as its previous one."""

RECOVERED = "recovered"

_FRAME = ("index", "previous", "kind", "time_ns", "digest")


class LedgerError(Exception):
    """The ledger is damaged or cannot be written; the message says where."""


class LedgerInUse(LedgerError):
    """Another process has this ledger open."""


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    """One decision.

    Attributes:
      index: position, from 0.
      previous: digest of the entry before (32 bytes).
      kind: what was decided, e.g. "verdict".
      time_ns: when, ns since the epoch.
      fields: what belongs to the kind; JSON values.
      digest: of this entry (32 bytes).
    """

    index: int
    previous: bytes
    kind: str
    time_ns: int
    fields: Mapping[str, Any]
    digest: bytes


class Ledger:
    """The ledger in `directory`, open for writing; for any number of threads.

    Args:
      directory: holds ledger.jsonl and ledger.head; must exist.
      clock: present time in ns since the epoch.

    Raises:
      LedgerError: see there.
    """

    def __init__(self, directory: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self._path, self._head_path, self._clock = directory / "ledger.jsonl", directory / "ledger.head", clock
        self._lock = threading.Lock()
        self._failure: str | None = None
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"ledger {self._path} cannot be opened: {error.strerror}") from error
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise

    def entries(self) -> Sequence[LedgerEntry]:
        """Every entry so far, oldest first."""
        with self._lock:
            return tuple(self._entries)

    def append(self, kind: str, compose: Callable[[bytes], Mapping[str, Any]]) -> LedgerEntry:
        """Adds an entry; it is synced to disk when this returns.

        Args:
          kind: what was decided.
          compose: given the digest of the entry before, returns the new entry's fields. No other entry comes between.

        Raises:
          LedgerError: it is not in the ledger (or may be, if the disk fails to sync): nothing has been decided.
        """
        with self._lock:
            if self._failure is not None:
                raise LedgerError(self._failure)
            previous = self._entries[-1].digest if self._entries else NO_ENTRY
            entry, line = _seal(len(self._entries), previous, kind, self._clock(), compose(previous))
            try:
                self._write(line)
                _write_head(self._head_path, entry)
            except OSError as error:
                # After a failed sync the page cache may show what the disk does not have: only a fresh look tells.
                self._failure = f"ledger {self._path} could not be written ({error.strerror}): restart the service"
                raise LedgerError(self._failure) from error
            self._entries.append(entry)
            return entry

    def close(self) -> None:
        """Lets another process open it. May be called twice."""
        with self._lock:
            if self._failure != "the ledger is closed":
                self._failure = "the ledger is closed"
                os.close(self._file)

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LedgerInUse(f"ledger {self._path} is in use by another safety service; stop it first") from error
        data = self._path.read_bytes()
        self._entries, valid_bytes = parse_ledger(data, str(self._path))
        _check_head(self._head_path, self._entries)
        torn = data[valid_bytes:]
        try:
            if torn:
                os.ftruncate(self._file, valid_bytes)
            os.fsync(self._file)
        except OSError as error:
            raise LedgerError(f"ledger {self._path} cannot be repaired: {error.strerror}") from error
        if torn:
            self.append(
                RECOVERED,
                lambda _: {"dropped_bytes": len(torn), "dropped_sha256": hashlib.sha256(torn).hexdigest()},
            )

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(0, f"only {written} of {len(line)} bytes fitted")
        except OSError:
            # Best effort: a partial line that stays is cut off when the ledger is opened again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise
        os.fsync(self._file)


def read_ledger(directory: Path) -> Sequence[LedgerEntry]:
    """The entries of a ledger that may be in use by a service; a line that is just being written is left out.

    Raises:
      LedgerError: it is damaged, ends before the entry that its head names, or cannot be read.
    """
    path, head_path = directory / "ledger.jsonl", directory / "ledger.head"
    # Before the ledger: what a service adds meanwhile then comes after it.
    index, digest = _read_head(head_path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"ledger {path} cannot be read: {error.strerror}") from error
    entries = tuple(parse_ledger(data, str(path))[0])
    if index >= len(entries) or (index >= 0 and entries[index].digest != digest):
        raise LedgerError(
            f"ledger {path} ends at entry {len(entries) - 1}, its head names entry {index} with digest "
            f"{digest.hex()[:16]}: entries were cut off or edited"
        )
    if index < 0 and len(entries) > 1:
        raise LedgerError(f"{head_path} is missing, without which nobody can see whether entries were cut off")
    return entries


def parse_ledger(data: bytes, name: str) -> tuple[list[LedgerEntry], int]:
    """The entries in a ledger's bytes, and how many of the bytes are whole lines.

    Raises:
      LedgerError: a whole line is not the entry that must stand there.
    """
    entries: list[LedgerEntry] = []
    valid_bytes = data.rfind(b"\n") + 1
    previous = NO_ENTRY
    for index, line in enumerate(data[:valid_bytes].split(b"\n")[:-1]):
        try:
            tree = json.loads(line)
            fields = {key: value for key, value in tree.items() if key not in _FRAME}
            entry, expected = _seal(index, previous, tree["kind"], tree["time_ns"], fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LedgerError(f"{name} line {index + 1} is not a ledger entry: it was damaged or edited") from error
        if line + b"\n" != expected:
            raise LedgerError(f"{name} line {index + 1} does not continue the chain: it was damaged or edited")
        entries.append(entry)
        previous = entry.digest
    return entries, valid_bytes


def _seal(index: int, previous: bytes, kind: str, time_ns: int, fields: Mapping[str, Any]) -> tuple[LedgerEntry, bytes]:
    """The entry and its line."""
    body = {**fields, "index": index, "previous": previous.hex(), "kind": kind, "time_ns": time_ns}
    digest = hashlib.sha256(canonical_json(body)).digest()
    line = canonical_json({**body, "digest": digest.hex()}) + b"\n"
    return LedgerEntry(index, previous, kind, time_ns, fields, digest), line


def _write_head(path: Path, entry: LedgerEntry) -> None:
    # In the ledger's own directory, whose entries this syncs: so a new ledger.jsonl is there after a crash, too.
    replace_file(path, canonical_json({"index": entry.index, "digest": entry.digest.hex()}) + b"\n", 0o600)


def _read_head(path: Path) -> tuple[int, bytes]:
    """Index and digest of the entry that the head names; (-1, NO_ENTRY) where there is no head. Raises LedgerError."""
    try:
        head = json.loads(path.read_bytes())
        return int(head["index"]), bytes.fromhex(head["digest"])
    except FileNotFoundError:
        return -1, NO_ENTRY
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} is not readable: the ledger's length cannot be checked") from error


def _check_head(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """Raises LedgerError unless the head names the last entry or the one before it; then it names the last."""
    index, digest = _read_head(path)
    newest = len(entries) - 1
    if not newest - 1 <= index <= newest:
        raise LedgerError(
            f"the ledger ends at entry {newest}, its head names entry {index}: entries were cut off or added"
        )
    if index >= 0 and entries[index].digest != digest:
        raise LedgerError(f"the ledger's entry {index} is not the one that its head names: it was edited")
    if 0 <= newest != index:
        try:
            _write_head(path, entries[newest])
        except OSError as error:
            raise LedgerError(f"{path} cannot be written: {error.strerror}") from error
