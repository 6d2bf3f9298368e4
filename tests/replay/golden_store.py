"""What the golden store holds: a directory written once by an earlier build, which every later one must read.

`python -m tests.replay.golden_store FILE` writes it anew, which is for a new format version only.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from pyroaring import BitMap64

from protos.replay.v1.replay_pb2 import QuarantineEntry, TableSpec, TableState
from replay.lmdb_store import LmdbStore
from replay.store import StoreSettings
from replay.testing import make_append, make_origin

GOLDEN = Path(__file__).parent / "golden" / "store-v2.tar.gz"
SETTINGS = StoreSettings(("steps",), segment_records=8)
START_NS = 1_700_000_000_000_000_000


def fill(directory: Path) -> None:
    """Two runs, one with gaps; three segments; a block continued; some of everything; three records evicted."""
    store = LmdbStore(directory, SETTINGS)
    for number, tenths in enumerate((0, 10, 20, 25, 40)):
        made = [make_append(make_origin("a"), range(4 * number, 4 * number + 4), policy_version=number)]
        if number == 2:
            made.append(make_append(make_origin("b", "r"), [2, 5], signals={"return": 1.5}))
        with mock.patch.object(time, "time_ns", lambda tenths=tenths: START_NS + tenths * 10**8):
            store.commit(made, {}, retain_from=3 if number == 4 else 0)
    table = TableState(cursor=7, samples=9, inserts=22, spec=TableSpec(name="fresh", kind="fresh", min_size=1))
    store.commit([], {"fresh": table})
    store.annotate({5: {"success": 1.0}, 21: {"novelty": 0.25, "duplicate_of": 4.0}})
    store.quarantine(QuarantineEntry(filter="task_id == 'x'", why="stale", time_ns=START_NS), BitMap64([4, 9]))
    store.quarantine(QuarantineEntry(filter="", why="all", time_ns=START_NS), BitMap64(range(22)))
    store.lift_quarantine(2, "by mistake", START_NS + 1)
    store.put_priorities("per", np.array([4, 20, 21], np.uint64), np.array([0.5, 0.0, 2.0]))
    store.close()


def pack(directory: Path, archive: Path) -> None:
    """Writes a store's directory into an archive, without what belongs to a machine."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(info.name).name in ("lock.mdb", "store.lock", "reserve"):
            return None
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(archive, "w:gz", compresslevel=9) as file:
        file.add(directory, ".", filter=plain)


def unpack(directory: Path) -> None:
    """Puts the golden store into an empty directory."""
    with tarfile.open(GOLDEN) as file:
        file.extractall(directory, filter="data")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place))
        pack(Path(place), Path(sys.argv[1]))
