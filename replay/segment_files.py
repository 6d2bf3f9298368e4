"""The directories of a store's segments: listing, making, removing, and clearing away what a crash left half done.

What each may be in the middle of when the process is killed, and why that does no harm, is in segment.py: a segment
being made has a name that nobody reads, one being removed has another, and each takes or loses its own by a rename.

Exceptions: StoreFull, StoreError (see replay.store).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from replay.lmdb_environment import EnvironmentOptions, LmdbEnvironment, Transaction
from replay.lmdb_files import DATA_FILE, NO_SPACE, allocate
from replay.segment import DATABASES, Segment
from replay.segment_spare import SpareSegment
from replay.segment_state import SegmentInfo, put_info
from replay.store import StoreError, StoreFull

SEGMENTS = "segments"

_NEW = ".new"
_DROPPED = ".dropped"
_DIGITS = 20


def segment_name(first_position: int) -> str:
    """Name of the directory of the segment that begins there."""
    return f"{first_position:0{_DIGITS}d}"


def list_segments(segments: Path) -> list[Path]:
    """The complete ones, in order of their positions. Raises StoreError."""
    try:
        found = [path for path in segments.iterdir() if len(path.name) == _DIGITS and path.name.isdigit()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{segments} cannot be read: {error.strerror}") from error
    return sorted(found)


def create_segment(
    segments: Path,
    info: SegmentInfo,
    options: EnvironmentOptions,
    state_bytes: int,
    fill: Callable[[Transaction], None],
    *,
    spare: SpareSegment | None = None,
) -> Segment:
    """Makes a segment and returns it, on disk in every mode of durability; nothing is left where that fails.

    Args:
      segments: the directory of all.
      info: of the new one; there is none of that position yet.
      options: for its environment.
      state_bytes: about how much `fill` writes.
      fill: writes its state, but for the info.
      spare: the dropped segment whose file is used, if there is one that can be.

    Raises:
      StoreFull, StoreError.
    """
    complete = segments / segment_name(info.first_position)
    draft = complete.with_name(complete.name + _NEW)
    with contextlib.ExitStack() as undo:
        try:
            if not segments.exists():
                segments.mkdir()
                sync_directory(segments.parent)
            shutil.rmtree(draft, ignore_errors=True)
            undo.callback(shutil.rmtree, draft, ignore_errors=True)
            draft.mkdir()
            environment = LmdbEnvironment(draft, DATABASES, options)
            undo.callback(environment.close)
            _write_state(draft, environment, info, state_bytes, fill)
            if spare is not None and spare.is_there():
                environment.close()
                spare.put_under(draft / DATA_FILE)
                sync_directory(draft)
                environment = LmdbEnvironment(draft, DATABASES, options)
                undo.callback(environment.close)
            segment = Segment(complete, environment, info.link_before)
            draft.rename(complete)
            environment.moved(complete)
            try:
                sync_directory(segments)
            except OSError:
                complete.rename(draft)  # or it would be the newest one after a restart
                raise
        except OSError as error:
            what = f"making a segment in {segments} failed: {error.strerror}; nothing was stored"
            raise (StoreFull(what) if error.errno in NO_SPACE else StoreError(what)) from error
        undo.pop_all()
    return segment


def _write_state(
    draft: Path,
    environment: LmdbEnvironment,
    info: SegmentInfo,
    state_bytes: int,
    fill: Callable[[Transaction], None],
) -> None:
    def write(transaction: Transaction) -> None:
        fill(transaction)
        put_info(transaction, info)

    # So that a disk that is full says so here.
    allocate(draft / DATA_FILE, environment.used_bytes(), environment.used_bytes() + state_bytes)
    environment.write("making a segment", write)
    environment.sync()
    sync_directory(draft)


def remove_segment(segment: Path) -> None:
    """Removes a segment's files; a crash in between leaves what `clear_leftovers` removes. Raises OSError."""
    doomed = segment.with_name(segment.name + _DROPPED)
    segment.rename(doomed)
    shutil.rmtree(doomed)


def clear_leftovers(segments: Path) -> None:
    """Removes what an earlier process was making or removing when it ended. Raises OSError."""
    if segments.is_dir():
        for path in segments.iterdir():
            if path.name.endswith((_NEW, _DROPPED)):
                shutil.rmtree(path)


def sync_directory(directory: Path) -> None:
    """Returns once the directory's entries are on disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
