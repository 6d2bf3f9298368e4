"""A training run that a benchmark makes with the public command, and what it left behind.

Keys and evaluation secrets go to a directory of the benchmark's own, so that nothing remains of it elsewhere.

Exceptions: BenchmarkError where a command fails.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process_group import BenchmarkError, run_to_end
from launch.config_file import read_config
from launch.process import ONE_THREAD
from launch.releases import open_registry
from launch.run_paths import RunPaths
from policies.artifact import artifact_digest
from policies.registry import Release

ROOT = Path(__file__).resolve().parent.parent

TRAIN_S_MAX = 3600.0
_COMMAND_S_MAX = 900.0


@dataclass(frozen=True)
class Evaluated:
    """What independent episodes of a policy came to.

    Attributes:
      episodes: how many.
      violating: those of them with any cost.
      return_mean: undiscounted.
    """

    episodes: int
    violating: int
    return_mean: float

    @property
    def violation_rate(self) -> float:
        """Share of the episodes that had a cost."""
        return self.violating / self.episodes


class TrainedRun:
    """A run in a directory of its own.

    Args:
      scratch: an empty directory; takes the run directory, keys, logs and artifacts.
    """

    def __init__(self, scratch: Path) -> None:
        self.paths = RunPaths(scratch / "run")
        self.wall_s = 0.0
        self._scratch = scratch
        self._environment = {**os.environ, "TEMPER_KEYS": str(scratch / "keys")}

    def train(
        self, recipe: str, env_steps: int, settings: Sequence[str], watch: Callable[[float], None] | None = None
    ) -> None:
        """Trains to the end. `watch` is called while it lasts, as `run_to_end` says. Raises BenchmarkError."""
        self._begin(["train", recipe, "--max-env-steps", str(env_steps)], settings, watch)

    def distill(self, teacher: Path, size: str, env_steps: int, settings: Sequence[str], *, offline: bool) -> None:
        """Trains a student of the run in `teacher` to the end. Raises BenchmarkError."""
        command = ["distill", str(teacher), "--student-size", size, "--max-env-steps", str(env_steps)]
        self._begin([*command, "--offline"] if offline else command, settings)

    def _begin(
        self, arguments: Sequence[str], settings: Sequence[str], watch: Callable[[float], None] | None = None
    ) -> None:
        self.wall_s = run_to_end(
            [*_temper(), *arguments, "--run-dir", str(self.paths.root), "--set", *settings],
            log=self._scratch / "log",
            directory=ROOT,
            seconds_max=TRAIN_S_MAX,
            environment=self._environment,
            watch=watch,
        ).wall_s

    def summary(self) -> dict[str, Any]:
        """Its summary.json."""
        value: dict[str, Any] = json.loads(self.paths.summary.read_text(encoding="utf-8"))
        return value

    def releases(self) -> list[Release]:
        """Its releases, verified, ascending."""
        registry = open_registry(self.paths)
        return [] if registry is None else registry.releases()

    def artifact(self, release: Release) -> bytes:
        """The artifact of a release."""
        registry = open_registry(self.paths)
        if registry is None:
            raise BenchmarkError(f"{self.paths.policies} has gone")
        return registry.artifact(release.digest)

    def last_weights(self) -> bytes:
        """The weights that training ended with, as an artifact, whatever the gate said of them."""
        out = self._scratch / "last.safetensors"
        self._run([sys.executable, "-m", "benchmarks.last_weights", str(self.paths.root), str(out)])
        return out.read_bytes()

    def evaluate(self, artifact: bytes, episodes: int, seed: int) -> Evaluated:
        """Runs a policy on fresh episodes in the run's environment, in a process of its own.

        Args:
          artifact: its bytes.
          episodes: how many.
          seed: from which their seeds are drawn.
        """
        name = artifact_digest(artifact).hex()
        path, out = self._scratch / f"{name}.safetensors", self._scratch / f"{name}.json"
        path.write_bytes(artifact)
        environment = dataclasses.asdict(read_config(self.paths.config).environment)
        given = {"artifact": str(path), "environment": environment, "episodes": episodes, "seed": seed, "out": str(out)}
        self._run([sys.executable, "-m", "benchmarks.policy_evaluation", json.dumps(given)], ONE_THREAD)
        found = json.loads(out.read_text(encoding="utf-8"))
        return evaluated(found["returns"], found["costs"])

    def ask(self, *arguments: str, statuses: Sequence[int] = (0,)) -> list[Any]:
        """The JSON objects that a command of `temper` prints, one a line.

        Args:
          *arguments: the command's; --json is added.
          statuses: exit statuses that are no failure.
        """
        done = subprocess.run(
            [*_temper(), *arguments, "--json"],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S_MAX,
            check=False,
        )
        if done.returncode not in statuses:
            raise BenchmarkError(f"temper {' '.join(arguments)} exited with status {done.returncode}\n{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def _run(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        run_to_end(
            command,
            log=self._scratch / "command.log",
            directory=ROOT,
            seconds_max=_COMMAND_S_MAX,
            environment={**self._environment, **(variables or {})},
        )


def evaluated(returns: Sequence[float], costs: Sequence[float]) -> Evaluated:
    """What these episodes came to."""
    return Evaluated(len(returns), sum(cost > 0 for cost in costs), sum(returns) / len(returns))


def _temper() -> list[str]:
    return [sys.executable, "-m", "launch.cli"]
