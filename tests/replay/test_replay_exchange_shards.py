"""Imports into a log of several shards, live and offline: each record in one shard, once, that of its actor."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch import replay_target
from launch.cli import main
from protos.common.v1 import common_pb2
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.exchange.service_sink import ServiceSink
from replay.exchange.sharded_sink import ShardedSink
from replay.exchange.sink import Appended, RunRecords, SinkPart, StoreSink
from replay.lmdb_store import LmdbStore
from replay.memory_store import MemoryStore
from replay.offline import OfflineSource
from replay.record import LoggedRecord
from replay.sharding import shard_ranking
from replay.store import StoreSettings
from replay.testing import make_origin, make_record
from tests.replay.exchanged_records import lane_records, logged, made_episodes, store_of
from tests.replay.made_dataset import made_buffers, made_dataset
from tests.replay.sharded_services import ShardedServices

SHARDS = 2
ACTORS = [f"actor-{number:04d}" for number in range(6)]
RECORDS = [
    record
    for number, actor_id in enumerate(ACTORS)
    for record in logged(lane_records(made_episodes([5, 3, 6, 9], number), 4), actor_id=actor_id)
]

Key = tuple[str, str, int]
"""Actor, run and sequence."""


def key_of(record: LoggedRecord) -> Key:
    return record.origin.actor_id, record.origin.run_id, record.header.sequence


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An export of a log of one store."""
    there = store_of(tmp_path / "there", RECORDS)
    with OfflineSource(there, writable=True) as source:
        source.annotate({position: {"number": float(position)} for position in range(len(RECORDS))})
    assert main(["replay", "export", str(there), str(tmp_path / "out")]) == 0
    return tmp_path / "out"


class Shards:
    """A log of two shards, as TARGET has it, and what is in it."""

    def __init__(self, target: str, opened: Callable[[int], contextlib.AbstractContextManager[Any]]) -> None:
        self.target = target
        self._opened = opened

    def records(self) -> list[list[LoggedRecord]]:
        found = []
        for shard in range(SHARDS):
            with self._opened(shard) as source:
                found.append(list(source.records(with_payload=True)))
        return found

    def where(self) -> dict[Key, int]:
        """The shard of each record, which is in one, and there once."""
        each = self.records()
        count = Counter(key_of(record) for records in each for record in records)
        assert set(count.values()) <= {1}
        return {key_of(record): shard for shard, records in enumerate(each) for record in records}


@pytest.fixture(params=["live", "offline"])
def shards(request: pytest.FixtureRequest, tmp_path: Path, socket: str) -> Iterator[Shards]:
    directory = tmp_path / "shards"
    if request.param == "offline":
        for shard in range(SHARDS):
            store_of(directory / f"shard-{shard}", [])
        yield Shards(str(directory), lambda shard: OfflineSource(directory / f"shard-{shard}"))
        return
    configs = [ReplayConfig()] * SHARDS
    with ShardedServices(Path(socket.removeprefix("unix:")).parent, directory, configs) as services:
        services.start()
        yield Shards(services.addresses, lambda shard: ReplayClient(services.each[shard]))


