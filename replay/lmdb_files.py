"""LMDB's two files as files: what LMDB itself does not look at before it maps them.

Knows the layout of LMDB 0.9's meta pages on 64-bit little-endian machines, and no more of it.

Exceptions: StoreFull, StoreCorrupt, StoreFormatError, StoreError (see replay.store).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from replay.store import StoreCorrupt, StoreError, StoreFormatError, StoreFull

DATA_FILE = "data.mdb"
READERS_MAX = 254
"""Read transactions at once on one environment, over all processes: as many as fit its lock file of 16 KiB."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_LOCK_FILE = "lock.mdb"
_LOCK_FILE_BYTES = 16 * 1024
_PAGE_SIZE_AT = 40
_LAST_PAGE_AT = 136
_META = struct.Struct("<II")
_META_MAGIC = (0xBEEFC0DE, 1)
_META_AT = 16
_META_BYTES = 152


def used_bytes(data_file: Path) -> int:
    """Bytes of LMDB's data file in use after the newest commit; whatever lies beyond is looked at by nobody.

    Read from the meta pages themselves: LMDB would be killed by the kernel if it looked for a page beyond the end of a
    file that was cut. Raises StoreFormatError for a file that is none of LMDB 0.9's, OSError.
    """
    newest = (-1, 0)
    with data_file.open("rb") as file:
        page_bytes = 0
        for _ in range(2):
            file.seek(page_bytes)
            meta = file.read(_META_BYTES)
            if len(meta) < _META_BYTES or _META.unpack_from(meta, _META_AT) != _META_MAGIC:
                raise StoreFormatError(f"{data_file.parent} does not hold an LMDB 0.9 file")
            page_bytes = int.from_bytes(meta[_PAGE_SIZE_AT : _PAGE_SIZE_AT + 4], "little")
            last_page, transaction = struct.unpack_from("<QQ", meta, _LAST_PAGE_AT)
            newest = max(newest, (transaction, (last_page + 1) * page_bytes))
    return newest[1]


def check_size(data_file: Path) -> None:
    """Raises StoreCorrupt where the data file is shorter than its contents; StoreFormatError, StoreError."""
    try:
        used, size = used_bytes(data_file), data_file.stat().st_size
    except FileNotFoundError as error:
        raise StoreCorrupt(f"{data_file} is missing: restore it") from error
    except OSError as error:
        raise StoreError(f"{data_file} cannot be read: {error.strerror}") from error
    if size < used:
        raise StoreCorrupt(f"{data_file} was cut: it has {size} bytes, its contents take {used}; restore it")


def allocate_lock_file(directory: Path) -> None:
    """Makes LMDB's lock file, or what space it lacks, before LMDB does. Raises StoreFull.

    LMDB maps the file and writes to it: without space on the disk for that, the kernel would kill the process.
    """
    lock_file = directory / _LOCK_FILE
    try:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return  # a directory that may only be read: LMDB says so itself
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StoreFull(f"opening {directory} failed: no space on the disk; nothing was stored") from error
    finally:
        os.close(descriptor)


def is_open_elsewhere(directory: Path) -> bool:
    """Whether another process has the environment in a directory open, and not without locks; not for one open in this.

    LMDB holds a shared lock on the first byte of its lock file while it has an environment open. Raises OSError.
    """
    descriptor = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return True
        raise
    finally:
        os.close(descriptor)
    return False


def allocate(data_file: Path, start: int, end: int) -> None:
    """Allocates disk space for the bytes [start, end) of a file, which grows. Raises OSError: no space.

    Where a file system cannot do that, nothing happens.
    """
    descriptor = os.open(data_file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, start, end - start)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
    finally:
        os.close(descriptor)
