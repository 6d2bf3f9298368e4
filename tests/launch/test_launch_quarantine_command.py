"""`temper replay quarantine` and `temper policy revoke`: what they reach and take back, offline and in a live run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch import revoking
from launch.arguments import PolicyList, PolicyShow
from launch.arguments_replay import PolicyRevoke, ReplayQuarantine
from launch.commands import policy_list, policy_revoke, policy_show, replay_quarantine
from launch.errors import BadInput, LaunchError
from launch.releases import undelivered
from launch.run_directory import RunDirectory
from launch.run_paths import RunPaths
from policies.client import PolicyClient
from protos.safety.v1 import safety_pb2
from replay.filters import FilterError
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.store import StoreSettings
from safety.client import SafetyClient
from safety.docket import Docket
from safety.ledger import LedgerInUse
from safety.testing import balancing_artifact
from tests.launch import lineage_run, made_up_run
from tests.safety.safety_process import RUN

OF_B = 'actor_id == "actor-b"'
WAIT_S = 20.0


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return lineage_run.begin(tmp_path / "run")


def quarantine(target: object, chosen: str = "", **fields: Any) -> int:
    return replay_quarantine.run(ReplayQuarantine(target=str(target), filter=chosen, **fields))


def revoke(paths: RunPaths, release: int, why: str = "poisoned", **fields: Any) -> int:
    return policy_revoke.run(PolicyRevoke(paths.root, release, why, **fields))


def read_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.splitlines()
    shown: dict[str, Any] = json.loads(line)
    return shown


def newest(paths: RunPaths) -> int:
    release = lineage_run.registry_of(paths).newest()
    return 0 if release is None else release.number


def quarantined(paths: RunPaths) -> int:
    with OfflineSource(paths.replay) as source:
        return int(source.stats().quarantined_records)


def test_a_dry_run_says_what_it_would_reach_and_changes_nothing(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quarantine(paths.root, OF_B, dry_run=True, revoke=True) == 0
    out = capsys.readouterr().out
    assert "20 records would no longer be sampled" in out
    assert "10 of 50   20.0%  candidate, rejected: sequential_violation_rate\n" in out
    assert "20 of 60   33.3%  checkpoint; release 2" in out
    assert "learnt from none of them: 4" in out
    assert out.splitlines()[-1] == "would revoke release 2"
    assert (quarantined(paths), newest(paths)) == (0, 2)


def test_records_are_quarantined_and_the_policies_listed(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    quarantine(paths.root, OF_B, why="bad actor", json=True)
    shown = read_json(capsys)
    assert (shown["quarantine"]["id"], shown["quarantine"]["records"], shown["revoked"]) == (1, 20, [])
    assert [(each["version"], each["quarantined_records"], each["share"]) for each in shown["affected"]] == [
        (5, 10, 0.2),
        (6, 20, pytest.approx(1 / 3)),
    ]
    assert (shown["newest_without"], shown["releases_unknown"]) == (4, [])
    assert (quarantined(paths), newest(paths)) == (20, 2)


def test_offline_the_releases_are_revoked_too(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert quarantine(paths.root, OF_B, why="bad actor", revoke=True) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("release 2 is revoked (")
    assert last.endswith("quarantine 1: bad actor); release 1 is offered in its place")
    assert newest(paths) == 1
    # What was revoked is not revoked again; what else the records reached is.
    quarantine(paths.root, "position < 50", why="worse", revoke=True, json=True)
    shown = read_json(capsys)
    assert [(each["release_number"], each["release_offered"]) for each in shown["revoked"]] == [(1, 0)]
    assert newest(paths) == 0


def test_what_it_reached_may_be_nothing(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    quarantine(paths.root, "position > 1000", why="nothing there", revoke=True)
    out = capsys.readouterr().out
    assert "no policy whose lineage is kept learnt from them" in out
    assert "there is no release to revoke" in out


def test_it_is_said_that_evicted_records_are_not_looked_at(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    quarantine(paths.root, OF_B, dry_run=True)
    assert "evicted" not in capsys.readouterr().out
    with contextlib.closing(LmdbStore(paths.replay, StoreSettings())) as store:
        store.commit([], {}, retain_from=7)
    quarantine(paths.root, OF_B, dry_run=True)
    assert "not looked at, for they were evicted: 7 records" in capsys.readouterr().out
    quarantine(paths.root, OF_B, why="bad actor", json=True)
    assert read_json(capsys)["evicted_records"] == 7


def test_list_and_lift(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    quarantine(paths.root, listing=True)
    assert capsys.readouterr().out == "no quarantine, now or ever\n"
    quarantine(paths.root, OF_B, why="bad actor")
    capsys.readouterr()
    quarantine(paths.root, listing=True)
    assert f"20 records, {OF_B}: bad actor" in capsys.readouterr().out
    quarantine(paths.root, lift=1, why="a mistake")
    assert capsys.readouterr().out.rstrip().endswith(": a mistake")
    assert quarantined(paths) == 0
    quarantine(paths.root, listing=True, json=True)
    assert read_json(capsys)["lifted_why"] == "a mistake"
    with pytest.raises(BadInput, match="no quarantine 1 is in force"):
        quarantine(paths.root, lift=1, why="again")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "say one of"),
        ({"chosen": OF_B, "lift": 1, "why": "w"}, "say one of"),
        ({"lift": 1, "listing": True}, "say one of"),
        ({"chosen": OF_B}, "--why is missing"),
        ({"lift": 1}, "--why is missing"),
        ({"lift": 1, "why": "w", "revoke": True}, "neither with --dry-run nor with --revoke"),
    ],
)
def test_what_makes_no_sense_is_said(paths: RunPaths, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        quarantine(paths.root, **fields)
    assert quarantined(paths) == 0


def test_a_filter_that_is_none(paths: RunPaths) -> None:
    with pytest.raises(FilterError):
        quarantine(paths.root, "no such field == 1", why="w")


def test_of_a_store_alone_nobody_knows_what_learnt_from_it(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="say with --run-dir whose releases"):
        quarantine(paths.replay, OF_B, why="w", revoke=True)
    assert quarantined(paths) == 0
    quarantine(paths.replay, OF_B, why="w", json=True)
    assert read_json(capsys)["affected"] is None
    quarantine(paths.replay, "position == 59", why="w", run_dir=str(paths.root), json=True)
    assert [each["version"] for each in read_json(capsys)["affected"]] == [6]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_in_a_run_that_runs_the_actors_drop_it_and_the_next_release_gets_in(
    paths: RunPaths, socket_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = lineage_run.registry_of(paths)
    with lineage_run.running(paths, socket_directory) as board:
        client = PolicyClient(f"unix:{socket_directory}/policy.sock", registry.trust, "numpy", "actor-0", "start")
        try:

            def acting() -> int:
                held = client.current()
                return 0 if held is None else held.release_number

            eventually(lambda: acting() == 2)
            assert quarantine(paths.root, OF_B, why="bad actor", revoke=True, json=True) == 0
            (revoked,) = read_json(capsys)["revoked"]
            assert (revoked["release_number"], revoked["watchers"], revoked["release_offered"]) == (2, 1, 1)
            eventually(lambda: acting() == 1)
            assert revoke(paths, 1, json=True) == 0
            shown = read_json(capsys)
            assert (shown["revocation_number"], shown["release_offered"], shown["problem"]) == (2, 0, "")
            eventually(lambda: acting() == 0)
            # The same once more gets what it got then.
            revoke(paths, 2, "another reason", json=True)
            assert read_json(capsys)["why"] == "quarantine 1: bad actor"

            data = balancing_artifact().to_bytes()
            with SafetyClient(f"unix:{socket_directory}/safety.sock") as gate:
                signed = gate.evaluate(data, RUN, 7, WAIT_S)
            assert safety_pb2.VerdictStatement.FromString(signed.payload).release_number == 3
            registry.promote(data, signed)
            board.publish_release(7, data, signed)
            eventually(lambda: acting() == 3)
        finally:
            client.close()
    assert newest(paths) == 3
    assert quarantined(paths) == 20


def test_a_learner_that_is_away_finds_it_when_it_starts(
    paths: RunPaths, socket_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoking, "DELIVERY_S_MAX", 0.3)
    with lineage_run.running(paths, socket_directory, with_learner=False):
        assert revoke(paths, 2) == 1
    assert "but the learner was not told: " in capsys.readouterr().out
    with lineage_run.running(paths, socket_directory) as board:
        assert board.release_number == 1
        assert revoke(paths, 2) == 0
    assert "release 1 is offered in its place; 0 clients were told" in capsys.readouterr().out


class Killed(BaseException):
    """As kill -9: nothing that could still be done is done."""


def kill(*_arguments: object) -> Any:
    raise Killed


def revoke_in_the_ledger(paths: RunPaths, number: int) -> None:
    docket = Docket(paths.safety, RUN)
    docket.revoke(RUN, number, "poisoned")
    docket.close()


def test_killed_before_the_registry_knew_of_it_the_next_start_finds_it(paths: RunPaths, tmp_path: Path) -> None:
    assert revoking.store_undelivered(paths) == 0
    revoke_in_the_ledger(paths, 2)
    registry = lineage_run.registry_of(paths)
    assert newest(paths) == 2
    (revocation,) = undelivered(paths, registry)
    assert revocation.release_number == 2
    assert revoking.store_undelivered(paths) == 1
    assert (newest(paths), undelivered(paths, registry)) == (1, [])
    assert revoking.store_undelivered(made_up_run.begin(tmp_path / "nothing released")) == 0


def test_killed_before_the_registry_knew_of_it_the_next_revocation_delivers_it(paths: RunPaths) -> None:
    revoke_in_the_ledger(paths, 2)
    assert revoke(paths, 1) == 0
    assert newest(paths) == 0


def test_killed_in_a_live_run_the_next_revocation_tells_the_actors(paths: RunPaths, socket_directory: Path) -> None:
    with lineage_run.running(paths, socket_directory) as board:
        with SafetyClient(f"unix:{socket_directory}/safety.sock") as gate:
            gate.revoke(RUN, 2, "poisoned")
        assert board.release_number == 2
        assert revoke(paths, 1) == 0
        assert [each.release_number for each in board.revocations] == [2, 1]
    assert newest(paths) == 0


def test_the_registry_knows_of_it_before_the_learner_is_told(
    paths: RunPaths, socket_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a learner which starts meanwhile has heard of it, whatever becomes of the one who revokes."""
    monkeypatch.setattr(revoking, "hand_over_revocation", kill)
    with lineage_run.running(paths, socket_directory, with_learner=False), pytest.raises(Killed):
        revoke(paths, 2)
    with lineage_run.running(paths, socket_directory) as board:
        assert board.release_number == 1


