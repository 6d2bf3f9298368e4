"""kill -9 of each process of a run, during the run: it completes, and what was promised still holds.

Promised: no acknowledged record is lost or stored twice, and nothing is promoted without a verdict.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from replay.chain import verify_chain
from tests.integration.training_run import TrainingRun, kill, open_store, training_run

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(240)]

ENV_STEPS = 60_000


@pytest.mark.parametrize(
    "victim", ["actor", pytest.param("actors", marks=pytest.mark.long), "replay", "learner", "safety"]
)
def test_run_completes_after_kill_9_of(victim: str, tmp_path: Path) -> None:
    with training_run(
        tmp_path / "run", "catch", "--max-env-steps", str(ENV_STEPS), "--set=stop.target_return=inf"
    ) as run:
        run.until("training is under way and a verdict is out", lambda: run.updates() > 40 and len(run.ledger()) > 1)
        before = victim_pid(run, victim)
        kill(before)
        run.until(f"another {victim} runs", lambda: victim_pid(run, victim) not in {before, 0}, timeout_s=60)
        updates = run.updates()
        run.until("it learns on", lambda: run.updates() > updates + 20, timeout_s=90)
        assert run.wait(timeout_s=150) == 0, run.story()
        assert run.summary()["env_steps"] >= ENV_STEPS
        check_records(run)
        check_releases(run)


def test_actor_lost_to_kill_9_returns_under_a_new_run_id(tmp_path: Path) -> None:
    with training_run(tmp_path / "run", "catch", "--max-seconds=60", "--set=stop.target_return=inf") as run:
        run.until("training is under way", lambda: run.updates() > 10)
        kill(victim_pid(run, "actor"))
        log = tmp_path / "run" / "logs" / "actors.log"
        run.until("the actor has started twice", lambda: log.read_text().count("actor-0000 started") == 2)
        first, second = re.findall(r"started: pid \d+, run id (\S+)", log.read_text())
        assert first != second


def test_no_process_survives_a_killed_supervisor(tmp_path: Path) -> None:
    with training_run(tmp_path / "run", "catch", "--max-seconds=60", "--set=stop.target_return=inf") as run:
        run.until("training is under way", lambda: run.updates() > 10)
        family = run.family()
        assert len(family) >= 6
        assert run.process is not None
        kill(run.process.pid)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, [process.cmdline() for process in alive]
        run.process.wait(10)
        # The directory is usable again, and the run goes on from where its checkpoint is.
        steps = run.metrics()[-1]["env_steps"]
        run.start("--resume")
        run.until("it learns on", lambda: run.metrics()[-1]["env_steps"] > steps + 1000, timeout_s=60)


def test_without_the_safety_service_actors_stop_and_nothing_is_promoted(tmp_path: Path) -> None:
    """Kept down by killing each one that the supervisor starts, until it gives the run up as failed."""
    with training_run(
        tmp_path / "run", "catch", "--max-seconds=120", "--set=stop.target_return=inf", "--set=safety.lease_s=2"
    ) as run:
        run.until("training is under way", lambda: run.updates() > 10)
        releases = len(list((tmp_path / "run" / "policies" / "releases").glob("*.verdict")))
        deadline = time.monotonic() + 90
        while run.process is not None and run.process.poll() is None and time.monotonic() < deadline:
            pid = run.pid_of("safety")
            if pid is not None and psutil.pid_exists(pid):
                kill(pid)
            time.sleep(0.02)
        assert run.wait(timeout_s=60) == 1, run.story()
        assert "safety" in run.output.read_text()
        ledger = [entry for entry in run.ledger() if entry.get("approved")]
        assert len(list((tmp_path / "run" / "policies" / "releases").glob("*.verdict"))) <= len(ledger)
        assert releases <= len(ledger)


def victim_pid(run: TrainingRun, victim: str) -> int:
    if victim == "actor":
        return next(iter(run.actor_pids()), 0)
    return run.pid_of(victim) or 0


def check_records(run: TrainingRun) -> None:
    """Every actor run's sequences are 0, 1, 2, ... each once; what an actor counted as acknowledged is there."""
    with open_store(run.directory) as store:
        counters = store.counters()
        assert counters.first_position == 0
        assert verify_chain(store).records == counters.next_position
        sequences = defaultdict(list)
        for start in range(0, counters.next_position, 1000):
            for record in store.read(range(start, min(start + 1000, counters.next_position))):
                sequences[store.origin(record.origin_id).run_id].append(record.header.sequence)
    for run_id, seen in sequences.items():
        assert seen == list(range(len(seen))), f"records of {run_id} are lost or doubled"
    log = (run.directory / "logs" / "actors.log").read_text()
    ended = re.findall(r"run id (\S+)(?:(?!started)[\s\S])*? (\d+) records acknowledged", log)
    assert ended, log
    for run_id, acknowledged in ended:
        assert len(sequences[run_id]) >= int(acknowledged), f"acknowledged records of {run_id} are missing"


def check_releases(run: TrainingRun) -> None:
    """Every release verifies, and its verdict is in the ledger as approved."""
    verify = subprocess.run(
        [sys.executable, "-m", "launch.cli", "policy", "verify", str(run.directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert verify.returncode == 0, verify.stdout + verify.stderr
    approved = {entry["artifact_digest"] for entry in run.ledger() if entry.get("approved")}
    artifacts = {path.stem for path in (run.directory / "policies" / "artifacts").glob("*.safetensors")}
    releases = list((run.directory / "policies" / "releases").glob("*.verdict"))
    assert artifacts <= approved
    assert len(releases) <= len(approved)
