"""LMDB environments, each opened once in a process however many use it, and LMDB's errors as ours.

LMDB must not open an environment twice in a process; a store and readers of it (reader.py) may well live in one. So an
environment is shared by its users here, told by the inode of its data file, and closed with the last of them. Readers
ask for it read-only, a store for writing: it is opened anew where the first to come asked for less.

A transaction may be kept for those who read later, where what they read does not change. It ends with its environment,
or when somebody needs that for itself.

No transaction outlives its environment: closing one's hold waits for one's transactions, or, where it is let go, the
last of them closes it. What needs the environment for itself (a larger map, opening it anew) waits until no transaction
is under way, without holding up new ones, and gives up after a while: nobody who reads inside a transaction is ever
waited for by one that he waits for.

Not for network file systems, and not across fork.

Exceptions: EnvironmentClosed, StoreFull, StoreCorrupt, StoreFormatError, StoreBusy, StoreError (see replay.store).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb

from replay.lmdb_files import DATA_FILE, NO_SPACE, READERS_MAX, allocate_lock_file, check_size
from replay.store import StoreBusy, StoreCorrupt, StoreError, StoreFormatError, StoreFull

MAP_BYTES = 8 * 1024**3
"""Address space of an environment, and so the most it can grow to before its map is made larger."""

KEPT_S = 1.0
"""How long a transaction is kept, at most: pages that somebody frees meanwhile, maybe elsewhere, wait for its end."""

_ENGINE_MAJOR = 0
_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.NotFoundError)
_SPARE_TRANSACTIONS = 4
_EXCLUSIVE_S = 2.0

T = TypeVar("T")


class EnvironmentClosed(StoreError):
    """The environment was closed, or let go, by this user of it."""


class EnvironmentOptions(NamedTuple):
    """How an environment is opened."""

    writable: bool
    map_bytes: int = MAP_BYTES
    metasync: bool = True
    """False: a crash of the machine may undo the last commit, until `sync`."""
    lock: bool = True
    """False: for a directory that may only be read; a reader is then not known to the writer (reader.py)."""


class Transaction(NamedTuple):
    """An LMDB transaction under way, and the databases by name."""

    txn: Any
    databases: Mapping[bytes, Any]


class _Shared:
    """An open environment and who is in it; `lock`, that of `condition`, guards all of it."""

    def __init__(self, directory: Path, names: Sequence[bytes], options: EnvironmentOptions) -> None:
        self.directory = directory
        self.names = names
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.users: set[LmdbEnvironment] = set()
        self.transactions = 0
        self.wanted = 0
        """How many wait to have it for themselves."""
        self.open(options)

    def open(self, options: EnvironmentOptions) -> None:
        self.options = options
        self.environment, self.databases = _open(self.directory, self.names, options)

    def exclusively(self, action: Callable[[], None]) -> bool:
        """Does something while no transaction is under way; False where there always was one."""
        with self.condition:
            self.wanted += 1
        self.end_kept()
        with self.condition:
            try:
                if not self.condition.wait_for(lambda: not self.transactions, _EXCLUSIVE_S):
                    return False
                action()
                return True
            finally:
                self.wanted -= 1

    def end_kept(self) -> None:
        """Ends the transactions that its users keep."""
        with self.lock:
            users = [user for user in self.users if user._kept is not None]
        for user in users:
            user.end_kept()

    def reopen(self, options: EnvironmentOptions) -> bool:
        def reopen() -> None:
            self.environment.close()
            self.open(options)

        return self.exclusively(reopen)


_registry: dict[tuple[int, int], _Shared] = {}
_registry_lock = threading.RLock()


class LmdbEnvironment:
    """One user's hold on the environment in a directory. Thread-safe.

    Args:
      directory: exists; its files are created if `options.writable`.
      names: of the databases.
      options: where somebody in this process has it open already, only what they lack is changed.

    Raises:
      StoreFormatError: there is no LMDB 0.9 environment.
      StoreBusy: it is open in this process read-only, and always being read.
      StoreError
    """

    def __init__(self, directory: Path, names: Sequence[bytes], options: EnvironmentOptions) -> None:
        self.directory = directory
        self._closed = False
        self._transactions = 0
        self._kept: _Kept | None = None
        with _registry_lock:
            key = _key(directory)
            shared = _registry.get(key) if key is not None else None
            if shared is None:
                shared = _Shared(directory, names, options)
                _registry[_key(directory) or (-1, -1)] = shared
            self._shared = shared
            with shared.lock:
                shared.users.add(self)
            try:
                self._open_for(options)
            except BaseException:  # whatever went wrong, it is not held
                self._release()
                raise

    def reading(self) -> contextlib.AbstractContextManager[Transaction]:
        """A read transaction, whose values are memoryviews valid inside it. Raises EnvironmentClosed, StoreError."""
        return _Reading(self)

    def reading_kept(self, make: Callable[[Transaction], T]) -> contextlib.AbstractContextManager[T]:
        """What `make`, always the same, made of a read transaction that is shared with those before and after.

        For what does not change any more: nothing that is committed after the first of them is seen. Several threads
        may be in it at a time. Raises EnvironmentClosed, StoreError, and what `make` raises.
        """
        return _ReadingKept(self, make)

    def end_kept(self) -> None:
        """Ends the transaction that is kept, if there is any, once those in it have left."""
        with self._shared.condition:
            kept, self._kept = self._kept, None
            if kept is not None:
                kept.is_over = True
            unused = kept is not None and not kept.users
        if kept is not None and unused:
            self._end(kept)

    def write(self, what: str, change: Callable[[Transaction], T]) -> T:
        """Calls `change` in a write transaction, synced when this returns (see EnvironmentOptions.metasync).

        It is called again, in another transaction, where the map had to be made larger.

        Raises:
          StoreFull: no space on the disk, or in the map; nothing was changed.
          EnvironmentClosed, StoreError: likewise nothing was changed; `__cause__` is LMDB's error.
        """
        self._shared.end_kept()  # or the pages that this frees could not be used again
        while True:
            self._enter()
            try:
                with translated(what), self._shared.environment.begin(write=True) as txn:
                    return change(Transaction(txn, self._shared.databases))
            except StoreFull as error:
                full = error
            finally:
                self._leave()
            if not (isinstance(full.__cause__, lmdb.MapFullError) and self._grow()):
                raise full

    def sync(self) -> None:
        """Returns once everything committed is on disk. Raises StoreError."""
        self._enter()
        try:
            with translated("sync"):
                self._shared.environment.sync(True)
        finally:
            self._leave()

    def used_bytes(self) -> int:
        """Bytes of the data file in use after the newest commit. Raises EnvironmentClosed."""
        self._enter()
        try:
            environment = self._shared.environment
            return (int(environment.info()["last_pgno"]) + 1) * int(environment.stat()["psize"])
        finally:
            self._leave()

    def moved(self, directory: Path) -> None:
        """Says where the open environment's directory is now."""
        self.directory = self._shared.directory = directory

    def check_readers(self) -> int:
        """Forgets readers whose processes died, and returns how many; pages only they could see become free."""
        self._enter()
        try:
            with translated("reader check"):
                return int(self._shared.environment.reader_check())
        finally:
            self._leave()

    def make_readable_again(self) -> None:
        """After a failed write: LMDB lets nobody read an environment that had a fatal error, until it is reopened."""
        self._shared.reopen(self._shared.options._replace(writable=False))

    def close(self) -> None:
        """Waits for this user's transactions and lets go of the environment. A second call does nothing."""
        self.let_go()
        with self._shared.condition:
            self._shared.condition.wait_for(lambda: not self._transactions)

    def let_go(self) -> None:
        """Like `close`, without waiting: transactions under way go on, and the last one closes it."""
        with self._shared.condition:
            self._closed, closed = True, self._closed
            last = not closed and not self._transactions
        self.end_kept()  # which is a transaction: if there is one, it was not the last
        if last:
            self._release()

    def _open_for(self, options: EnvironmentOptions) -> None:
        """Opens the shared environment anew where those who have it open do not write, and this one does."""
        shared = self._shared
        if options.writable and shared.options != options and not shared.reopen(options):
            raise StoreBusy(f"{self.directory} is open in this process already and always being read: stop its readers")

    def _enter(self) -> None:
        with self._shared.condition:
            if self._closed:
                raise EnvironmentClosed(f"{self.directory} is closed")
            self._transactions += 1
            self._shared.transactions += 1

    def _leave(self) -> None:
        with self._shared.condition:
            self._transactions -= 1
            self._shared.transactions -= 1
            last = self._closed and not self._transactions
            self._shared.condition.notify_all()
        if last:
            self._release()

    def _release(self) -> None:
        with _registry_lock:
            with self._shared.lock:
                self._shared.users.discard(self)
            if not self._shared.users:
                self._shared.environment.close()
                for key in [key for key, shared in _registry.items() if shared is self._shared]:
                    del _registry[key]

    def _begin(self) -> Any:
        try:
            return self._shared.environment.begin(buffers=True)
        except lmdb.MapResizedError:  # another process made it larger
            environment = self._shared.environment
            self._without_own_transaction(lambda: environment.set_mapsize(0))
            return self._shared.environment.begin(buffers=True)

    def _enter_kept(self, make: Callable[[Transaction], Any]) -> _Kept:
        with self._shared.lock:
            kept = self._kept
            if kept is not None and time.monotonic() < kept.until_s:
                kept.users += 1
                return kept
        self.end_kept()
        reading = _Reading(self)
        kept = _Kept(reading, reading.__enter__())
        try:
            kept.value = make(kept.transaction)
        except BaseException:
            self._end(kept)
            raise
        with self._shared.condition:
            if self._kept is None and not self._closed and not self._shared.wanted:
                self._kept = kept
            else:
                kept.is_over = True
        return kept

    def _leave_kept(self, kept: _Kept) -> None:
        with self._shared.lock:
            kept.users -= 1
            last = kept.is_over and not kept.users
        if last:
            self._end(kept)

    def _end(self, kept: _Kept) -> None:
        kept.value = None
        kept.reading.__exit__(None, None, None)

    def _grow(self) -> bool:
        def grow() -> None:
            environment = self._shared.environment
            environment.set_mapsize(2 * int(environment.info()["map_size"]))

        return self._shared.exclusively(grow)

    def _without_own_transaction(self, action: Callable[[], None]) -> None:
        with self._shared.condition:
            self._shared.transactions -= 1
        try:
            self._shared.exclusively(action)
        finally:
            with self._shared.condition:
                self._shared.transactions += 1


