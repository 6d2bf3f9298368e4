"""`temper replay export` and `import`: every format, directories and addresses, and one line for whatever is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from launch import replay_target
from launch.cli import main
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.store import StoreSettings
from replay.testing import serving
from tests.replay.exchanged_records import (
    any_record,
    contents,
    lane_records,
    left_in,
    logged,
    made_episodes,
    store_of,
)
from tests.replay.made_dataset import made_buffers, made_dataset

RECORDS = logged(lane_records(made_episodes([5, 3, 6, 9]), 4))


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


class Temper:
    """The command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Ended:
        self._capsys.readouterr()
        status = main(["replay", *map(str, words)])
        out, err = self._capsys.readouterr()
        return Ended(status, out, err)

    def refused(self, *words: object) -> str:
        """What it says, in one line, where it refuses bad input."""
        ended = self(*words)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith("temper: ")
        assert ended.err.count("\n") == 1
        return ended.err


@pytest.fixture
def temper(capsys: pytest.CaptureFixture[str]) -> Temper:
    return Temper(capsys)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_of(tmp_path / "store", RECORDS)


@pytest.fixture(autouse=True)
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty collection of Minari data sets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_parquet_is_what_is_exported_unless_told_otherwise(temper: Temper, store: Path, tmp_path: Path) -> None:
    ended = temper("export", store, tmp_path / "out")
    assert ended.status == 0
    assert ended.out.startswith(
        f"{len(RECORDS)} records of {4 * len(RECORDS)} rows: {tmp_path / 'out'}/records.parquet"
    )
    assert pq.read_table(tmp_path / "out" / "steps-0.parquet").num_rows == 4 * len(RECORDS)


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("parquet", ["out/records.parquet", "out/steps-0.parquet"]),
        ("rlds", ["out/episodes.parquet", "out/records.parquet"]),
        ("jsonl", ["out"]),
        ("prov", ["out"]),
    ],
)
def test_every_format_says_what_it_wrote(
    temper: Temper, store: Path, tmp_path: Path, form: str, files: list[str]
) -> None:
    said = temper("export", store, tmp_path / "out", "--format", form, "--json").json
    paths = [tmp_path / file for file in files]
    expected = {
        "format": form,
        "records": len(RECORDS),
        "steps": 4 * len(RECORDS),
        "files": [str(path) for path in paths],
        "bytes": sum(path.stat().st_size for path in paths),
    }
    assert said == {**expected, "episodes": 4} if form == "rlds" else said == expected


def test_a_part_is_exported(temper: Temper, store: Path, tmp_path: Path) -> None:
    words = ["--format", "jsonl", "--filter", "episode >= 1", "--from", 2, "--limit", 2]
    assert temper("export", store, tmp_path / "out", *words).status == 0
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    expected = [record.position for record in RECORDS if record.header.episode >= 1 and record.position >= 2][:2]
    assert [line["position"] for line in lines] == expected
    assert "columns" not in lines[0]


def test_jsonl_has_the_steps_if_asked(temper: Temper, store: Path, tmp_path: Path) -> None:
    assert temper("export", store, tmp_path / "out", "--format", "jsonl", "--steps").status == 0
    line = json.loads((tmp_path / "out").read_text().splitlines()[0])
    assert line["columns"]["observation"]["rows"] == RECORDS[0].columns["observation"].tolist()


def test_a_running_service_is_exported_and_imported_into(temper: Temper, store: Path, tmp_path: Path) -> None:
    assert temper("export", store, tmp_path / "out").status == 0
    with serving(ReplayConfig(store="memory")) as address:
        said = temper("import", address, tmp_path / "out", "--format", "parquet", "--json").json
        assert (said["inserted"], said["duplicates"]) == (len(RECORDS), 0)
        again = temper("import", address, tmp_path / "out", "--format", "parquet", "--json").json
        assert (again["inserted"], again["duplicates"]) == (0, len(RECORDS))
        assert temper("export", address, tmp_path / "live").status == 0
        with ReplayClient(address) as client:
            assert client.stats().records == len(RECORDS)
    assert temper("import", _empty(tmp_path / "here"), tmp_path / "live", "--format", "parquet").status == 0
    assert contents(tmp_path / "here") == contents(store)


