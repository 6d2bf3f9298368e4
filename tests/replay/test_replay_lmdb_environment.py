"""Environments shared in a process, their errors, and the files under them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from replay.lmdb_environment import (
    EnvironmentClosed,
    EnvironmentOptions,
    LmdbEnvironment,
    Transaction,
    lmdb_failure,
)
from replay.lmdb_files import DATA_FILE, allocate_lock_file, check_size, used_bytes
from replay.segment import DATABASES, Segment
from replay.store import StoreBusy, StoreCorrupt, StoreError, StoreFormatError, StoreFull
from tests.replay.storing import append, opened

NAMES = (b"numbers",)
WRITABLE = EnvironmentOptions(writable=True, map_bytes=2**20)
READ_ONLY = EnvironmentOptions(writable=False, map_bytes=2**20)


def _put(number: int, size: int = 1) -> Callable[[Transaction], None]:
    def put(change: Transaction) -> None:
        change.txn.put(bytes([number]), bytes([number]) * size, db=change.databases[b"numbers"])

    return put


def _get(environment: LmdbEnvironment, number: int) -> bytes | None:
    with environment.reading() as (txn, databases):
        value = txn.get(bytes([number]), db=databases[b"numbers"])
        return None if value is None else bytes(value)


def _error(code: int) -> Exception:
    error: Exception = lmdb.Error(os.strerror(code))
    error.code = code  # type: ignore[attr-defined]  # as LMDB's binding sets it
    return error


def test_one_environment_for_all_its_users_however_they_came(tmp_path: Path) -> None:
    LmdbEnvironment(tmp_path, NAMES, WRITABLE).close()
    reader = LmdbEnvironment(tmp_path, NAMES, READ_ONLY)
    writer = LmdbEnvironment(tmp_path, NAMES, WRITABLE)  # opened anew, for it was read-only
    (tmp_path / "link").symlink_to(tmp_path)
    another = LmdbEnvironment(tmp_path / "link", NAMES, READ_ONLY)
    writer.write("test", _put(1))
    assert _get(reader, 1) == _get(another, 1) == b"\1"
    writer.close()
    writer.close()
    assert _get(reader, 1) == b"\1"
    with pytest.raises(EnvironmentClosed):
        _get(writer, 1)
    reader.close()
    another.close()
    lmdb.open(str(tmp_path), lib_version=0, max_dbs=1).close()  # refused where one is open still


def test_who_lets_go_reads_to_the_end(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    environment.write("test", _put(1, 9000))
    with environment.reading() as (txn, databases):
        value = txn.get(b"\1", db=databases[b"numbers"])
        environment.let_go()
        assert bytes(value) == b"\1" * 9000
        with pytest.raises(EnvironmentClosed):
            _get(environment, 1)
    lmdb.open(str(tmp_path), lib_version=0, max_dbs=1).close()


def test_a_map_grows_for_what_does_not_fit_and_other_processes_follow(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    for number in range(8):
        environment.write("test", _put(number, 2**20))
    assert _get(environment, 7) == b"\7" * 2**20
    script = (
        "import sys; from pathlib import Path; from replay.lmdb_environment import *\n"
        "environment = LmdbEnvironment(Path(sys.argv[1]), (b'numbers',), EnvironmentOptions(False, 2**20))\n"
        "for number in (7, 40):\n"
        "    with environment.reading() as (txn, databases):\n"
        "        print(len(txn.get(bytes([number]), db=databases[b'numbers'])), flush=True)\n"
        "    input()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == f"{2**20}\n"
        environment.write("test", _put(40, 2**25))
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == f"{2**25}\n"
        print(file=process.stdin, flush=True)
        assert process.wait(10.0) == 0
    environment.close()


def test_nothing_waits_forever_for_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.lmdb_environment._EXCLUSIVE_S", 0.05)
    LmdbEnvironment(tmp_path, NAMES, WRITABLE).close()
    reader = LmdbEnvironment(tmp_path, NAMES, READ_ONLY)
    with reader.reading(), pytest.raises(StoreBusy, match="always being read: stop its readers"):
        LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    writer = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    with reader.reading(), pytest.raises(StoreFull, match="the map of the file is full; nothing was stored"):
        writer.write("test", _put(1, 2**21))
    writer.write("test", _put(1, 2**21))
    for environment in (reader, writer):
        environment.close()


def test_reading_goes_on_after_a_fatal_error(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    environment.write("test", _put(1))
    environment.make_readable_again()
    assert _get(environment, 1) == b"\1"
    with pytest.raises(StoreError, match="test failed"):
        environment.write("test", _put(2))
    environment.close()


def test_readers_in_threads(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    environment.write("test", _put(1))
    seen: list[bytes | None] = []
    threads = [threading.Thread(target=lambda: seen.append(_get(environment, 1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert seen == [b"\1"] * 8
    assert environment.check_readers() == 0
    environment.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lmdb.MapFullError("x"), StoreFull),
        (lmdb.DiskError("x"), StoreFull),
        (_error(errno.EDQUOT), StoreFull),
        (_error(errno.EFBIG), StoreFull),
        (lmdb.CorruptedError("x"), StoreCorrupt),
        (lmdb.PageNotFoundError("x"), StoreCorrupt),
        (_error(errno.EIO), StoreError),
        (lmdb.PanicError("x"), StoreError),
    ],
)
def test_errors_are_told_apart(error: Exception, kind: type[StoreError]) -> None:
    failure = lmdb_failure("commit", error)
    assert type(failure) is kind
    assert str(failure).startswith("commit failed: ")


@pytest.mark.parametrize(("room", "kind"), [(False, StoreFull), (True, StoreError)])
def test_a_short_write_is_a_full_disk_only_where_there_is_no_room(
    room: bool, kind: type[StoreError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB says EIO for both."""

    def fail(_: object) -> None:
        raise _error(errno.EIO)

    def allocate(*_: object) -> None:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path) as store:
        append(store, 0, 4)
        segment: Segment = store._log.active
        segment.cut()
        monkeypatch.setattr("replay.segment.allocate", allocate)
        with pytest.raises(StoreError) as error:
            segment.write("commit", fail)
        assert type(error.value) is kind