def test_a_registry_that_cannot_be_written_keeps_nobody_from_being_told(
    paths: RunPaths, socket_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.policies / "revocations").rmdir()
    (paths.policies / "revocations").write_text("in the way")
    with pytest.raises(LaunchError, match="release 2 is revoked, but the registry cannot store that: "):
        revoke(paths, 2)
    with lineage_run.running(paths, socket_directory) as board:
        assert revoke(paths, 1) == 1
        assert {each.release_number for each in board.revocations} >= {1}
        assert board.release_number == 0
    assert "the actors that watch have been told" in capsys.readouterr().out


def test_nothing_is_quarantined_where_the_releases_could_not_be_revoked(paths: RunPaths) -> None:
    with RunDirectory(paths.root), pytest.raises(BadInput, match="just starting or ending"):
        quarantine(paths.root, OF_B, why="bad actor", revoke=True)
    desk = Docket(paths.safety, RUN)
    with pytest.raises(LedgerInUse):
        quarantine(paths.root, OF_B, why="bad actor", revoke=True)
    desk.close()
    assert (quarantined(paths), newest(paths)) == (0, 2)


def test_what_was_quarantined_is_said_though_revoking_fails(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise LaunchError("no more")

    monkeypatch.setattr(revoking, "_revoke_offline", fail)
    with pytest.raises(LaunchError, match="no more"):
        quarantine(paths.root, OF_B, why="bad actor", revoke=True, json=True)
    shown = read_json(capsys)
    assert (shown["quarantine"]["records"], shown["revoked"]) == (20, [])


def test_it_is_said_that_the_learner_itself_learnt_from_them(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "the newest one did: what the run releases from now on grows out of it\n"
    quarantine(paths.root, OF_B, dry_run=True)
    assert said in capsys.readouterr().out
    quarantine(paths.root, "position > 1000", dry_run=True)
    assert said not in capsys.readouterr().out


@pytest.mark.parametrize("number", [-1, 2**63, 2**64, 10**30])
def test_numbers_that_there_cannot_be(paths: RunPaths, socket_directory: Path, number: int) -> None:
    with lineage_run.running(paths, socket_directory):
        with pytest.raises(BadInput, match=f"no release {number}"):
            revoke(paths, number)
        with pytest.raises(BadInput, match=f"quarantine {number} cannot be"):
            quarantine(paths.root, lift=number, why="w")


def test_a_safety_service_that_is_away_is_said(paths: RunPaths, socket_directory: Path) -> None:
    with RunDirectory(paths.root):
        with pytest.raises(BadInput, match="just starting or ending"):
            revoke(paths, 2)
        addresses = {"safety": f"unix:{socket_directory}/nobody", "policy": f"unix:{socket_directory}/nobody"}
        paths.processes.write_text(json.dumps({"addresses": addresses}))
        with pytest.raises(LaunchError, match="whether release 2 is revoked is not known"):
            revoke(paths, 2)
        with pytest.raises(BadInput, match="numbered from 1"):
            revoke(paths, -1)
    assert newest(paths) == 2


def test_offline_revocation_needs_the_ledger_to_itself(paths: RunPaths, tmp_path: Path) -> None:
    for number in (0, 3):
        with pytest.raises(BadInput, match=f"no release {number}; releases there are: 1 to 2"):
            revoke(paths, number)
    with pytest.raises(BadInput, match="why has 0 characters"):
        revoke(paths, 2, " ")
    desk = Docket(paths.safety, RUN)
    with pytest.raises(LedgerInUse):
        revoke(paths, 2)
    desk.close()
    assert newest(paths) == 2
    with pytest.raises(BadInput, match="has released nothing"):
        revoke(made_up_run.begin(tmp_path / "other"), 1)
    no_gate = made_up_run.begin(tmp_path / "no gate")
    made_up_run.add_releases(no_gate, 1)
    with pytest.raises(BadInput, match="has no ledger"):
        revoke(no_gate, 1)


def test_revoked_releases_are_shown_as_such(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    revoke(paths, 2)
    assert "release 1 is offered in its place\n" in capsys.readouterr().out
    policy_list.run(PolicyList(paths.root))
    _, first, second = capsys.readouterr().out.splitlines()
    assert "REVOKED" not in first
    assert second.endswith("  REVOKED: poisoned")
    policy_show.run(PolicyShow(paths.root, 2))
    assert ": poisoned; no actor acts with it\n" in capsys.readouterr().out
    policy_show.run(PolicyShow(paths.root, 1))
    assert "REVOKED" not in capsys.readouterr().out
