"""A run whose policy must remember: trained with burn-in from stored states, judged by the gate, records verified."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.environments.catch_memory import MEMORYLESS_RETURN
from tests.integration.training_run import TrainingRun

pytestmark = pytest.mark.timeout(180)

GOAL = 0.2
SETTINGS = (
    "environment.name=catch-memory",
    "network.core=gru",
    "network.core_size=32",
    "network.hidden_sizes=64",
    "actor.lanes=32",
    "actor.unroll_length=20",
    "actor.window_records=64",
    "learner.batch_size=32",
    "learner.burn_in=2",
    "learner.learning_rate=0.003",
    "learner.learning_rate_end=0.003",
    "learner.entropy_cost=0.02",
    "learner.entropy_cost_end=0.01",
    f"learner.candidate_return_min={GOAL}",
    f"stop.target_return={GOAL}",
    "safety.episodes=100",
)


def temper(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_recurrent_policy_is_released_that_does_what_none_without_memory_can(tmp_path: Path) -> None:
    overrides = [word for each in SETTINGS for word in ("--set", each)]
    with TrainingRun(tmp_path / "run", "catch", *overrides, "--max-seconds=120") as run:
        run.start()
        assert run.wait(timeout_s=150) == 0, run.story()
    summary = run.summary()
    assert summary["evaluation"] is not None, run.story()
    low, _ = summary["evaluation"]["return_ci95"]
    assert low > MEMORYLESS_RETURN + 0.3
    assert summary["evaluation"]["return_mean"] >= GOAL
    assert temper("policy", "verify", str(run.directory)).returncode == 0
    # What was stored is what happened, and the state is stored once per record.
    verified = temper("replay", "verify", str(run.directory), "--fraction", "0.02", "--json")
    assert verified.returncode == 0, verified.stderr
    report = json.loads(verified.stdout)
    assert report["verified"] > 0
    assert report["mismatched"] == 0
    position = json.loads(temper("replay", "stats", str(run.directory), "--json").stdout)["appended_records"] - 1
    shown = json.loads(temper("replay", "show", str(run.directory), str(position), "--json").stdout)
    assert {column["name"]: column["shape"] for column in shown["columns"]}["state"] == [1, 32]
