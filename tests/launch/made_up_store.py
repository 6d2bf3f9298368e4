"""A store made up for tests of the commands over it, and the command itself in this process. Not a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from launch.cli import main
from protos.replay.v1 import replay_pb2
from replay.lmdb_store import LmdbStore
from replay.store import Append, StoreSettings
from replay.testing import make_append, make_origin

RECORDS = 12
EVICTED = 2
_SEGMENT_RECORDS = 4


def fill(directory: Path, *, records: int = RECORDS, evicted: int = EVICTED, actors: int = 2) -> Path:
    """A store of 2-step records; policy version and return are the position, actors take turns. Returns `directory`."""
    store = LmdbStore(directory, StoreSettings(("return",), segment_records=_SEGMENT_RECORDS))
    for start in range(0, records, _SEGMENT_RECORDS):
        end = min(start + _SEGMENT_RECORDS, records)
        spec = replay_pb2.TableSpec(name="fresh", kind="fresh", min_size=1, error_buffer=128)
        state = replay_pb2.TableState(spec=spec, cursor=6, samples=6, inserts=end)
        store.commit([_append(position, actors) for position in range(start, end)], {"fresh": state})
    store.commit([], {}, retain_from=evicted)
    store.close()
    return directory


def _append(position: int, actors: int) -> Append:
    signals = {"return": float(position), "cost": 0.5}
    origin = make_origin(f"actor-{position % actors}")
    return make_append(origin, [position // actors], policy_version=position, signals=signals)


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> Sequence[str]:
        """Lines of standard output."""
        return self.out.splitlines()


def temper(capsys: pytest.CaptureFixture[str], *words: object) -> Ended:
    """Runs the command in this process."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return Ended(status, out, err)