def test_an_export_comes_back_into_an_empty_directory_and_into_its_own_store(
    temper: Temper, store: Path, tmp_path: Path
) -> None:
    assert temper("export", store, tmp_path / "out").status == 0
    here = _empty(tmp_path / "here")
    count = len(RECORDS)
    said = temper("import", here, tmp_path / "out", "--format", "parquet").out
    assert said == f"{count} records of {4 * count} rows: {count} new, 0 there already\n"
    assert contents(here) == contents(store)
    assert temper("import", store, tmp_path / "out", "--format", "parquet", "--json").json == {
        "format": "parquet",
        "records": count,
        "steps": 4 * count,
        "inserted": 0,
        "duplicates": count,
        "left_out": 0,
        "marked": 0,
        "quarantined": 0,
    }


def test_totals_of_a_store_go_on(temper: Temper, tmp_path: Path) -> None:
    """What its service totalled would otherwise be forgotten by the import."""
    here = store_of(tmp_path / "here", RECORDS[:3], signal_names=("episodes",))
    assert temper("export", store_of(tmp_path / "there", RECORDS), tmp_path / "out").status == 0
    assert temper("import", here, tmp_path / "out", "--format", "parquet").status == 0
    with OfflineSource(here) as opened:
        totals = dict(opened.stats().signal_totals)
    assert totals == {"episodes": sum(record.header.signals["episodes"] for record in RECORDS)}


def test_a_minari_data_set_enters_with_its_provenance_once(temper: Temper, tmp_path: Path) -> None:
    path = made_dataset(made_buffers([5, 3, 4]))
    here = _empty(tmp_path / "here")
    said = temper("import", here, path, "--json").json
    run_id = said.pop("run_id")
    assert len(said.pop("digest")) == 64
    assert said == {
        "format": "minari",
        "records": 3,
        "steps": 5 + 4 + 5,
        "inserted": 3,
        "duplicates": 0,
        "dataset": "made/data-v0",
        "actor_id": "minari",
        "episodes": 3,
        "left_over_steps": 0,
    }
    again = temper("import", here, "made/data-v0")
    assert again.out == (f"3 records of 14 rows: 0 new, 3 there already\nmade/data-v0, 3 episodes, as run {run_id}\n")
    with OfflineSource(here) as source:
        assert [record.origin.run_id for record in source.records()] == [run_id] * 3


def test_minari_s_settings_reach_it(temper: Temper, tmp_path: Path) -> None:
    made_dataset(made_buffers([5, 3, 4, 9]))
    words = ["--steps-per-record", 4, "--limit", 3, "--actor-id", "human"]
    ended = temper("import", _empty(tmp_path / "here"), "made/data-v0", *words)
    assert ended.out.splitlines()[0] == "3 records of 12 rows: 3 new, 0 there already"
    assert ended.out.splitlines()[2] == "the last 1 steps fill no record and were left out"
    with OfflineSource(tmp_path / "here") as source:
        assert {record.origin.actor_id for record in source.records()} == {"human"}


