"""`temper replay verify` and `temper replay auditor` over stores that real rollouts filled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.config import EnvironmentConfig
from launch.run_paths import RunPaths
from protos.common.v1 import common_pb2
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.provenance import check_batch, check_origin
from replay.record import LoggedRecord
from replay.store import Append, StoreSettings, origin_digest, run_key
from replay.testing import serving
from tests.actors.recorded_runs import record_run, with_column
from tests.launch import made_up_run
from tests.launch.made_up_store import temper
from tests.launch.supervision import Eventually

CATCH = EnvironmentConfig("catch")
FORGED = 7


def fill(directory: Path, records: Sequence[LoggedRecord]) -> Path:
    origin = records[0].origin
    batch = [common_pb2.Record(header=record.header, payload=record.payload) for record in records]
    pending = check_batch(batch, check_origin(origin))
    store = LmdbStore(directory, StoreSettings())
    store.commit(
        [Append(run_key(origin), origin.SerializeToString(deterministic=True), origin_digest(origin), pending)], {}
    )
    store.close()
    return directory


def records_of(config: EnvironmentConfig = CATCH, *, forged: bool = True) -> list[LoggedRecord]:
    records = record_run(config, lanes=2, length=9, unrolls=10)
    if forged:
        records[FORGED] = with_column(records[FORGED], "reward", 2, 4.0)
    return records


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A run that has ended, with one forged record in its store."""
    paths = made_up_run.begin(tmp_path / "run")
    fill(paths.replay, records_of())
    return paths


def marks(store: Path) -> dict[int, dict[str, float]]:
    with OfflineSource(store) as source:
        return {record.position: dict(record.marks.signals) for record in source.records() if record.marks.signals}


def test_a_forged_record_is_found_and_marked(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "verify", run.root)
    assert (done.status, done.err) == (1, "")
    assert done.lines == [
        f"MISMATCH at position {FORGED}: reward is wrong from row 2 on (largest difference 4)",
        "20 records: 19 verified, 1 mismatches, 0 unverifiable; 180 steps made again",
    ]
    written = marks(run.replay)
    assert len(written) == 20
    assert [position for position, each in written.items() if each["mismatch"]] == [FORGED]
    listed = temper(capsys, "replay", "list", run.root, "--filter", "signals.mismatch == 1", "--json")
    assert [json.loads(line)["position"] for line in listed.lines] == [FORGED]


def test_a_dry_run_as_json(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "verify", run.root, "--dry-run", "--json", "--fraction", "1")
    assert done.status == 1
    report = json.loads(done.out)
    assert report["mismatches"] == [{"position": FORGED, "what": "reward", "step": 2, "error": 4.0}]
    assert (report["records"], report["verified"], report["dry_run"]) == (20, 19, True)
    assert marks(run.replay) == {}


def test_a_store_alone_is_verified_with_what_its_records_name(
    run: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    done = temper(capsys, "replay", "verify", run.replay, "--from", str(FORGED + 1))
    assert done.status == 0
    assert done.lines == ["12 records: 12 verified, 0 mismatches, 0 unverifiable; 108 steps made again"]


def test_another_environment_verifies_nothing(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    done = temper(capsys, "replay", "verify", run.root, "--env", "cartpole")
    assert done.status == 0
    assert done.lines[0] == "unverifiable: 20 because its environment is another one than 'cartpole'"
    assert marks(run.replay) == {}


def test_settings_come_from_the_configuration_of_a_run(
    tmp_path: Path, run: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(tmp_path / "store", records_of(EnvironmentConfig("catch", episode_steps_max=5), forged=False))
    assert "0 verified" in temper(capsys, "replay", "verify", store).lines[-1]
    text = run.config.read_text()
    run.config.write_text(text.replace("episode_steps_max = 0", "episode_steps_max = 5"))
    done = temper(capsys, "replay", "verify", store, "--env", run.config, "--fraction", "0.5", "--seed", "2")
    count = int(re.match(r"(\d+) records: \1 verified", done.lines[-1])[1])  # type: ignore[index]
    assert 3 < count < 17


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fraction", "0"), "fraction = 0.0 must be in (0, 1]"),
        (("--env", "catchy"), "unknown environment 'catchy'"),
        (("--filter", "lane =="), "filter"),
        (("--from", "-1"), "--from -1"),
    ],
)
def test_bad_input(run: RunPaths, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    done = temper(capsys, "replay", "verify", run.root, *words)
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_the_auditor_over_a_service(run: RunPaths, tmp_path: Path, eventually: Eventually) -> None:
    with serving(ReplayConfig(), run.replay) as address, (tmp_path / "log").open("wb") as log:
        command = ["replay", "auditor", "--config", str(run.config), "--replay", address, "--fraction", "1"]
        process = subprocess.Popen([sys.executable, "-m", "launch.cli", *command], stdout=log, stderr=log)
        try:
            with ReplayClient(address) as client:
                # The last record of each lane waits for a successor for one round.
                eventually(lambda: sum(bool(record.marks.signals) for record in client.records()) == 20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20.0) == 0
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "log").read_text()
    assert f"ERROR actors.auditor: record {FORGED} is not what happened: reward is wrong from row 2 on" in said
    assert "20 records audited: 19 verified, 1 mismatches, 0 unverifiable" in said


def test_the_auditor_refuses_a_job_that_makes_no_sense(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.nice(0)
    words = ("--config", run.config, "--replay", "unix:/nowhere", "--fraction", "2")
    done = temper(capsys, "replay", "auditor", *words)
    assert (done.status, os.nice(0)) == (2, before)
    assert "fraction = 2.0 must be in (0, 1]" in done.err


@pytest.mark.parametrize(
    ("name", "column", "row", "value", "found"),
    [
        ("gym:Pendulum-v1", "action", (2, 0), 0.123, "reward"),
        ("gym:Blackjack-v1", "observation/0", (2, 31), 1.0, "observation/0"),
    ],
)
def test_verify_records_of_other_spaces_and_of_recurrent_policies(
    name: str,
    column: str,
    row: tuple[int, ...],
    value: float,
    found: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Actions of real numbers, observations of several parts, a column that is stored once."""
    records = record_run(EnvironmentConfig(name), lanes=2, length=9, unrolls=6, state_size=3)
    done = temper(capsys, "replay", "verify", fill(tmp_path / "true", records), "--json")
    report = json.loads(done.out)
    assert (done.status, report["verified"], report["mismatched"], report["unverifiable"]) == (0, 12, 0, 0)
    records[FORGED] = with_column(records[FORGED], column, row, value)
    done = temper(capsys, "replay", "verify", fill(tmp_path / "forged", records), "--json")
    (mismatch,) = json.loads(done.out)["mismatches"]
    assert done.status == 1
    assert (mismatch["position"], mismatch["what"]) == (FORGED, found)
