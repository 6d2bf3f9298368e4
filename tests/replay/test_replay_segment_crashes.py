"""What a kill between any two steps leaves behind, and that opening makes a whole store of it."""

from __future__ import annotations

import errno
import os
import random
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from replay.chain import verify_chain
from replay.lmdb_store import LmdbStore
from replay.reader import StoreReader
from replay.segment import Segment
from replay.segment_files import segment_name
from replay.segment_spare import SPARE
from replay.store import StoreError, StoreFull, StoreSettings, run_key
from replay.testing import make_append, make_origin
from tests.replay.storing import SMALL, append, opened, segment_paths


class _Killed(BaseException):
    """Ends everything at once, like a signal that cannot be caught."""


def _killed(*_: object, **__: object) -> None:
    raise _Killed


def _check(directory: Path, stored: int, first: int = 0) -> None:
    """Opens what is left, checks all of it, goes on, and checks again."""
    for end in (stored, stored + 12):
        with opened(directory) as store:
            append(store, stored, end)
            assert (store.counters().first_position, store.counters().next_position) == (first, end)
            assert [record.position for record in store.read(range(end + 9))] == list(range(first, end))
            assert verify_chain(store).records == end - first
            assert store.next_sequence(run_key(make_origin())) == end
        reader = StoreReader(directory)
        assert reader.counters().next_position == end
        assert [record.position for record in reader.read(range(end + 9))] == list(range(first, end))
        reader.close()
        names = [path.name for path in segment_paths(directory)]
        assert all(name.isdigit() for name in names)


# Each a function that a segment's making goes through, and how many segments there are if it is killed before that.
MAKING: dict[str, tuple[str, int]] = {
    "before anything is written": ("replay.segment_files._write_state", 1),
    "before the new state is synced": ("replay.lmdb_environment.LmdbEnvironment.sync", 1),
    "before its directory is synced": ("replay.segment_files.sync_directory", 1),
    "before the rename": ("pathlib.Path.rename", 1),
    "after the rename": ("replay.lmdb_environment.LmdbEnvironment.moved", 2),
    "before the old one's tail is cut": ("replay.segment.Segment.cut", 2),
    "before the first commit to the new one": ("replay.segment.Segment.write", 2),
}


