"""A whole run over two replay services, one of which is killed: it trains from both, and neither loses or doubles."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from launch.replay_target import open_source
from replay.sharding import shard_of
from tests.integration.training_run import kill, training_run

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(240)]

ENV_STEPS = 80_000


def test_a_run_over_two_shards_of_which_one_is_killed(tmp_path: Path) -> None:
    settings = ("--set=replay.shards=2", "--set=actor.processes=2", "--set=audit.fraction=0.05")
    with training_run(
        tmp_path / "run", "catch", f"--max-env-steps={ENV_STEPS}", "--set=stop.target_return=inf", *settings
    ) as run:
        run.until("training is under way", lambda: run.updates() > 20)
        victim = run.pid_of("replay-1")
        assert victim is not None
        kill(victim)
        run.until("another replay-1 runs", lambda: run.pid_of("replay-1") not in {victim, None})
        updates = run.updates()
        run.until("it learns on", lambda: run.updates() > updates + 20, timeout_s=90)
        if run.process is not None and run.process.poll() is None:
            status = shown_status(run.directory)
            assert {"replay-0", "replay-1", "auditor-0", "auditor-1"} <= {each["name"] for each in status["processes"]}
        assert run.wait(timeout_s=150) == 0, run.story()
        assert run.summary()["env_steps"] >= ENV_STEPS
    with open_source(str(run.directory), writable=False) as source:
        found = Counter(
            (shard_of(record.position), record.origin.run_id, record.header.sequence) for record in source.records()
        )
        records = source.stats().records
    assert records == run.summary()["replay"]["records"] == len(found)
    assert set(found.values()) == {1}, "a record is there twice"
    for shard in (0, 1):
        runs = {run_id for of_shard, run_id, _ in found if of_shard == shard}
        assert runs, f"nobody wrote to shard {shard}"
        for run_id in runs:
            sequences = sorted(sequence for of_shard, run, sequence in found if (of_shard, run) == (shard, run_id))
            assert sequences == list(range(len(sequences))), f"records of {run_id} are lost"


def shown_status(directory: Path) -> dict[str, Any]:
    """What `temper status --json` says."""
    command = [sys.executable, "-m", "launch.cli", "status", str(directory), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    status: dict[str, Any] = json.loads(done.stdout)
    return status
