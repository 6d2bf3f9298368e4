"""`temper replay lineage` and `temper policy lineage` over a run with releases, offline and while it runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.arguments import PolicyVerify
from launch.commands import policy_lineage, policy_verify, replay_lineage
from launch.errors import BadInput, RunDirectoryError
from launch.run_paths import RunPaths
from learner.lineage import ConsumedRecords
from learner.lineage_archive import lineage_paths
from learner.lineage_file import encode_lineage, read_lineage
from replay.testing import serving
from tests.launch import lineage_run, made_up_run


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return lineage_run.begin(tmp_path / "run")


def of_record(target: object, record: object, **fields: Any) -> int:
    defaults = {"target": str(target), "record": record, "run_dir": "", "json": False}
    return replay_lineage.run(SimpleNamespace(**(defaults | fields)))  # type: ignore[arg-type]


def of_policy(paths: RunPaths, version: object, **fields: Any) -> int:
    defaults = {"run_dir": paths.root, "version": version, "records": False, "from_position": 0, "limit": 50}
    return policy_lineage.run(SimpleNamespace(**(defaults | {"json": False} | fields)))  # type: ignore[arg-type]


def read_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.splitlines()
    shown: dict[str, Any] = json.loads(line)
    return shown


@pytest.mark.parametrize("record", [45, "45", "actor-b/run-a/5"])
def test_which_policies_learnt_from_a_record(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], record: object
) -> None:
    assert of_record(paths.root, record) == 0
    out = capsys.readouterr().out
    assert "actor-b" in out
    assert "learnt from after update 4, by update 5; of the policies kept, 2 have:" in out
    assert "candidate, rejected: sequential_violation_rate\n" in out
    assert out.splitlines()[-1].endswith("60  checkpoint; release 2")


def test_the_same_as_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    of_record(paths.root, "10", json=True)
    shown = read_json(capsys)
    assert (shown["position"], shown["record"]["sequence"], shown["last_without"]) == (10, 10, None)
    assert [policy["version"] for policy in shown["policies"]] == [2, 4, 5, 6]
    checkpoint, first, rejected, second = shown["policies"]
    assert (checkpoint["kinds"], checkpoint["checkpoint_there"], checkpoint["verdict"]) == (["checkpoint"], False, None)
    assert (first["releases"], first["verdict"]["approved"]) == ([{"number": 1, "revocation": None}], True)
    assert (rejected["releases"], rejected["verdict"]["approved"]) == ([], False)
    assert (second["kinds"], second["checkpoint_there"]) == (["checkpoint", "candidate"], True)
    assert shown["releases_unknown"] == []


def test_a_record_that_is_not_in_the_store_may_still_have_been_learnt_from(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    of_record(paths.root, "60")
    out = capsys.readouterr().out
    assert "no longer in the store, or never was" in out
    assert "none of the 4 policies whose lineage is kept learnt from it" in out


@pytest.mark.parametrize(
    "record", ["actor-b/run-a", "actor-b/run-a/x", 'a"/b/1', "-1", "", str(2**64), "9" * 5000, "a/b/99"]
)
def test_what_is_no_record(paths: RunPaths, record: str) -> None:
    with pytest.raises(BadInput, match="record"):
        of_record(paths.root, record)


def test_a_service_is_asked_with_the_run_named(
    paths: RunPaths, socket_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lineage_run.running(paths, socket_directory):
        of_record(paths.root, "45", json=True)
        live = read_json(capsys)
        address = f"unix:{socket_directory / 'replay.sock'}"
        of_record(address, "45", run_dir=str(paths.root), json=True)
        assert read_json(capsys) == live
    assert live["record"]["actor_id"] == "actor-b"
    with serving() as address:
        with pytest.raises(BadInput, match="say with --run-dir"):
            of_record(address, "45")
        with pytest.raises(RunDirectoryError, match="is not a run directory"):
            of_record(address, "45", run_dir=str(paths.root / "logs"))


@pytest.mark.parametrize("version", [6, "6", "release:2"])
def test_what_a_policy_learnt_from(paths: RunPaths, capsys: pytest.CaptureFixture[str], version: object) -> None:
    assert of_policy(paths, version) == 0
    out = capsys.readouterr().out
    assert "policy        update 6, " in out
    assert "checkpoint; release 2" in out
    assert "learnt from   60 records, 120 environment steps" in out
    assert "positions     0-59\n" in out
    assert "60 records of Test-v0, test 1, " in out
    assert "40 records of actor-a in 1 run\n" in out
    assert out.count("acted by") == 6
    assert "grew out of 3 of the policies kept, the newest:" in out


def test_an_update_that_was_made_and_not_kept(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_run.add_metrics(paths)
    assert of_policy(paths, "40") == 0
    assert "policy        update 6, " in capsys.readouterr().out
    with pytest.raises(BadInput, match="there is no update 41 yet: the newest that is known of is update 40"):
        of_policy(paths, "41")


def test_a_policy_as_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    of_policy(paths, "release:1", json=True)
    shown = read_json(capsys)
    assert (shown["version"], shown["records"], shown["ranges"]) == (4, 40, [[0, 39]])
    assert [(each["first_version"], each["steps"]) for each in shown["behaviours"]] == [(n, 20) for n in range(4)]
    assert shown["streams"] == [{"actor_id": "actor-a", "run_id": "run-a", "records": 40, "steps": 80}]
    assert shown["transformations"] == {"": 40}
    assert [each["version"] for each in shown["ancestors"]] == [2]
    assert "positions" not in shown


def test_its_records_in_pages(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    of_policy(paths, "release:1", records=True, from_position=36, limit=3)
    assert capsys.readouterr().out.splitlines() == ["36", "37", "38", "next: --from 39"]
    of_policy(paths, "release:1", records=True, from_position=39, json=True)
    shown = read_json(capsys)
    assert (shown["positions"], shown["next_position"]) == ([39], None)
    of_policy(paths, "release:1", records=True, limit=0)
    assert capsys.readouterr().out.splitlines() == [str(position) for position in range(40)]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1", "the first kept is of update 2"),
        ("7", "there is no update 7 yet: the newest that is known of is update 6"),
        ("release:3", "no lineage of release 3"),
        ("newest", "release:NUMBER"),
        ("9" * 5000, "release:NUMBER"),
        ("release:" + "9" * 5000, "release:NUMBER"),
    ],
)
def test_what_is_no_policy(paths: RunPaths, version: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        of_policy(paths, version)


def test_damage_is_said_and_left_out(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = lineage_paths(paths.root / "lineage")[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    ledger = paths.safety / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"approved":true', b'"approved":false'))
    of_record(paths.root, "10", json=True)
    captured = capsys.readouterr()
    assert "a lineage is left out: " in captured.err
    assert "the gate's verdicts are left out: " in captured.err
    shown = json.loads(captured.out)
    assert [policy["version"] for policy in shown["policies"]] == [2, 5, 6]
    assert shown["releases_unknown"] == [1]
    of_record(paths.root, "10")
    assert capsys.readouterr().out.splitlines()[-1] == "not known of: release 1"


def test_a_lineage_that_the_verdict_does_not_bind_is_found(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert of_policy(paths, "release:2") == 0
    assert "verdict       binds this lineage\n" in capsys.readouterr().out
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    (path,) = (each for each in lineage_paths(paths.root / "lineage") if each.stem == "000000000006")
    honest = read_lineage(path)
    # As by somebody who would have it that the poisoned records were never learnt from.
    fewer = dataclasses.replace(honest, consumed=ConsumedRecords(range(20)))
    path.write_bytes(encode_lineage(fewer))
    capsys.readouterr()
    assert of_policy(paths, "release:2") == 0
    assert "BINDS ANOTHER LINEAGE" in capsys.readouterr().out
    assert of_policy(paths, "release:2", json=True) == 0
    assert json.loads(capsys.readouterr().out)["lineage_bound"] is False
    assert policy_verify.run(PolicyVerify(paths.root)) == 1
    assert "release 2: its lineage is not the one that its verdict binds" in capsys.readouterr().err
    path.unlink()
    assert policy_verify.run(PolicyVerify(paths.root)) == 1
    assert "release 2: what it learnt from is not known any more" in capsys.readouterr().err