@pytest.mark.parametrize("when", MAKING)
def test_killed_while_a_segment_is_made(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, segments = MAKING[when]
    copy = tmp_path / "copy"
    store = LmdbStore(tmp_path / "replay", SMALL)
    append(store, 0, 8)

    def kill(*_: object, **__: object) -> None:
        # What is on disk now is what a kill leaves; this process cleans up after itself, which a killed one cannot.
        shutil.copytree(tmp_path / "replay", copy, ignore=shutil.ignore_patterns("lock.mdb"))
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(target, kill)
        with pytest.raises(_Killed):
            store.commit([make_append(make_origin(), range(8, 12))], {})
    assert sum(path.name.isdigit() for path in segment_paths(copy)) == segments
    _check(copy, 8)
    if segments == 1:
        _check_goes_on(store)
    store.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_segment_that_cannot_be_synced_is_not_left_behind(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(directory: Path) -> None:
        if directory.name == "segments":
            raise OSError(code, os.strerror(code))

    store = LmdbStore(tmp_path, SMALL)
    append(store, 0, 8)
    with monkeypatch.context() as patch:
        patch.setattr("replay.segment_files.sync_directory", fail)
        with pytest.raises(StoreFull if code == errno.ENOSPC else StoreError, match=os.strerror(code)):
            append(store, 8, 12)
    assert [path.name for path in segment_paths(tmp_path)] == [segment_name(0)]
    if code == errno.ENOSPC:
        _check_goes_on(store)
    store.close()
    _check(tmp_path, 20 if code == errno.ENOSPC else 8)


def _check_goes_on(store: LmdbStore) -> None:
    append(store, 8, 20)
    assert verify_chain(store).records == 20


def test_killed_before_evicted_segments_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LmdbStore(tmp_path, SMALL)
    append(store, 0, 24)
    monkeypatch.setattr("replay.segment_spare.SpareSegment.keep", _killed)
    with pytest.raises(_Killed):
        store.commit([make_append(make_origin(), range(24, 26))], {}, retain_from=18)
    store.close()
    monkeypatch.undo()
    assert [int(path.name) for path in segment_paths(tmp_path)] == [0, 8, 16, 24]
    reader = StoreReader(tmp_path)
    assert [record.position for record in reader.read(range(30))] == list(range(18, 26))
    assert verify_chain(reader).records == 8
    reader.close()
    _check(tmp_path, 26, first=18)
    assert [int(path.name) for path in segment_paths(tmp_path)][:2] == [16, 24]


def test_killed_while_a_segments_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LmdbStore(tmp_path, SMALL)
    append(store, 0, 24)
    monkeypatch.setattr("replay.segment_spare.KEPT_BYTES_MIN", 0)
    store.commit([], {}, retain_from=10)
    assert (tmp_path / SPARE / "data.mdb").exists()
    with monkeypatch.context() as patch:
        patch.setattr("replay.segment_spare.shutil.rmtree", _killed)
        with pytest.raises(_Killed):
            store.commit([], {}, retain_from=20)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)
    store.close()
    assert [path.name for path in segment_paths(copy)] == [segment_name(8), segment_name(16)]
    _check(copy, 24, first=20)
    assert not (copy / SPARE).exists()


@pytest.mark.parametrize("removed", [1, 2])
def test_segments_gone_with_a_commit_that_a_crash_undid(removed: int, tmp_path: Path) -> None:
    """As in durability "async" after a crash of the machine: the counters still tell of records that were dropped."""
    with opened(tmp_path) as store:
        append(store, 0, 24)
    for path in segment_paths(tmp_path)[:removed]:
        shutil.rmtree(path)
    reader = StoreReader(tmp_path)
    assert reader.counters().first_position == 8 * removed
    reader.close()
    _check(tmp_path, 24, first=8 * removed)


def test_an_uncut_tail_is_cut_when_the_store_is_opened(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 12)
    oldest = segment_paths(tmp_path)[0] / "data.mdb"
    size = oldest.stat().st_size
    with oldest.open("ab") as file:
        file.write(os.urandom(10_000))  # whatever an unfinished transaction wrote there
    _check(tmp_path, 12)
    assert oldest.stat().st_size == size


def test_a_torn_transaction_at_the_end_is_not_there(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        append(store, 0, 6)
        used = store._log.active.environment.used_bytes()
    data = segment_paths(tmp_path)[0] / "data.mdb"
    data.write_bytes(data.read_bytes()[:used] + os.urandom(5000))
    _check(tmp_path, 6)


def test_annotating_is_all_or_nothing_in_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Segment.write

    def killed_at_the_second(segment: Segment, what: str, change: Callable[..., None]) -> None:
        if segment.first_position:
            raise _Killed
        write(segment, what, change)

    signals = {position: {"success": 1.0} for position in range(12)}
    with opened(tmp_path) as store:
        append(store, 0, 12)
        with monkeypatch.context() as patch:
            patch.setattr(Segment, "write", killed_at_the_second)
            with pytest.raises(_Killed):
                store.annotate(signals)
    with opened(tmp_path) as store:
        assert list(store.marks(range(12))) == list(range(8))
        assert store.annotate(signals) == 12
        assert list(store.marks(range(12))) == list(range(12))


def test_killed_while_the_directory_is_made(tmp_path: Path) -> None:
    (tmp_path / "format.json.new").write_text('{"format"')
    (tmp_path / "store.lock").write_text("1\n")
    _check(tmp_path, 0)
    shutil.rmtree(tmp_path / "segments")  # killed after the note was written
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / (segment_name(0) + ".new")).mkdir()
    _check(tmp_path, 0)


WRITER = """
import sys
from pathlib import Path
from replay.lmdb_store import LmdbStore
from replay.store import StoreSettings
from replay.testing import make_append, make_origin

store = LmdbStore(Path(sys.argv[1]), StoreSettings(segment_records=16, durability=sys.argv[2]))
position = store.counters().next_position
appends = [make_append(make_origin(), range(start, start + 5)) for start in range(position, position + 2000, 5)]
print("ready", flush=True)
for append in appends:
    store.commit([append], {}, retain_from=position - 40)
    position += 5
    store.annotate({position - 1: {"success": 1.0}, position - 30: {"novelty": 1.0}})
    print(position, flush=True)
"""


@pytest.mark.robustness
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_kill_minus_nine_at_random_moments(durability: str, tmp_path: Path) -> None:
    """A kill of the process undoes nothing, in either mode."""
    generator, acknowledged = random.Random(durability), 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), durability]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 30.0)[0], "the writer did not start in 30 s"
            assert process.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0.02, 0.15))
            process.kill()
            lines = process.stdout.read().split("\n")[:-1]
        acknowledged = int(lines[-1]) if lines else acknowledged
        reader = StoreReader(tmp_path)
        assert reader.counters().next_position - acknowledged in (0, 5)
        with opened(tmp_path, StoreSettings()) as store:
            counters = store.counters()
            assert reader.counters() == counters
            acknowledged = counters.next_position
            records = store.read(range(acknowledged))
            assert [record.header.sequence for record in records] == list(range(counters.first_position, acknowledged))
            assert verify_chain(store).records == len(records) <= 45
            assert store.next_sequence(run_key(make_origin())) == acknowledged
        reader.close()