class _Reading:
    """See LmdbEnvironment.reading. Written out, for a batch has one for each segment."""

    __slots__ = ("_environment", "_txn")

    def __init__(self, environment: LmdbEnvironment) -> None:
        self._environment = environment

    def __enter__(self) -> Transaction:
        environment = self._environment
        environment._enter()
        try:
            self._txn = environment._begin()
        except BaseException as error:
            environment._leave()
            if isinstance(error, lmdb.Error):
                raise lmdb_failure("read", error) from error
            raise
        return Transaction(self._txn, environment._shared.databases)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._txn.abort()
        self._environment._leave()
        if isinstance(error, lmdb.Error):
            raise lmdb_failure("read", error) from error


def is_open_here(directory: Path) -> bool:
    """Whether this process has the environment in a directory open."""
    with _registry_lock:
        return _key(directory) in _registry


class _Kept:
    """A read transaction for several readers, those in it counted; whoever makes it is the first."""

    __slots__ = ("is_over", "reading", "transaction", "until_s", "users", "value")

    def __init__(self, reading: _Reading, transaction: Transaction) -> None:
        self.reading = reading
        self.transaction = transaction
        self.value: Any = None
        self.users = 1
        self.until_s = time.monotonic() + KEPT_S
        self.is_over = False


class _ReadingKept:
    """See LmdbEnvironment.reading_kept."""

    __slots__ = ("_environment", "_kept", "_make")

    def __init__(self, environment: LmdbEnvironment, make: Callable[[Transaction], Any]) -> None:
        self._environment = environment
        self._make = make

    def __enter__(self) -> Any:
        self._kept = self._environment._enter_kept(self._make)
        return self._kept.value

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._environment._leave_kept(self._kept)
        if isinstance(error, lmdb.Error):
            raise lmdb_failure("read", error) from error


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises LMDB's errors as StoreFull and StoreError."""
    try:
        yield
    except lmdb.Error as error:
        raise lmdb_failure(what, error) from error


