"""Revoked releases as `temper status`, the summary, `temper policy list` and `temper policy verify` show them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from launch.arguments import PolicyList, PolicyVerify, Status
from launch.arguments_replay import PolicyRevoke
from launch.commands import policy_list, policy_revoke, policy_verify
from launch.commands import status as status_command
from launch.releases import newest_release, revocations
from launch.run_paths import RunPaths
from launch.status import describe, gather
from launch.summary import compose, render, write_summary
from launch.verdicts import Counts
from safety.docket import Docket
from tests.launch import lineage_run, made_up_run
from tests.safety.safety_process import RUN

WHY = "quarantine 1: a sensor of actor-0003 was miscalibrated on the first of the month"
SHORTENED = "release 2 (quarantine 1: a sensor of actor-0003 was miscalibrated on...)"


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run with two releases, a registry and a ledger."""
    return lineage_run.begin(tmp_path / "run")


def revoke(paths: RunPaths, number: int, why: str = WHY) -> None:
    assert policy_revoke.run(PolicyRevoke(paths.root, number, why)) == 0


def revoke_in_the_ledger(paths: RunPaths, number: int, why: str = "poisoned") -> None:
    """As by somebody who was killed then."""
    with contextlib.closing(Docket(paths.safety, RUN)) as docket:
        docket.revoke(RUN, number, why)


def damage_revocation(paths: RunPaths) -> None:
    (file,) = (paths.policies / "revocations").glob("*.revocation")
    file.write_bytes(b"damaged")


def status_json(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert status_command.run(Status(paths.root, json=True)) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


def summary_of(paths: RunPaths) -> dict[str, Any]:
    return compose("catch", {}, newest_release(paths), Counts(2, 1), None, revoked=revocations(paths))


def test_without_any_nothing_is_shown(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert revocations(paths) == []
    assert "revoked" not in describe(gather(paths.root), paths.root)
    shown = status_json(paths, capsys)
    assert (shown["revoked_releases"], shown["revoked_problem"]) == ([], "")
    summary = summary_of(paths)
    assert summary["revoked_releases"] == []
    assert "revoked" not in render(summary, paths)


def test_of_an_interrupted_run(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    revoke(paths, 2)
    assert describe(gather(paths.root), paths.root).splitlines()[-1] == f"revoked: {SHORTENED}"
    (revoked,) = status_json(paths, capsys)["revoked_releases"]
    assert (revoked["release_number"], revoked["revocation_number"], revoked["why"]) == (2, 1, WHY)
    assert revoked["artifact_digest"] == lineage_run.DIGESTS[6].hex()
    assert revoked["time"].startswith("20")


def test_one_that_is_in_the_ledger_alone_counts_too(paths: RunPaths) -> None:
    revoke(paths, 1, "first")
    revoke_in_the_ledger(paths, 2, "second")
    assert [(each.number, each.release_number) for each in revocations(paths)] == [(1, 1), (2, 2)]
    text = describe(gather(paths.root), paths.root)
    assert text.endswith("\nrevoked: release 2 (second), release 1 (first)")


def test_of_a_run_that_runs(paths: RunPaths, socket_directory: Path) -> None:
    with lineage_run.running(paths, socket_directory):
        revoke(paths, 2)
        lines = describe(gather(paths.root), paths.root).splitlines()
    assert f"  revoked      {SHORTENED}" in lines


def test_of_a_run_that_has_ended_as_of_now(paths: RunPaths) -> None:
    revoke(paths, 1, "first")
    summary = summary_of(paths)
    write_summary(summary, paths.summary)
    assert "\nrevoked: release 1 (first)\n" in render(summary, paths)
    assert "revoked since" not in render(summary, paths)
    revoke(paths, 2, "second")
    text = describe(gather(paths.root), paths.root)
    assert "(update 6), revoked since: evaluation return" in text
    assert "\nrevoked: release 2 (second), release 1 (first)\n" in text
    assert "no release: every one was revoked\n" in render(summary_of(paths), paths)


def test_a_summary_of_an_earlier_version_can_be_shown(paths: RunPaths) -> None:
    summary = summary_of(paths)
    del summary["revoked_releases"]
    assert "revoked" not in render(summary, paths)


@pytest.mark.parametrize("ended", [False, True])
def test_what_cannot_be_told_is_said_and_hides_nothing_else(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], ended: bool
) -> None:
    revoke(paths, 2)
    if ended:
        write_summary(summary_of(paths), paths.summary)
    damage_revocation(paths)
    text = describe(gather(paths.root), paths.root)
    assert text.startswith("catch: ended\n" if ended else "catch: interrupted")
    assert text.splitlines()[-1].startswith("revoked: not known: revocation ")
    shown = status_json(paths, capsys)
    assert shown["revoked_releases"] is None
    assert "is not to be trusted" in shown["revoked_problem"]


def test_verify_counts_them(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    assert capsys.readouterr().out == "2 releases verified: signatures, digests and parameters; 0 revoked\n"
    revoke(paths, 2)
    capsys.readouterr()
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    assert capsys.readouterr().out == "2 releases verified: signatures, digests and parameters; 1 revoked\n"


def test_verify_finds_what_was_not_delivered(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    revoke_in_the_ledger(paths, 2)
    assert policy_verify.run(PolicyVerify(paths.root)) == 1
    said = capsys.readouterr()
    assert said.out.endswith("; 1 revoked\n")
    (line,) = said.err.splitlines()
    assert line.startswith("temper: release 2 is revoked (poisoned), but undelivered: it is in the ledger and not in")
    assert f"`temper policy revoke {paths.root} 2 --why ...` delivers it" in line
    revoke(paths, 2, "once more")
    assert policy_verify.run(PolicyVerify(paths.root)) == 0


def test_verify_says_where_it_cannot_tell(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = paths.safety / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"damaged\n" + whole)
    assert policy_verify.run(PolicyVerify(paths.root)) == 1
    assert "temper: whether every revocation was delivered is not known: " in capsys.readouterr().err
    ledger.unlink()
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    assert "the gate's ledger is not here" in capsys.readouterr().out


def test_verify_finds_a_damaged_revocation(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    revoke(paths, 2)
    damage_revocation(paths)
    capsys.readouterr()
    assert policy_verify.run(PolicyVerify(paths.root)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "00000001.revocation is not to be trusted" in said.err


def test_verify_of_a_run_without_releases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy_verify.run(PolicyVerify(made_up_run.begin(tmp_path / "run").root)) == 0
    assert capsys.readouterr().out == "0 releases verified: nothing has been released\n"


def test_list_shows_them_delivered_or_not(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    revoke(paths, 1, "first")
    revoke_in_the_ledger(paths, 2, "second")
    capsys.readouterr()
    assert policy_list.run(PolicyList(paths.root)) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("  REVOKED: first")
    assert second.endswith("  REVOKED (undelivered): second")
    (paths.safety / "ledger.jsonl").write_bytes(b"damaged\n")
    assert policy_list.run(PolicyList(paths.root)) == 0
    said = capsys.readouterr()
    assert "REVOKED: first" in said.out
    assert said.err.startswith("temper: what only the gate's ledger knows to be revoked is left out: ")
