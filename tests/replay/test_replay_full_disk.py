"""A disk that is full for real: a small file system of its own, in a namespace of its own, where that is allowed."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyroaring import BitMap64

from protos.replay.v1.replay_pb2 import QuarantineEntry, TableState
from replay.chain import verify_chain
from replay.client import ReplayClient, ReplaySampler, ReplayUnavailable, ReplayWriter
from replay.config import ReplayConfig
from replay.disk_reserve import RESERVE_BYTES, DiskReserve
from replay.lmdb_store import LmdbStore
from replay.schema import PayloadLayout
from replay.store import StoreFull
from replay.testing import make_columns, make_header, make_origin, serving
from tests.replay.storing import append, opened

IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=6m none "$0"'
CONFIG = ReplayConfig(payload_bytes_max=2**27, fresh_unconsumed_max=100_000)


ORIGIN = make_origin(columns=make_columns(400), steps=400)
"""Of records of 10 kB."""


def test_the_reserve_is_space_on_the_disk_until_it_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "reserve"
    reserve = DiskReserve(file)
    assert not reserve.release()
    assert reserve.take()
    assert reserve.take()
    assert file.stat().st_blocks * 512 >= RESERVE_BYTES
    assert DiskReserve(file).take()  # as after a restart
    assert reserve.release()
    assert not file.exists()


@pytest.mark.parametrize(("reason", "taken"), [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EOPNOTSUPP, True)])
def test_only_a_lack_of_space_keeps_the_reserve_from_being_taken(
    reason: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert DiskReserve(tmp_path / "reserve").take() == taken
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_the_size_of_files_is_a_full_disk_to_one_process(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as store:
        append(store, 0, 4)
        size = next((tmp_path / "segments").iterdir()).joinpath("data.mdb").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(StoreFull, match=r"no space on the disk for .* bytes; nothing was stored"):
                append(store, 4, 204, step=200, origin=ORIGIN, steps=400)
            assert verify_chain(store).records == 4
            store.commit([], {"fresh": TableState(cursor=1)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        append(store, 4, 204, step=200, origin=ORIGIN, steps=400)
        assert verify_chain(store).records == 204


def _can_mount(place: Path) -> bool:
    try:
        return not subprocess.run([*IN_NAMESPACE, MOUNT, str(place)], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("scenario", ["service", "segments", "state"])
def test_a_full_disk_holds_appends_and_nothing_else(scenario: str, tmp_path: Path) -> None:
    if not _can_mount(tmp_path):
        pytest.skip("no file system can be mounted in a namespace here")
    code = f"from {__name__} import {scenario}; {scenario}({str(tmp_path)!r})"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [*IN_NAMESPACE, f'{MOUNT} && exec "$1" -c "$2"', str(tmp_path), sys.executable, code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (result.returncode, result.stdout) == (0, "passed\n"), result.stderr


def service(directory: str) -> None:
    """Fills the disk by appending, then to the last byte; draws everything; makes room; appends the rest."""
    place = Path(directory)
    (place / "others").write_bytes(bytes(2**21))
    payload = PayloadLayout(ORIGIN.schema).encode(make_columns(400))
    with serving(CONFIG, place / "replay") as address:
        writer = ReplayWriter(address, ORIGIN, window_records=64, window_bytes=2**20, reconnect_ms_max=50)
        appended = 0
        with pytest.raises(ReplayUnavailable, match=r"RESOURCE_EXHAUSTED.*nothing was queued"):
            while appended < 1000:
                writer.append([make_header(400)], [payload], 1.0)
                appended += 1
        _fill(place / "crumbs")
        with ReplayClient(address) as client, ReplaySampler(address, "fresh", 1, prefetch=1) as sampler:
            acknowledged = writer.statistics.acknowledged
            drawn: list[int] = []
            while len(drawn) < client.stats(10.0).records:
                drawn += sampler.next(10.0).positions.tolist()
            assert drawn == list(range(len(drawn)))
            assert len(drawn) >= acknowledged > 100
            assert sum(1 for _ in client.records(with_payload=True)) >= len(drawn)
            assert writer.statistics.unacknowledged > 0
            (place / "others").unlink()
            assert writer.close(10.0)
            # A short message may have found room before the longer one ahead of it.
            assert sorted(record.header.sequence for record in client.records()) == list(range(appended))
    with opened(place / "replay") as store:
        assert verify_chain(store).records == appended
    print("passed")


def segments(directory: str) -> None:
    """Small segments: the disk may be full when the next one is to be made, or when it is filled."""
    place = Path(directory)
    (place / "others").write_bytes(bytes(2**21))
    with opened(place / "replay") as store:
        appended = _append_until_full(store, 0)
        _fill(place / "crumbs")
        for left in range(3):
            with pytest.raises(StoreFull, match="nothing was stored"):
                append(store, appended, appended + 4)
            # Draws are committed, and everything can be read.
            store.commit([], {"fresh": TableState(cursor=left)})
            assert verify_chain(store).records == appended
        assert len(list((place / "replay" / "segments").iterdir())) == store.sizes().segments
    with opened(place / "replay") as store:
        assert (store.counters().records, store.tables()["fresh"].cursor) == (appended, 2)
        # What is evicted makes room for what comes, without anybody's help.
        store.commit([], {}, retain_from=appended - 4)
        append(store, appended, appended + 20, retain=8)
        assert verify_chain(store).next_position == appended + 20
        (place / "others").unlink()
        assert _append_until_full(store, appended + 20, limit=60) == appended + 80
    with opened(place / "replay") as store:
        assert verify_chain(store).next_position == appended + 80
    print("passed")


def state(directory: str) -> None:
    """Marks, quarantines and priorities on a full disk: refused as that, or done; never half."""
    place = Path(directory)
    with opened(place / "replay") as store:
        appended = _append_until_full(store, 0)
        _fill(place / "crumbs")
        done = 0
        with pytest.raises(StoreFull, match="nothing was stored"):
            for position in range(10**6):
                store.annotate({position % appended: {f"signal {position}": 1.0}})
                done += 1
        assert sum(len(marks.signals) for marks in store.marks(range(appended)).values()) == done
        with pytest.raises(StoreFull, match="not all priorities were stored"):
            for number in range(10**6):
                store.put_priorities(f"table {number}", np.arange(appended, dtype=np.uint64), np.ones(appended))
        with pytest.raises(StoreFull, match="nothing was stored"):
            for _ in range(10**6):
                store.quarantine(QuarantineEntry(why="x" * 1000), BitMap64([1, appended - 1]))
        quarantines = len(store.quarantines())
    with opened(place / "replay") as store:
        assert sum(len(marks.signals) for marks in store.marks(range(appended)).values()) == done
        assert len(store.quarantines()) == quarantines
        assert verify_chain(store).records == appended
    print("passed")


def _append_until_full(store: LmdbStore, start: int, limit: int = 10**6) -> int:
    try:
        for sequence in range(start, start + limit, 4):
            append(store, sequence, sequence + 4, origin=ORIGIN, steps=400)
    except StoreFull:
        assert sequence > start
        return sequence
    return start + limit


def _fill(crumbs: Path) -> None:
    size = 2**20
    with crumbs.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