def lmdb_failure(what: str, error: Any) -> StoreError:
    """What to raise where LMDB raised `error`."""
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(f"{what} failed: the map of the file is full; nothing was stored")
    if isinstance(error, lmdb.DiskError) or getattr(error, "code", 0) in NO_SPACE:
        return StoreFull(f"{what} failed: no space on the disk ({error}); nothing was stored")
    if isinstance(error, _DAMAGE):
        return StoreCorrupt(f"{what} failed: {error}")
    return StoreError(f"{what} failed: {error}")


def _key(directory: Path) -> tuple[int, int] | None:
    try:
        status = (directory / DATA_FILE).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _open(directory: Path, names: Sequence[bytes], options: EnvironmentOptions) -> tuple[Any, Mapping[bytes, Any]]:
    is_new = options.writable and not (directory / DATA_FILE).exists()
    if not is_new:
        check_size(directory / DATA_FILE)
    if options.lock:
        allocate_lock_file(directory)
    try:
        environment = lmdb.open(
            str(directory),
            map_size=options.map_bytes,
            max_dbs=len(names),
            max_readers=READERS_MAX,
            max_spare_txns=_SPARE_TRANSACTIONS,
            readonly=not options.writable,
            create=is_new,
            metasync=options.metasync,
            lock=options.lock,
            lib_version=_ENGINE_MAJOR,
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise StoreFormatError(f"{directory} does not hold an LMDB 0.9 file: {error}") from error
    except lmdb.Error as error:
        raise lmdb_failure(f"opening {directory}", error) from error
    try:
        with translated(f"opening {directory}"):
            return environment, _open_databases(environment, names, is_new)
    except StoreError:
        environment.close()
        raise


def _open_databases(environment: Any, names: Sequence[bytes], is_new: bool) -> Mapping[bytes, Any]:
    if not is_new:
        return {name: environment.open_db(name, create=False) for name in names}
    with environment.begin(write=True) as txn:  # one for all: each is synced
        return {name: environment.open_db(name, txn=txn) for name in names}