def test_an_imported_data_set_is_exported_again(temper: Temper, tmp_path: Path) -> None:
    buffers = made_buffers([5, 3, 4])
    made_dataset(buffers)
    here = _empty(tmp_path / "here")
    assert temper("import", here, "made/data-v0").status == 0
    assert temper("export", here, tmp_path / "rlds", "--format", "rlds", "--json").json["episodes"] == 3
    rows = pq.read_table(tmp_path / "rlds" / "episodes.parquet").to_pylist()
    for row, buffer in zip(rows, buffers, strict=True):
        assert [step["reward"] for step in row["steps"][:-1]] == np.asarray(buffer.rewards, np.float32).tolist()
    assert temper("export", here, tmp_path / "prov", "--format", "prov").status == 0
    activities = json.loads((tmp_path / "prov").read_text())["activity"].values()
    assert [each["prov:type"]["$"] for each in activities] == ["temper:Import"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{store}", "{tmp}/out", "--format", "csv"], "csv"),
        (["{store}", "{store}"], "exists already: nothing was written"),
        (["{store}", "{tmp}/missing/out"], "No such file or directory"),
        (["{store}", "{tmp}/out", "--filter", "episode > 1000"], "there is no record to export"),
        (["{store}", "{tmp}/out", "--filter", "no_such_field > 1"], "no_such_field"),
        (["{store}", "{tmp}/out", "--from", "-1"], "--from -1 must be"),
        (["{tmp}/nowhere", "{tmp}/out"], "nowhere"),
        (["{store}", "{tmp}/out", "--format", "rlds", "--steps"], "--steps is for jsonl: rlds has them anyway"),
        (["{store}", "{tmp}/out", "--format", "prov", "--steps"], "--steps is for jsonl: prov is about records only"),
    ],
)
def test_bad_exports_are_refused_in_one_line(
    temper: Temper, store: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    assert said in temper.refused("export", *(word.format(store=store, tmp=tmp_path) for word in words))
    assert left_in(tmp_path) == ["store"]


def test_episodes_of_two_layouts_are_refused_in_one_line(temper: Temper, tmp_path: Path) -> None:
    columns = {name: np.zeros(2, np.float32) for name in ("observation", "action", "reward")}
    others = {**columns, "extra": np.zeros(2, np.float32)}
    store = store_of(tmp_path / "store", [any_record(columns, 2), any_record(others, 2, actor_id="actor-1")])
    assert "has another schema" in temper.refused("export", store, tmp_path / "out", "--format", "rlds")
    words = ["--format", "rlds", "--filter", "actor_id == 'actor-1'"]
    assert temper("export", store, tmp_path / "out", *words).status == 0


def test_a_record_that_cannot_be_taken_apart_is_said_in_one_line(temper: Temper, tmp_path: Path) -> None:
    columns = {name: np.zeros(2, np.float32) for name in ("observation", "action", "reward")}
    store = store_of(tmp_path / "store", [any_record({**columns, "mask": np.zeros(2, np.bool_)}, 2)])
    said = temper.refused("export", store, tmp_path / "out", "--format", "rlds")
    assert "a boundary row where no episode has made a step" in said
    assert left_in(tmp_path) == ["store"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{store}", "{tmp}/nowhere"], "is neither a directory nor a Minari data set"),
        (["{store}", "{store}"], "is no Minari data set"),
        (["{store}", "{store}", "--format", "parquet"], "is no export"),
        (["{store}", "{store}", "--format", "csv"], "csv"),
        (["{store}", "{store}", "--limit", "-1"], "--limit -1 must be 0 or more"),
        (["{store}", "{store}", "--format", "parquet", "--actor-id", "x"], "--actor-id is for Minari data sets"),
        (["{store}", "{store}", "--format", "parquet", "--download"], "--download is for Minari data sets"),
        (["{store}", "{data}", "--no-marks"], "--no-marks is for exports"),
        (["{tmp}/nowhere", "{data}"], "nowhere"),
        (["{data}", "{data}"], "neither a run directory"),
        (["{store}", "{data}", "--actor-id", "two words"], "origin.actor_id = 'two words' must match"),
        (["{store}", "{data}", "--steps-per-record", "100000000"], "a record of 100000000 rows"),
    ],
)
def test_bad_imports_are_refused_in_one_line(
    temper: Temper, store: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    data = made_dataset(made_buffers([4]))
    before = contents(store)
    assert said in temper.refused("import", *(word.format(store=store, tmp=tmp_path, data=data) for word in words))
    assert contents(store) == before


def test_a_store_that_somebody_has_open_is_not_imported_into(temper: Temper, tmp_path: Path) -> None:
    data = made_dataset(made_buffers([4]))
    store = LmdbStore(tmp_path / "store", StoreSettings())
    said = temper.refused("import", tmp_path / "store", data)
    store.close()
    assert "or give the address of the service that has it as TARGET" in said


def test_nobody_at_an_address_is_said_in_one_line(temper: Temper, socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_target, "CONNECT_S_MAX", 0.2)
    data = made_dataset(made_buffers([4]))
    assert "nobody answers" in temper.refused("import", socket, data)


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("pyarrow", "data", ["export", "{store}", "{out}"]),
        ("pyarrow", "data", ["export", "{store}", "{out}", "--format", "rlds"]),
        ("pyarrow", "data", ["import", "{store}", "{out}", "--format", "parquet"]),
        ("minari", "minari", ["import", "{store}", "{out}"]),
        ("h5py", "minari", ["import", "{store}", "made/data-v0"]),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    temper: Temper,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    extra: str,
    words: list[str],
) -> None:
    made_dataset(made_buffers([4]))
    for name in list(sys.modules):
        if name.partition(".")[0] == module or name.startswith(("replay.exchange.", "minari.dataset._storages.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    said = temper.refused(*(word.format(store=store, out=tmp_path / "out") for word in words))
    assert said == f"temper: temper replay {words[0]} needs the {extra} extra: pip install 'temper[{extra}]'\n"


def test_text_needs_no_package_of_an_extra(
    temper: Temper, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pyarrow", "minari") or name.startswith("replay.exchange."):
            monkeypatch.delitem(sys.modules, name)
    for module in ("pyarrow", "minari"):
        monkeypatch.setitem(sys.modules, module, None)
    assert temper("export", store, tmp_path / "out", "--format", "jsonl").status == 0
    assert temper("export", store, tmp_path / "prov", "--format", "prov").status == 0


def _empty(directory: Path) -> Path:
    directory.mkdir()
    return directory
