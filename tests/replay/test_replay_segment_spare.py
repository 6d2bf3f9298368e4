"""The file of a dropped segment is used for a later one, unless somebody still has it open."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.chain import verify_chain
from replay.lmdb_store import LmdbStore
from replay.segment_spare import SPARE
from replay.store import StoreSettings
from replay.testing import make_append, make_origin
from tests.replay.storing import append, opened, segment_paths

HOLD = """
import sys
from pathlib import Path
from replay.reader import StoreReader
reader = StoreReader(Path(sys.argv[1]))
print(len(reader.read(range(8))), flush=True)
sys.stdin.readline()
print(len(reader.read(range(100))), flush=True)
"""
TIMEOUT_S = 30.0
RETAIN = 12
KEPT = 16  # with the four of a commit


@pytest.fixture(autouse=True)
def small_files_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.segment_spare.KEPT_BYTES_MIN", 0)


def inode(segment: Path) -> int:
    return (segment / "data.mdb").stat().st_ino


def check(store: LmdbStore, end: int) -> None:
    """Everything that is kept can be read, of the store and of one that opens it later."""
    first = end - KEPT
    assert [record.position for record in store.read(range(end + 9))] == list(range(first, end))
    assert verify_chain(store).records == end - first
    copy = store.directory.with_name("copied")
    shutil.copytree(store.directory, copy)
    with opened(copy) as again:
        assert [record.position for record in again.read(range(end + 9))] == list(range(first, end))
        assert verify_chain(again).records == end - first
        assert not (copy / SPARE).exists()
    shutil.rmtree(copy)


def test_a_dropped_file_is_used_for_the_next_segment(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        append(store, 0, 20)
        oldest = inode(segment_paths(store.directory)[0])
        append(store, 20, 24, retain=RETAIN)
        assert inode(store.directory / SPARE) == oldest
        check(store, 24)
        append(store, 24, 28, retain=RETAIN)
        assert not (store.directory / SPARE).exists() or inode(store.directory / SPARE) != oldest
        assert inode(segment_paths(store.directory)[-1]) == oldest
        check(store, 28)
        append(store, 28, 88, retain=RETAIN)
        assert verify_chain(store).records == KEPT
    assert not (tmp_path / "store" / SPARE).exists()


@contextlib.contextmanager
def holding(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A reader in another process that has read from every segment."""
    command = [sys.executable, "-c", HOLD, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "8\n"
            yield process
        finally:
            process.kill()


def test_a_file_that_another_process_has_open_is_not_used(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 20)
        oldest = inode(segment_paths(tmp_path)[0])
        with holding(tmp_path) as process:
            append(store, 20, 28, retain=RETAIN)
            assert inode(segment_paths(tmp_path)[-1]) != oldest
            assert not (tmp_path / SPARE).exists()
            output, _ = process.communicate("\n", timeout=TIMEOUT_S)
            assert output == f"{KEPT}\n"
        append(store, 28, 60, retain=RETAIN)
        assert verify_chain(store).records == KEPT


def test_a_file_that_is_lent_out_is_not_used(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 20)
        expected = store.read(range(8))
        oldest = inode(segment_paths(tmp_path)[0])
        with store.lend(range(8)) as lent:
            append(store, 20, 36, retain=4)
            assert oldest not in [inode(path) for path in segment_paths(tmp_path)]
            assert [bytes(record.payload) for record in lent] == [record.payload for record in expected]


@pytest.mark.parametrize(
    "target", ["replay.segment_spare.shutil.copyfileobj", "replay.segment_spare.is_open_elsewhere"]
)
def test_a_file_that_cannot_be_used_is_given_up(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(tmp_path / "store") as store:
        append(store, 0, 24, retain=RETAIN)
        oldest = inode(store.directory / SPARE)
        with monkeypatch.context() as patch:
            patch.setattr(target, fail)
            append(store, 24, 28, retain=RETAIN)
        assert inode(segment_paths(store.directory)[-1]) != oldest
        assert not (store.directory / SPARE).exists()
        check(store, 28)


class _Killed(BaseException):
    """Ends everything at once."""


@pytest.mark.parametrize("target", ["replay.segment_spare.os.fsync", "replay.segment_spare.SpareSegment.discard"])
def test_killed_while_a_file_is_used_again(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "left"

    def kill(*_: object) -> None:
        if not left.exists():
            shutil.copytree(tmp_path / "store", left, ignore=shutil.ignore_patterns("lock.mdb"))
        raise _Killed

    with opened(tmp_path / "store") as store:
        append(store, 0, 24, retain=RETAIN)
        with monkeypatch.context() as patch:
            patch.setattr(target, kill)
            with pytest.raises(_Killed):
                append(store, 24, 28)
    with opened(left) as store:
        check(store, 24)
        append(store, 24, 60, retain=RETAIN)
        assert verify_chain(store).records == KEPT


def test_a_much_larger_file_is_not_kept_for_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.segment_log._SEGMENT_BYTES_MIN", 2**16)
    with opened(tmp_path, StoreSettings(("steps",), segment_records=8, segment_bytes=2**16)) as store:
        append(store, 0, 8, steps=10_000)
        append(store, 8, 24)
        append(store, 24, 28, retain=RETAIN)
        large = (tmp_path / SPARE / "data.mdb").stat().st_size
        append(store, 28, 36)
        assert (segment_paths(tmp_path)[-1] / "data.mdb").stat().st_size < large
        assert not (tmp_path / SPARE).exists()


def test_a_full_disk_gets_the_spare_file_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 20, retain=RETAIN)
        append(store, 20, 24, retain=RETAIN)
        assert (tmp_path / SPARE).exists()
        allocate = "replay.segment.allocate"

        def full_while_there_is_a_spare(*_: object) -> None:
            if (tmp_path / SPARE).exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(allocate, full_while_there_is_a_spare)
            large = make_origin("actor-0", "actor-0.large", steps=200_000)
            store.commit([make_append(large, [0], steps=200_000)], {})
        assert not (tmp_path / SPARE).exists()
        assert store.counters().next_position == 25


def test_a_small_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.segment_spare.KEPT_BYTES_MIN", 4 * 1024**2)
    with opened(tmp_path) as store:
        append(store, 0, 24, retain=RETAIN)
        assert [int(path.name) for path in segment_paths(tmp_path)] == [8, 16]
        assert not (tmp_path / SPARE).exists()
