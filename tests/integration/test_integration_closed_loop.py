"""The whole loop with real processes: it trains, gates, releases, stops, resumes and repeats as it says it does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.integration.training_run import TrainingRun, training_run

pytestmark = pytest.mark.timeout(180)

REPOSITORY = Path(__file__).resolve().parents[2]


def temper(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def tensorboard_tags(directory: Path) -> set[str]:
    """Tags in the event files: a TFRecord is length (8 bytes), its checksum (4), the event, its checksum (4)."""
    tags = set()
    for path in directory.glob("events.out.tfevents.*"):
        data, offset = path.read_bytes(), 0
        while offset < len(data):
            length = int.from_bytes(data[offset : offset + 8], "little")
            event = Event.FromString(data[offset + 12 : offset + 12 + length])
            tags |= {value.tag for value in event.summary.value}
            offset += length + 16
    return tags


def test_catch_is_learnt_gated_released_and_told(tmp_path: Path) -> None:
    with training_run(tmp_path / "run", "catch", "--max-seconds=100") as run:
        assert run.wait(timeout_s=150) == 0, run.story()
        printed = run.output.read_text()
    summary = run.summary()
    assert set(summary) == {
        *("recipe", "env_steps", "wall_s", "env_steps_per_s", "evaluation", "release", "candidates", "replay"),
        *("policy_lag", "revoked_releases"),
    }
    assert summary["revoked_releases"] == []
    assert summary["recipe"] == "catch"
    assert summary["evaluation"]["return_mean"] >= 0.95
    # As many as its trial needed: a chunk at least.
    assert summary["evaluation"]["episodes"] >= 64
    low, high = summary["evaluation"]["return_ci95"]
    assert low <= summary["evaluation"]["return_mean"] <= high
    assert summary["candidates"]["approved"] >= 1
    assert summary["env_steps_per_s"] == pytest.approx(summary["env_steps"] / summary["wall_s"])
    assert str(tmp_path / "run") in printed

    approved = [entry for entry in run.ledger() if entry.get("approved")]
    assert summary["release"]["verdict_id"] in {entry["verdict_id"] for entry in approved}
    assert temper("policy", "verify", str(run.directory)).returncode == 0
    listed = temper("policy", "list", str(run.directory))
    assert summary["release"]["digest"] in listed.stdout
    assert json.loads(temper("status", str(run.directory), "--json").stdout)["state"] == "ended"

    tags = tensorboard_tags(run.directory / "tensorboard")
    assert {"loss/policy_loss", "loss/value_loss", "loss/entropy", "train/return_mean", "lag/mean"} <= tags
    assert {"train/env_steps_per_s", "gate/approved", "gate/violation_rate_upper_bound"} <= tags


def test_one_flipped_byte_in_a_release_is_found(tmp_path: Path) -> None:
    with training_run(tmp_path / "run", "catch", "--max-env-steps=20000") as run:
        assert run.wait(timeout_s=120) == 0, run.story()
    artifact = next((run.directory / "policies" / "artifacts").glob("*.safetensors"))
    data = bytearray(artifact.read_bytes())
    data[-5] ^= 1
    artifact.write_bytes(data)
    verified = temper("policy", "verify", str(run.directory))
    assert verified.returncode == 1
    assert artifact.stem in verified.stdout + verified.stderr


def test_limit_then_resume_then_repeat_from_the_written_configuration(tmp_path: Path) -> None:
    endless = "--set=stop.target_return=inf"
    with training_run(tmp_path / "run", "catch", "--max-env-steps=10000", endless) as run:
        assert run.wait(timeout_s=120) == 0, run.story()
        first = run.summary()
        assert first["env_steps"] >= 10_000
        final = json.loads((run.directory / "learner" / "final.json").read_text())
        assert final["stopped_because"] == "env_steps"

    again = temper(
        "train", "catch", "--run-dir", str(run.directory), "--resume", "--max-env-steps=20000", timeout_s=120
    )
    assert again.returncode == 0, again.stdout + again.stderr
    second = run.summary()
    assert second["env_steps"] >= 20_000
    assert second["wall_s"] > first["wall_s"]
    resumed = json.loads((run.directory / "learner" / "final.json").read_text())
    assert resumed["updates"] > final["updates"]
    steps = [line["env_steps"] for line in run.metrics()]
    assert steps == sorted(steps)

    config = run.directory / "config.toml"
    copy = TrainingRun(tmp_path / "copy", str(config), "--max-env-steps=5000")
    with copy:
        copy.start()
        assert copy.wait(timeout_s=120) == 0, copy.story()
    assert tomllib.loads((copy.directory / "config.toml").read_text()) == tomllib.loads(config.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order(number: signal.Signals, tmp_path: Path) -> None:
    with training_run(tmp_path / "run", "catch", "--set=stop.target_return=inf") as run:
        run.until("training is under way", lambda: run.updates() > 10)
        family = run.family()
        assert run.process is not None
        run.process.send_signal(number)
        assert run.wait(timeout_s=60) == 128 + number, run.story()
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
    assert run.summary()["env_steps"] > 0
    assert list((run.directory / "learner" / "checkpoints").iterdir())
    assert not (run.directory / "processes.json").exists()


def test_the_readme_s_own_environment_trains(tmp_path: Path) -> None:
    """The code block and the command of README.md, as they stand there."""
    readme = (REPOSITORY / "README.md").read_text()
    code = re.search(r"```python\n(import gymnasium.*?)```", readme, re.DOTALL)
    command = re.search(r"PYTHONPATH=\. \S+temper (train .*)", readme)
    assert code is not None
    assert command is not None
    (tmp_path / "walk.py").write_text(code[1])
    result = subprocess.run(
        [sys.executable, "-m", "launch.cli", *command[1].split(), "--run-dir", "run", "--max-seconds", "90"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f".:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["evaluation"]["return_mean"] >= 0.95