def imported(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    status = main(["replay", "import", *map(str, words), "--json"])
    printed, err = capsys.readouterr()
    assert (status, err) == (0, "")
    said: dict[str, Any] = json.loads(printed)
    return said


def expected(shards: int = SHARDS) -> dict[Key, int]:
    """Where the writers of these actors would put their records."""
    return {key_of(record): shard_ranking(record.origin.actor_id, shards)[0] for record in RECORDS}


def test_each_record_goes_to_the_shard_of_its_actor_once(
    shards: Shards, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = imported(capsys, shards.target, out, "--format", "parquet")
    assert (said["inserted"], said["duplicates"], said["marked"]) == (len(RECORDS), 0, len(RECORDS))
    assert shards.where() == expected()
    assert set(expected().values()) == {0, 1}
    found = {key_of(record): record for records in shards.records() for record in records}
    for position, record in enumerate(RECORDS):
        here = found[key_of(record)]
        assert (here.header, here.origin, here.payload) == (record.header, record.origin, record.payload)
        assert dict(here.marks.signals) == {"number": float(position)}
    again = imported(capsys, shards.target, out, "--format", "parquet")
    assert (again["inserted"], again["duplicates"], again["marked"]) == (0, len(RECORDS), 0)
    assert shards.where() == expected()


def test_an_import_that_was_killed_goes_on(shards: Shards, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed for real, while there are records in both shards and more to come."""
    program = f"""
import sys
from launch.cli import main
from replay.exchange import intake
from replay.exchange.sharded_sink import ShardedSink
intake.GROUP_RECORDS_MAX = 3
append, groups = ShardedSink.append, []
def counted(self, runs):
    groups.append(runs)
    if len(groups) == {len(RECORDS) // 6}:
        print("running", flush=True)
        sys.stdin.read()
    return append(self, runs)
ShardedSink.append = counted
main(["replay", "import", {shards.target!r}, {str(out)!r}, "--format", "parquet"])
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    begun = shards.where()
    assert 0 < len(begun) < len(RECORDS)
    assert set(begun.values()) == {0, 1}
    said = imported(capsys, shards.target, out, "--format", "parquet")
    assert (said["inserted"], said["duplicates"]) == (len(RECORDS) - len(begun), len(begun))
    assert shards.where() == expected()


def test_a_run_goes_on_where_it_began(shards: Shards, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a run does whose actor's own shard did not answer when it began."""
    actor = ACTORS[0]
    own, other = shard_ranking(actor, SHARDS)
    begun = [record for record in RECORDS if record.origin.actor_id == actor][:2]
    with contextlib.ExitStack() as opened:
        if "," in shards.target:
            sink: SinkPart = ServiceSink(shards.target.split(",")[other])
        else:
            sink = StoreSink(LmdbStore(Path(shards.target) / f"shard-{other}", StoreSettings()))
        opened.callback(sink.close)
        records = [common_pb2.Record(header=each.header, payload=each.payload) for each in begun]
        assert sink.append([RunRecords(begun[0].origin, records)]) == Appended(2, 0)
    assert imported(capsys, shards.target, out, "--format", "parquet")["inserted"] == len(RECORDS) - 2
    found = shards.where()
    assert {found[key] for key in found if key[0] == actor} == {other} != {own}
    assert {key: shard for key, shard in found.items() if key[0] != actor} == {
        key: shard for key, shard in expected().items() if key[0] != actor
    }


def test_an_export_of_shards_comes_back_to_where_it_was(
    shards: Shards, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(capsys, shards.target, out, "--format", "parquet")
    assert main(["replay", "export", shards.target, str(tmp_path / "again")]) == 0
    before = shards.where()
    again = imported(capsys, shards.target, tmp_path / "again", "--format", "parquet")
    assert (again["inserted"], again["marked"], shards.where()) == (0, 0, before)


def test_a_minari_data_set_goes_to_one_shard_once(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    path = made_dataset(made_buffers([5, 3, 4]))
    assert imported(capsys, shards.target, path)["inserted"] == 3
    assert set(shards.where().values()) == {shard_ranking("minari", SHARDS)[0]}
    assert imported(capsys, shards.target, path)["inserted"] == 0


def test_nothing_is_imported_where_a_shard_is_missing(
    shards: Shards,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(replay_target, "CONNECT_S_MAX", 0.3)
    if "," in shards.target:
        target, said = f"{shards.target.split(',')[0]},unix:{tmp_path}/nobody", "nobody answers"
        opened = contextlib.ExitStack()
    else:
        target, said = shards.target, "is open already"
        opened = contextlib.ExitStack()
        opened.callback(LmdbStore(Path(shards.target) / "shard-1", StoreSettings()).close)
    capsys.readouterr()
    with opened:
        assert main(["replay", "import", target, str(out), "--format", "parquet"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert shards.where() == {}


def test_shards_that_are_not_all_there_are_said(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or their numbers, and so every position, would be others."""
    for shard in (0, 2):
        store_of(tmp_path / "shards" / f"shard-{shard}", [])
    assert main(["replay", "import", str(tmp_path / "shards"), str(out), "--format", "parquet"]) == 2
    assert "shard-1 is missing" in capsys.readouterr().err


def test_quarantines_come_to_every_shard_under_the_same_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = store_of(tmp_path / "there", RECORDS)
    with OfflineSource(there, writable=True) as source:
        source.quarantine("position == 3", "one record of one shard")
        source.quarantine("sequence == 2", "some in each")
    assert main(["replay", "export", str(there), str(tmp_path / "out")]) == 0
    shards = tmp_path / "shards"
    for shard in range(SHARDS):
        store_of(shards / f"shard-{shard}", [])
    for new in (len(ACTORS) + 1, 0):
        assert imported(capsys, shards, tmp_path / "out", "--format", "parquet")["quarantined"] == new
        assert main(["replay", "quarantine", str(shards), "--list", "--json"]) == 0
        entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(entry["id"], entry["why"], int(entry["records"])) for entry in entries] == [
            (1, "one record of one shard", 1),
            (2, "some in each", len(ACTORS)),
        ]
    assert main(["replay", "list", str(shards), "--filter", "quarantined", "--limit", "0", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(each["actor_id"], each["sequence"]) for each in listed} == {
        *((actor_id, 2) for actor_id in ACTORS),
        (RECORDS[3].origin.actor_id, RECORDS[3].header.sequence),
    }


def test_quarantines_of_shards_come_back_to_them_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shard set the time for itself, and has the filter with its own positions."""
    there = store_of(tmp_path / "there", RECORDS)
    assert main(["replay", "export", str(there), str(tmp_path / "plain")]) == 0
    shards = tmp_path / "shards"
    for shard in range(SHARDS):
        store_of(shards / f"shard-{shard}", [])
    imported(capsys, shards, tmp_path / "plain", "--format", "parquet")
    for text in (f"position >= {1 << 48}", "sequence == 2"):
        assert main(["replay", "quarantine", str(shards), text, "--why", "odd"]) == 0
    assert main(["replay", "export", str(shards), str(tmp_path / "marked")]) == 0
    capsys.readouterr()
    assert main(["replay", "quarantine", str(shards), "--list", "--json"]) == 0
    before = capsys.readouterr().out
    assert imported(capsys, shards, tmp_path / "marked", "--format", "parquet")["quarantined"] == 0
    assert main(["replay", "quarantine", str(shards), "--list", "--json"]) == 0
    assert capsys.readouterr().out == before


def test_a_run_without_its_beginning_goes_to_the_same_shard_every_time() -> None:
    stores = [MemoryStore(StoreSettings()) for _ in range(3)]
    origin = make_origin("actor-7")
    for sequences in ([5, 6], [2, 5], [0, 1, 2]):
        records = [make_record(origin, sequence) for sequence in sequences]
        ShardedSink([StoreSink(store) for store in stores]).append([RunRecords(origin, records)])
    counts = [store.counters().records for store in stores]
    assert counts[shard_ranking("actor-7", 3)[0]] == sum(counts) == 5


def test_more_shards_leave_runs_where_they_are() -> None:
    stores = [MemoryStore(StoreSettings()) for _ in range(5)]
    runs = [RunRecords(make_origin(f"actor-{number}"), ()) for number in range(20)]
    runs = [RunRecords(run.origin, [make_record(run.origin, sequence) for sequence in range(3)]) for run in runs]
    assert ShardedSink([StoreSink(store) for store in stores[:2]]).append(runs) == Appended(60, 0)
    assert ShardedSink([StoreSink(store) for store in stores]).append(runs) == Appended(0, 60)
