"""`temper policy rollback`, and canaries as `temper policy list|show` have them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from launch.arguments import Actor, PolicyList, PolicyShow, PolicyVerify
from launch.arguments_replay import PolicyRevoke, PolicyRollback
from launch.commands import policy_list, policy_revoke, policy_rollback, policy_show, policy_verify
from launch.config import ACTOR_PREFIX
from launch.errors import BadInput
from launch.parser import parse
from launch.releases import newest_release
from launch.run_paths import RunPaths
from policies.artifact import artifact_digest
from policies.testing import make_artifact
from safety.docket import Docket
from safety.testing import record_made_up
from tests.launch import lineage_run
from tests.launch.lineage_run import registry_of
from tests.safety.safety_process import RUN

CANARY = make_artifact(seed=31).to_bytes()


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run with releases 1 and 2, for everywhere, and 3, a canary of a quarter of the actors."""
    paths = lineage_run.begin(tmp_path / "run")
    with contextlib.closing(Docket(paths.safety, RUN)) as docket:
        registry_of(paths).promote(CANARY, record_made_up(docket, RUN, 7, CANARY, canary_share=0.25))
    return paths


def promote(paths: RunPaths, *, delivered: bool = True) -> None:
    with contextlib.closing(Docket(paths.safety, RUN)) as docket:
        signed = docket.promote(3, episodes=60, violating_episodes=2, why="canary: harmless")
        if delivered:
            registry_of(paths).promote_canary(signed)


def standing(paths: RunPaths) -> list[int]:
    return [release.number for release in registry_of(paths).releases() if release.revocation is None]


def rollback(paths: RunPaths, **options: Any) -> int:
    return policy_rollback.run(PolicyRollback(paths.root, **({"why": "it does harm"} | options)))


def test_by_default_it_goes_back_by_one(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollback(paths) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("release 3 is revoked (")
    assert last == "release 2 is offered now"
    assert standing(paths) == [1, 2]
    # And from there by one more.
    assert rollback(paths) == 0
    assert capsys.readouterr().out.endswith("release 1 is offered now\n")
    assert standing(paths) == [1]


def test_it_goes_back_to_the_one_that_is_named_newest_first(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollback(paths, to=1, json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["to"], said["release_offered"], said["problem"]) == (1, 1, "")
    assert [(each["release_number"], each["revocation_number"]) for each in said["revoked"]] == [(3, 1), (2, 2)]
    assert {each["why"] for each in said["revoked"]} == {"it does harm"}
    assert standing(paths) == [1]


def test_of_a_run_that_runs_everybody_hears(
    paths: RunPaths, socket_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lineage_run.running(paths, socket_directory) as board:
        assert (board.release_number, board.canary_number) == (2, 3)
        assert rollback(paths, to=1) == 0
        assert (board.release_number, board.canary_number) == (1, 0)
    assert capsys.readouterr().out.splitlines()[-1] == "release 1 is offered now"


def test_without_its_learner_it_is_revoked_and_said_to_be_untold(
    paths: RunPaths, socket_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.revoking.DELIVERY_S_MAX", 0.2)
    with lineage_run.running(paths, socket_directory, with_learner=False):
        assert rollback(paths) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "what is offered now is not known; it will be release 2 once the learner has heard"
    )
    assert standing(paths) == [1, 2]


@pytest.mark.parametrize(
    ("revoked", "to", "message"),
    [
        ((), 9, "--to 9: there is no such release; those that stand are: 1, 2, 3"),
        ((), -1, "--to -1: there is no such release"),
        ((), 3, "--to 3: it is the newest release that stands: there is nothing to roll back"),
        ((2,), 2, "--to 2: release 2 is revoked itself; those that stand are: 1, 3"),
        ((1, 2), 0, "release 3 is the only one that stands: there is none to go back to"),
        ((1, 2, 3), 0, "no release of the run in .* stands: there is nothing to roll back"),
    ],
)
def test_what_makes_no_sense_changes_nothing(paths: RunPaths, revoked: tuple[int, ...], to: int, message: str) -> None:
    for number in revoked:
        policy_revoke.run(PolicyRevoke(paths.root, number, "w"))
    before = standing(paths)
    with pytest.raises(BadInput, match=message):
        rollback(paths, to=to)
    assert standing(paths) == before


def test_a_reason_is_required(paths: RunPaths) -> None:
    with pytest.raises(BadInput, match="0 characters"):
        rollback(paths, why=" ")
    assert standing(paths) == [1, 2, 3]


def test_the_command_line() -> None:
    assert parse(["policy", "rollback", "runs/x", "--why", "w"]) == PolicyRollback(Path("runs/x"), "w")
    assert parse(["policy", "rollback", "runs/x", "--why", "w", "--to", "4", "--json"]) == PolicyRollback(
        Path("runs/x"), "w", 4, json=True
    )
    with pytest.raises(BadInput, match="--why"):
        parse(["policy", "rollback", "runs/x"])


def lines(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert policy_list.run(PolicyList(paths.root)) == 0
    return capsys.readouterr().out.splitlines()[1:]


def shown(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert policy_show.run(PolicyShow(paths.root, 3)) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("canary")]


def test_a_canary_is_shown_as_one(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    first, _, canary = lines(paths, capsys)
    assert canary.endswith(f"{artifact_digest(CANARY).hex()}  CANARY: a share of 0.25 of the actors")
    assert "CANARY" not in first
    assert shown(paths, capsys) == ["canary      a share of 0.25 of the actors, not promoted"]
    newest = newest_release(paths)
    assert newest is not None
    assert newest.release_number == 2


def test_a_promoted_one_is_shown_with_what_it_rests_on(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    promote(paths)
    assert lines(paths, capsys)[-1].endswith("  promoted, a canary of 0.25 with violations 2/60")
    (line,) = shown(paths, capsys)
    assert line.startswith("canary      a share of 0.25 of the actors, promoted 20")
    assert line.endswith(": canary: harmless")
    newest = newest_release(paths)
    assert newest is not None
    assert newest.release_number == 3


def test_a_promotion_in_the_ledger_alone_is_shown_as_such(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    promote(paths, delivered=False)
    assert lines(paths, capsys)[-1].endswith("  CANARY: a share of 0.25 of the actors, promoted (undelivered)")


def test_a_revoked_one_is_revoked_above_all(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    policy_revoke.run(PolicyRevoke(paths.root, 3, "it does harm"))
    line = lines(paths, capsys)[-1]
    assert line.endswith("  REVOKED: it does harm")


def test_actors_are_called_as_the_settings_are_checked_by() -> None:
    assert Actor.__dataclass_fields__["actor_prefix"].default == ACTOR_PREFIX


def test_verify_tells_of_a_release_that_only_the_ledger_has(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    assert "ledger alone" not in capsys.readouterr().out
    (paths.policies / "releases" / "00000002.verdict").unlink()
    assert policy_verify.run(PolicyVerify(paths.root)) == 0
    assert "release 2 is in the gate's ledger alone: it was never taken, or was removed" in capsys.readouterr().out
