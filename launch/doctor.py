"""Examines a machine: versions, devices, limits, and the disk and sockets that a run would use.

A finding is "ok", "note" (worth knowing, nothing fails), or "broken" (a run would fail). Writes one small file, which
it removes, to time the disk.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from launch.errors import ForeignPackageError, extra_of
from launch.ownership import check_packages
from safety.confinement.confine import confinement_from_header

OPEN_FILES_MIN = 1024
DISK_BYTES_MIN = 2 * 1024**3
SHARED_MEMORY_BYTES_MIN = 64 * 1024**2
FSYNC_S_NOTED = 0.05
FSYNC_COUNT = 16
CONFINEMENT_S_MAX = 30.0

DISTRIBUTIONS = (
    "numpy", "grpcio", "protobuf", "cryptography", "safetensors", "tyro", "rich",
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorboardX", "lmdb", "pyroaring", "zstandard",
    "gymnasium", "minatar", "pyarrow", "minari",
)  # fmt: skip
_NEEDED_BY_TRAIN = ("jax", "flax", "optax", "orbax.checkpoint", "tensorboardX", "lmdb", "pyroaring", "gymnasium")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "note", "broken"]
    name: str
    text: str


def examine(run_directory: Path) -> Iterator[Finding]:
    """Looks at everything, cheapest first.

    Args:
      run_directory: where runs would be written; its nearest existing parent is measured.
    """
    yield _python()
    if sys.platform != "linux":
        yield Finding("broken", "system", f"{sys.platform}: Linux is needed")
        return
    yield _own_packages()
    yield Finding("ok", "packages", ", ".join(_versions()))
    for check in (_devices, _store_engine):
        yield _guarded(check)
    for module in _NEEDED_BY_TRAIN:
        if (finding := _missing(module)) is not None:
            yield finding
    yield _processors()
    yield _shared_memory()
    yield _open_files()
    yield _disk(run_directory)
    yield _sockets()
    yield _guarded(_confinement)


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}"
    supported = (3, 11) <= sys.version_info < (3, 13)
    return Finding("ok" if supported else "broken", "python", text if supported else f"{text}: 3.11 or 3.12 is needed")


def _own_packages() -> Finding:
    try:
        root = check_packages()
    except ForeignPackageError as error:
        return Finding("broken", "own packages", str(error))
    return Finding("ok", "own packages", f"safety and the others are temper's, in {root}")


def _versions() -> Iterator[str]:
    for name in DISTRIBUTIONS:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name} not installed"


def _missing(module: str) -> Finding | None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is not None:
        return None
    return Finding("note", module, f"not installed: training needs it (pip install 'temper[{extra_of(module)}]')")


def _guarded(check: Callable[[], Finding]) -> Finding:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        return check()
    except ModuleNotFoundError as error:
        return Finding("note", name, f"package {error.name} is not installed: training needs it")
    except Exception as error:  # noqa: BLE001
        # Whatever a broken driver or a torn installation raises is the finding.
        return Finding("broken", name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _devices() -> Finding:
    jax = importlib.import_module("jax")
    return Finding("ok", "devices", ", ".join(str(device) for device in jax.devices()))


def _store_engine() -> Finding:
    lmdb = importlib.import_module("lmdb")
    with tempfile.TemporaryDirectory(prefix="temper-") as directory:
        with lmdb.open(directory, map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"key", b"value")
        version = ".".join(str(part) for part in lmdb.version())
    return Finding("ok", "store engine", f"lmdb engine {version}, writes")


def _processors() -> Finding:
    count = len(os.sched_getaffinity(0))
    return Finding("ok" if count > 1 else "note", "processors", f"{count} usable")


def _shared_memory() -> Finding:
    path = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    if not path.is_dir():
        return Finding("note", "shared memory", "no /dev/shm")
    free = shutil.disk_usage(path).free
    level: Literal["ok", "note"] = "ok" if free >= SHARED_MEMORY_BYTES_MIN else "note"
    return Finding(level, "shared memory", f"{free / 1e6:,.0f} MB free in /dev/shm")


def _open_files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < OPEN_FILES_MIN:
        return Finding(
            "broken", "open files", f"limit {limit}, at least {OPEN_FILES_MIN} needed: raise it with ulimit -n"
        )
    return Finding("ok", "open files", f"limit {limit}")


def _disk(run_directory: Path) -> Finding:
    place = run_directory.absolute()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    try:
        seconds = _fsync_seconds(place)
    except OSError as error:
        return Finding("broken", "disk", f"{place} cannot be written: {error.strerror}")
    text = f"{free / 1e9:,.1f} GB free at {place}, fsync takes {seconds * 1e3:.1f} ms"
    if free < DISK_BYTES_MIN:
        return Finding("broken", "disk", f"{text}: at least {DISK_BYTES_MIN / 1e9:.1f} GB needed")
    if seconds > FSYNC_S_NOTED:
        return Finding("note", "disk", f"{text}: each commit of the replay waits for one, so it will be slow")
    return Finding("ok", "disk", text)


def _fsync_seconds(place: Path) -> float:
    """Mean time of writing and syncing 64 KB (s)."""
    with tempfile.TemporaryFile(dir=place) as file:
        started_at = time.perf_counter()
        for _ in range(FSYNC_COUNT):
            file.write(bytes(65_536))
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - started_at) / FSYNC_COUNT


def _sockets() -> Finding:
    with tempfile.TemporaryDirectory(prefix="temper-") as directory:
        path = str(Path(directory) / "inference.sock")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(path)
                listener.listen()
        except OSError as error:
            return Finding("broken", "unix sockets", f"cannot listen at {path}: {error}")
    return Finding("ok", "unix sockets", f"can listen in {Path(directory).parent}")


def _confinement() -> Finding:
    """Tries it on a process of its own, as an evaluator's is: what is given up cannot be had again."""
    command = [sys.executable, "-P", "-m", "safety.confinement.confine"]
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=CONFINEMENT_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        return Finding(
            "broken", "confinement", f"evaluators cannot be confined: {' '.join(done.stderr.split())[-200:]}"
        )
    confinement = confinement_from_header(json.loads(done.stdout))
    return Finding("ok" if confinement.is_whole else "note", "confinement", f"evaluators are {confinement.describe()}")
