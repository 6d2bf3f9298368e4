"""A disk that is full for real: a small file system of its own, in a namespace of its own, where that is allowed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from replay.chain import verify_chain
from replay.client import ReplayClient, ReplaySampler, ReplayUnavailable, ReplayWriter
from replay.config import ReplayConfig
from replay.disk_reserve import RESERVE_BYTES, DiskReserve
from replay.lmdb_store import LmdbStore
from replay.schema import PayloadLayout
from replay.store import StoreSettings
from replay.testing import make_columns, make_header, make_origin, serving

IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=6m none "$0"'
CONFIG = ReplayConfig(map_bytes=2**28, payload_bytes_max=2**27, fresh_unconsumed_max=100_000)


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


def _can_mount(place: Path) -> bool:
    try:
        return not subprocess.run([*IN_NAMESPACE, MOUNT, str(place)], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def test_a_full_disk_holds_appends_and_nothing_else(tmp_path: Path) -> None:
    if not _can_mount(tmp_path):
        pytest.skip("no file system can be mounted in a namespace here")
    code = f"from {__name__} import scenario; scenario({str(tmp_path)!r})"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [*IN_NAMESPACE, f'{MOUNT} && exec "$1" -c "$2"', str(tmp_path), sys.executable, code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (result.returncode, result.stdout) == (0, "passed\n"), result.stderr


def scenario(directory: str) -> None:
    """Fills the disk by appending, then to the last byte; draws everything; makes room; appends the rest."""
    place = Path(directory)
    (place / "others").write_bytes(bytes(2**21))
    origin = make_origin(columns=make_columns(400), steps=400)
    payload = PayloadLayout(origin.schema).encode(make_columns(400))  # 10 kB
    with serving(CONFIG, place / "replay") as address:
        writer = ReplayWriter(address, origin, window_records=64, window_bytes=2**20, reconnect_ms_max=50)
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
            assert sum(1 for _ in client.list(with_payload=True)) >= len(drawn)
            assert writer.statistics.unacknowledged > 0
            (place / "others").unlink()
            assert writer.close(10.0)
            # A short message may have found room before the longer one ahead of it.
            assert sorted(record.header.sequence for record in client.list()) == list(range(appended))
    store = LmdbStore(place / "replay", StoreSettings(10**6, 10**9), map_bytes=2**28)
    assert verify_chain(store) == appended
    store.close()
    print("passed")


def _fill(crumbs: Path) -> None:
    size = 2**20
    with crumbs.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
