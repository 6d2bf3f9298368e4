"""How long a verdict takes: candidates whose verdict is known beforehand, offered to a safety service over gRPC.

The service is the process that a run has, `temper safety serve`, with the settings of the recipe cartpole; its start is
not on the clock. Candidates come in turns: one that balances near the centre and is to be approved, one that drifts
over the margin, one that lets the pole fall; each turn with weights that differ a little, because an artifact is judged
once only. From the second candidate on all are compared with a release. Prints nothing.

Exceptions: BenchmarkError where the service does not come up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process_group import BenchmarkError, end_group, uninterrupted
from launch.config_file import write_config
from launch.process import ONE_THREAD
from launch.recipes import make_recipe
from protos.safety.v1 import safety_pb2
from safety.client import SafetyClient, SafetyUnavailable
from safety.testing import cartpole_artifact

ROOT = Path(__file__).resolve().parent.parent

CANDIDATES = {
    "balancing": (0.5, 0.5, 3.0, 1.0),
    "drifting": (0.0, 0.0, 1.0, 0.5),
    "falling": (0.0, 0.0, -1.0, -1.0),
}
"""Gains of CartPole controllers, as those of the same names in safety.testing."""

_RUN = "benchmark"
_START_S_MAX = 120.0
_VERDICT_S_MAX = 600.0


@dataclass(frozen=True)
class Timing:
    """One verdict.

    Attributes:
      workers: evaluator processes.
      candidate: which of CANDIDATES.
      outcome: approved, deferred, rejected or void.
      seconds: from the offer to the verdict.
      episodes: of the candidate that it rests on.
    """

    workers: int
    candidate: str
    outcome: str
    seconds: float
    episodes: int


@dataclass(frozen=True)
class TimingRow:
    """All verdicts of one kind: how many, medians, and the range of the seconds."""

    workers: int
    candidate: str
    outcome: str
    verdicts: int
    seconds: float
    seconds_least: float
    seconds_most: float
    episodes: float


def measure_verdicts(turns: int, workers: Sequence[int] = (1, 2)) -> Iterator[Timing]:
    """Every candidate in each of so many turns, at each number of workers. Raises BenchmarkError."""
    for count in workers:
        with tempfile.TemporaryDirectory(prefix="temper-bench-") as name, _service(Path(name), count) as client:
            for turn in range(turns):
                for candidate, gains in CANDIDATES.items():
                    # Too little to matter to what it does.
                    artifact = cartpole_artifact((gains[0] + 1e-4 * turn, *gains[1:])).to_bytes()
                    started = time.monotonic()
                    signed = client.evaluate(artifact, _RUN, turn + 1, _VERDICT_S_MAX)
                    seconds = time.monotonic() - started
                    verdict = safety_pb2.VerdictStatement.FromString(signed.payload)
                    yield Timing(count, candidate, _outcome(verdict), seconds, verdict.episodes)


def timing_rows(timings: Sequence[Timing]) -> list[TimingRow]:
    """The same by workers, candidate and outcome."""
    groups: dict[tuple[int, str, str], list[Timing]] = {}
    for timing in timings:
        groups.setdefault((timing.workers, timing.candidate, timing.outcome), []).append(timing)
    return [
        TimingRow(
            *key,
            verdicts=len(group),
            seconds=statistics.median(each.seconds for each in group),
            seconds_least=min(each.seconds for each in group),
            seconds_most=max(each.seconds for each in group),
            episodes=statistics.median(each.episodes for each in group),
        )
        for key, group in groups.items()
    ]


@contextlib.contextmanager
def _service(directory: Path, workers: int) -> Iterator[SafetyClient]:
    """A safety service that answers, with everything that is its own in `directory`."""
    recipe = make_recipe("cartpole")
    config = dataclasses.replace(recipe, safety=dataclasses.replace(recipe.safety, workers=workers))
    write_config(config, directory / "config.toml")
    address = f"unix:{directory / 'safety.sock'}"
    command = [sys.executable, "-m", "launch.cli", "safety", "serve", "--config", str(directory / "config.toml")]
    command += ["--directory", str(directory / "safety"), "--listen", address, "--run-id", _RUN]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((directory / "log").open("wb"))
        with uninterrupted():
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD, "TEMPER_KEYS": str(directory / "keys")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(end_group, process)
        client = stack.enter_context(SafetyClient(address))
        _wait_until_it_answers(client, process, directory / "log")
        yield client


def _wait_until_it_answers(client: SafetyClient, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S_MAX
    while True:
        try:
            client.trust()
        except SafetyUnavailable as error:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")
                raise BenchmarkError(f"the safety service does not come up: {error}\n{said}") from error
            time.sleep(0.1)
        else:
            return


def _outcome(verdict: safety_pb2.VerdictStatement) -> str:
    """As the verdict says; an approval or rejection where it says no more than that."""
    if verdict.outcome:
        return safety_pb2.Outcome.Name(verdict.outcome).removeprefix("OUTCOME_").lower()
    return "approved" if verdict.approved else "rejected"