def test_bytes_in_use_are_those_lmdb_says(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    for number in range(6):
        environment.write("test", _put(number, 10_000))
        assert used_bytes(tmp_path / DATA_FILE) == environment.used_bytes()
    environment.close()
    size = used_bytes(tmp_path / DATA_FILE)
    check_size(tmp_path / DATA_FILE)
    os.truncate(tmp_path / DATA_FILE, size - 1)
    with pytest.raises(StoreCorrupt, match=f"was cut: it has {size - 1} bytes, its contents take {size}"):
        LmdbEnvironment(tmp_path, NAMES, READ_ONLY)


def test_what_is_no_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreCorrupt, match="is missing: restore it"):
        LmdbEnvironment(tmp_path, NAMES, READ_ONLY)
    lmdb.open(str(tmp_path), lib_version=1).close()
    with pytest.raises(StoreFormatError, match=r"does not hold an LMDB 0\.9 file"):
        LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    (tmp_path / "other").mkdir()
    lmdb.open(str(tmp_path / "other"), lib_version=0).close()
    with pytest.raises(StoreCorrupt, match="failed"):
        LmdbEnvironment(tmp_path / "other", DATABASES, READ_ONLY)


def test_a_lock_file_has_its_space_before_it_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate_lock_file(tmp_path)
    assert (tmp_path / "lock.mdb").stat().st_blocks * 512 >= 16 * 1024
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    environment.write("test", _put(1))
    assert (tmp_path / "lock.mdb").stat().st_size == 16 * 1024
    environment.close()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFull, match="no space on the disk; nothing was stored"):
        LmdbEnvironment(tmp_path, NAMES, WRITABLE)


def test_a_kept_reading_is_shared_and_remembered(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    environment.write("test", _put(1))
    made: list[Transaction] = []

    def make(transaction: Transaction) -> list[Transaction]:
        made.append(transaction)
        return made

    with environment.reading_kept(make) as first, environment.reading_kept(make) as second:
        assert first is second is made
    with environment.reading_kept(make):
        assert len(made) == 1
        environment.write("test", _put(2))  # of which it does not know
        assert made[0].txn.get(b"\2", db=made[0].databases[b"numbers"]) is None
    environment.end_kept()
    environment.end_kept()
    with environment.reading_kept(make):
        assert len(made) == 2
        assert made[1].txn.get(b"\2", db=made[1].databases[b"numbers"]) is not None
    environment.close()
    with pytest.raises(EnvironmentClosed), environment.reading_kept(make):
        pass
    lmdb.open(str(tmp_path), lib_version=0, max_dbs=1).close()  # refused where one is open still


def test_a_kept_reading_is_over_for_whoever_needs_the_environment(tmp_path: Path) -> None:
    LmdbEnvironment(tmp_path, NAMES, WRITABLE).close()
    reader = LmdbEnvironment(tmp_path, NAMES, READ_ONLY)
    with reader.reading_kept(lambda transaction: transaction):
        pass
    writer = LmdbEnvironment(tmp_path, NAMES, WRITABLE)  # opened anew, for it was read-only
    with writer.reading_kept(lambda transaction: transaction):
        pass
    writer.write("test", _put(1, 2**21))  # more than the map holds
    assert _get(reader, 1) == b"\1" * 2**21
    reader.close()
    writer.close()


def test_who_is_in_a_kept_reading_reads_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.lmdb_environment._EXCLUSIVE_S", 0.05)
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    environment.write("test", _put(1, 9000))
    with environment.reading_kept(lambda transaction: transaction) as (txn, databases):
        with pytest.raises(StoreFull):
            environment.write("test", _put(2, 2**21))  # which would move the map away under it
        with environment.reading_kept(lambda transaction: transaction) as (another, _):
            assert another is not txn
        environment.let_go()
        assert bytes(txn.get(b"\1", db=databases[b"numbers"])) == b"\1" * 9000
    lmdb.open(str(tmp_path), lib_version=0, max_dbs=1).close()


def test_a_kept_reading_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: Transaction) -> None:
        raise KeyError

    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    with pytest.raises(KeyError), environment.reading_kept(fail):
        pass
    environment.write("test", _put(1, 2**21))
    environment.close()
    lmdb.open(str(tmp_path), lib_version=0, max_dbs=1).close()


def test_kept_readings_in_threads(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    environment.write("test", _put(1))
    counts: list[int] = []

    def read() -> None:
        for _ in range(300):
            with environment.reading_kept(lambda transaction: transaction) as (txn, databases):
                counts.append(bytes(txn.get(b"\1", db=databases[b"numbers"])) == b"\1")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        environment.end_kept()
    for thread in threads:
        thread.join()
    assert counts == [True] * 1200
    environment.close()
    lmdb.open(str(tmp_path), lib_version=0, max_dbs=1).close()


def test_a_reading_is_not_kept_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.lmdb_environment.KEPT_S", -1.0)
    environment = LmdbEnvironment(tmp_path, NAMES, WRITABLE)
    with environment.reading_kept(lambda transaction: transaction) as first:
        pass
    with environment.reading_kept(lambda transaction: transaction) as second:
        assert first is not second
    environment.close()
    lmdb.open(str(tmp_path), lib_version=0, max_dbs=1).close()
