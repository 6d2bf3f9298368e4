"""processes.json: written while a run runs, read by others, and cleaned up after a killed supervisor."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from launch.process_list import read_process_list, remove_stale_sockets, write_process_list
from launch.run_paths import RunPaths
from launch.topology import Addresses
from tests.launch.supervision import Eventually, MakeChild


def test_what_was_written_is_read(tmp_path: Path, make_child: MakeChild, eventually: Eventually) -> None:
    child = make_child("serve", name="replay", address="unix:/x/replay.sock", ready_s_max=10.0)
    child.start()
    eventually(lambda: child.poll() or child.ready)
    paths = RunPaths(tmp_path)
    write_process_list(paths, "run-7", 99, Addresses.in_directory(Path("/x")), [child])
    listed = read_process_list(paths)
    assert listed is not None
    assert (listed["supervisor"], listed["run_id"], listed["started_ns"]) == (os.getpid(), "run-7", 99)
    assert Addresses(**listed["addresses"]).safety == "unix:/x/safety.sock"
    assert listed["processes"] == [
        {
            "name": "replay",
            "state": "running",
            "pid": child.pid,
            "address": "unix:/x/replay.sock",
            "restarts": 0,
            "log": str(child.log),
        }
    ]


def test_no_list(tmp_path: Path) -> None:
    assert read_process_list(RunPaths(tmp_path)) is None
    remove_stale_sockets(RunPaths(tmp_path))


def test_only_a_socket_directory_of_ours_is_removed(tmp_path: Path) -> None:
    ours = Path(tempfile.mkdtemp(prefix="temper-"))
    (ours / "replay.sock").touch()
    somebody_elses = tmp_path / "temper-precious"
    somebody_elses.mkdir()
    paths = RunPaths(tmp_path)
    for directory in (somebody_elses, ours):
        write_process_list(paths, "r", 0, Addresses.in_directory(directory, shards=2), [])
        remove_stale_sockets(paths)
    assert somebody_elses.exists()
    assert not ours.exists()
