"""A real run whose data turns out to be bad: quarantine, revocation in the running run, and everything goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.releases import open_registry
from launch.run_paths import RunPaths
from policies.registry import Release
from tests.integration.training_run import TrainingRun, kill, training_run

pytestmark = [pytest.mark.timeout(240), pytest.mark.robustness]


def temper(*arguments: str) -> dict[str, Any]:
    """The object that a command prints with --json."""
    command = [sys.executable, "-m", "launch.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def releases(run: TrainingRun) -> list[Release]:
    registry = open_registry(RunPaths(run.directory)) if (run.directory / "policies").is_dir() else None
    return registry.releases() if registry is not None else []


def revoked_of(run: TrainingRun) -> int:
    """Revoked releases as the learner that runs now reports them."""
    lines = run.metrics()
    return int(lines[-1].get("revoked_releases", 0)) if lines else 0


def test_bad_data_is_quarantined_and_what_learnt_from_it_is_taken_back(tmp_path: Path) -> None:
    with training_run(tmp_path / "run", "catch", "--set=stop.target_return=inf") as run:
        run.until("a release", lambda: len(releases(run)) >= 1)
        touched = temper("replay", "lineage", str(run.directory), "0")
        assert touched["record"]["environment"] == "catch"
        assert {1} <= {each["number"] for policy in touched["policies"] for each in policy["releases"]}

        said = temper("replay", "quarantine", str(run.directory), "position < 100", "--why", "bad sensor", "--revoke")
        assert said["quarantine"]["records"] == 100
        revoked = {each["release_number"] for each in said["revoked"]}
        assert 1 in revoked
        assert all(each["watchers"] >= 1 and not each["problem"] for each in said["revoked"])
        run.until("the learner to say so", lambda: revoked_of(run) >= len(revoked))
        log = run.directory / "logs" / "actors.log"
        run.until("the actors to drop it", lambda: "release 1 is revoked" in log.read_text())

        run.until("the next release", lambda: any(each.revocation is None for each in releases(run)))
        assert max(each.number for each in releases(run)) > max(revoked)

        learner = run.pid_of("learner")
        assert learner is not None
        kill(learner)
        run.until("another learner", lambda: run.pid_of("learner") not in (None, learner))
        lines = len(run.metrics())
        run.until("it to learn", lambda: len(run.metrics()) > lines + 2)
        assert revoked_of(run) >= len(revoked)
        assert [entry["kind"] for entry in run.ledger()].count("revocation") >= len(revoked)
        assert {each.number for each in releases(run) if each.revocation is not None} >= revoked
