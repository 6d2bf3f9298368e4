"""A sweep with real runs: ended in the middle by a signal, and continued to its end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch.config_file import read_config
from launch.process_list import remove_stale_sockets
from launch.run_paths import RunPaths
from launch.sweep.results import has_ended

pytestmark = pytest.mark.timeout(300)

SETTINGS = (
    *("actor.lanes=16", "actor.unroll_length=16", "learner.batch_size=8", "learner.log_interval_s=0.1"),
    *("learner.checkpoint_interval_s=1", "learner.candidate_return_min=-inf", "learner.candidate_interval_s=0.5"),
    *("safety.episodes=64", "stop.target_return=inf", "network.hidden_sizes=16"),
)
STEPS = 3000
ENDED_S_MAX = 200.0


@contextlib.contextmanager
def started(root: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A sweep of two settings with two seeds; at the end every process of it is gone."""
    command = [sys.executable, "-m", "launch.cli", "sweep", "catch", "--sweep-dir", str(root), "--seeds", "2"]
    command += ["--vary", "learner.learning_rate=1e-3,5e-3", "--max-env-steps", str(STEPS), "--parallel", "2"]
    with (root.parent / "out").open("ab") as output:
        sweep = subprocess.Popen([*command, "--set", *SETTINGS, *more], stdout=output, stderr=subprocess.STDOUT)
    family = psutil.Process(sweep.pid)
    try:
        yield sweep
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [family, *family.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        sweep.wait(10)
        for paths in runs(root):
            remove_stale_sockets(paths)


def runs(root: Path) -> list[RunPaths]:
    return [RunPaths(path.parent) for path in sorted(root.glob("*/seed-*/config.toml"))]


def story(root: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in [root.parent / "out", *root.glob("*/*.log")])


def test_a_sweep_is_ended_in_the_middle_and_continued_to_its_end(tmp_path: Path) -> None:
    root = tmp_path / "sweep"
    with started(root) as sweep:
        deadline = time.monotonic() + ENDED_S_MAX
        while not any(map(has_ended, runs(root))):
            assert sweep.poll() is None, story(root)
            assert time.monotonic() < deadline, story(root)
            time.sleep(0.02)
        sweep.send_signal(signal.SIGTERM)
        assert sweep.wait(ENDED_S_MAX) == 128 + signal.SIGTERM, story(root)
    kept = {paths.root: paths.summary.stat().st_mtime_ns for paths in runs(root) if has_ended(paths)}
    assert 1 <= len(kept) < 4, story(root)
    for paths in runs(root):
        assert not paths.processes.exists(), "a run was not ended in order"
    with started(root, "--resume") as sweep:
        assert sweep.wait(ENDED_S_MAX) == 0, story(root)
    assert len(runs(root)) == 4
    assert all(map(has_ended, runs(root)))
    assert {path: RunPaths(path).summary.stat().st_mtime_ns for path in kept} == kept
    found = json.loads((root / "sweep.json").read_text())
    assert [each["name"] for each in found["settings"]] == ["learning_rate=0.001", "learning_rate=0.005"]
    for each, rate in zip(found["settings"], (1e-3, 5e-3), strict=True):
        assert each["finished"] == each["env_steps"]["count"] == 2
        assert each["env_steps"]["mean"] >= STEPS
        for run in each["runs"]:
            config = read_config(root / run["run_dir"] / "config.toml")
            assert (config.learner.learning_rate, config.seed) == (rate, run["seed"])
            assert run["stopped_because"] == "env_steps"
        assert len(list((root / "tensorboard" / each["name"]).iterdir())) == 1
    assert (root / "curves.png").read_bytes().startswith(b"\x89PNG")
