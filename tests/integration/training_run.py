"""A real `temper train` as a child process of a test: start it, watch what it writes, kill parts of it, clean up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from launch.process_list import remove_stale_sockets
from launch.run_paths import RunPaths
from replay.config import ReplayConfig
from replay.lmdb_store import LmdbStore
from replay.store import StoreSettings

QUICK = (
    "actor.lanes=16",
    "actor.unroll_length=16",
    "actor.window_records=64",
    "learner.batch_size=8",
    "replay.fresh_unconsumed_max=64",
    "learner.checkpoint_interval_s=1",
    "learner.log_interval_s=0.2",
    "learner.candidate_interval_s=1",
    "learner.candidate_return_min=-inf",
    "safety.episodes=100",
    "safety.lease_s=3",
)
"""Settings under which everything a run does happens within seconds."""


class TrainingRun:
    """One `temper train`. Use as a context manager: at its end every process of the run is gone."""

    def __init__(self, directory: Path, recipe: str, *arguments: str) -> None:
        self.directory = directory
        self.recipe = recipe
        self._arguments = arguments
        self.output = directory.parent / f"{directory.name}.out"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> TrainingRun:
        """Starts it, in a session of its own."""
        command = [sys.executable, "-m", "launch.cli", "train", self.recipe, "--run-dir", str(self.directory)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, *self._arguments, *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        family = self.family()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)
        self.process.wait(timeout=10)
        remove_stale_sockets(RunPaths(self.directory))

    def family(self) -> list[psutil.Process]:
        """The supervisor and everything below it that is alive now."""
        if self.process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        return []

    def wait(self, timeout_s: float) -> int:
        """Waits for the end and returns the exit status; on a timeout, fails with what the run has printed."""
        if self.process is None:
            raise RuntimeError("the run has not been started")
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run did not end within {timeout_s} s:\n{self.story()}") from None

    def until(self, what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Waits until `condition()`; fails when the run ends or time is up before that."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            ended = self.process is None or self.process.poll() is not None
            if ended and not condition():
                raise AssertionError(f"the run ended before {what}:\n{self.story()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {what}:\n{self.story()}")
            time.sleep(0.05)

    def metrics(self) -> list[dict[str, Any]]:
        """The learner's lines so far; a line being written is left out."""
        path = self.directory / "learner" / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def updates(self) -> int:
        """Updates as of the learner's last line."""
        lines = self.metrics()
        return int(lines[-1]["updates"]) if lines else 0

    def pid_of(self, name: str) -> int | None:
        """Process id of a child of the supervisor; None while it has none."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            listed = json.loads((self.directory / "processes.json").read_text())["processes"]
            return next((entry["pid"] for entry in listed if entry["name"] == name), None)
        return None

    def actor_pids(self) -> list[int]:
        """Process ids of the forked actors."""
        host = self.pid_of("actors")
        if host is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(host).children()]
        return []

    def summary(self) -> dict[str, Any]:
        """What the run came to."""
        content: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return content

    def ledger(self) -> list[dict[str, Any]]:
        """Entries of the safety service's ledger."""
        path = self.directory / "safety" / "ledger.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def story(self) -> str:
        """What was printed and logged, the ends of it."""
        logs = sorted((self.directory / "logs").glob("*.log")) if self.directory.exists() else []
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in [self.output, *logs])


@contextlib.contextmanager
def training_run(directory: Path, recipe: str, *arguments: str) -> Iterator[TrainingRun]:
    """A started run with the QUICK settings."""
    with TrainingRun(directory, recipe, *arguments, *(f"--set={item}" for item in QUICK)) as run:
        yield run.start()


def kill(pid: int) -> None:
    """kill -9, and nothing gentler."""
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def open_store(directory: Path) -> Iterator[LmdbStore]:
    """The store of an ended run."""
    config = ReplayConfig()
    store = LmdbStore(directory / "replay", StoreSettings(config.signal_totals))
    try:
        yield store
    finally:
        store.close()
