"""Trains CartPole with Temper and with Sample Factory on the same cores, in turns, and compares speed and time.

    python -m benchmarks.closed_loop [--rounds 3] [--cores 0 1] [--peers documented tuned vectorised]

Temper is the command that a user types, `temper train cartpole`, in a fresh run directory: all of its services, its
durable replay and the safety gate with its evaluations are on the clock. Sample Factory is trained in an environment
of its own (made on the first call) with the settings of peer_settings.py; its evaluations are off the clock. Both
start cold, one after the other, and "seconds to target" is from the start of the process to the moment when a policy
is shown to have the target's mean return over 100 episodes. The peer has three ways to get there, and the first counts
(see peer_sample_factory.py); Temper has one, an approved candidate. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.peer_installation import install_peer
from benchmarks.peer_settings import VARIANTS, VERSION, PeerVariant
from benchmarks.process_group import BenchmarkError, run_to_end
from benchmarks.results import Measurement, summary, table
from launch.metrics_tail import Metrics, MetricsTail
from safety.keys.directory import PLACE_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
TARGET_RETURN = 475.0
OVERTIME_S = 300.0
"""What a run may take beyond its training time: to close, and for the peer to evaluate its checkpoints."""


class CandidateWatch:
    """Follows a run's metrics: when training began and was last seen, and when the gate approved the target's return.

    Seconds are since the start of the process.
    """

    def __init__(self, run_directory: Path) -> None:
        self._tail = MetricsTail(run_directory / "learner" / "metrics.jsonl")
        self.first: tuple[float, Metrics] | None = None
        self.last: Metrics | None = None
        self.reached_s: float | None = None

    def look(self, elapsed_s: float) -> None:
        """Takes in what has been written since the last look."""
        for line in self._tail.read():
            if line.get("env_steps"):
                self.first, self.last = self.first or (elapsed_s, line), line
            candidate = line.get("candidate") or {}
            if (
                self.reached_s is None
                and candidate.get("approved")
                and (candidate.get("return_mean") or 0.0) >= TARGET_RETURN
            ):
                self.reached_s = elapsed_s


def measure_temper(directory: Path, seconds_max: float) -> Measurement:
    """Trains once with Temper.

    Args:
      directory: empty; takes the run directory and the log.
      seconds_max: training is ended after this time.

    Raises:
      BenchmarkError: the command failed, or its summary is missing or without steps.
    """
    run_directory = directory / "run"
    watch = CandidateWatch(run_directory)
    finished = run_to_end(
        [
            *(sys.executable, "-m", "launch.cli", "train", "cartpole"),
            *("--run-dir", str(run_directory)),
            *("--max-seconds", f"{seconds_max:g}"),
        ],
        log=directory / "log",
        directory=ROOT,
        seconds_max=seconds_max + OVERTIME_S,
        # The run's private keys go when the run goes.
        environment={**os.environ, PLACE_VARIABLE: str(directory / "keys")},
        watch=watch.look,
    )
    result = _read_json(run_directory / "summary.json")
    if not result.get("env_steps"):
        raise BenchmarkError(f"{run_directory / 'summary.json'} tells of no environment steps: {result}")
    evaluation = result.get("evaluation") or {}
    reached_s, reached_by = watch.reached_s, "approved candidate"
    if reached_s is None and (evaluation.get("return_mean") or 0.0) >= TARGET_RETURN:
        reached_s, reached_by = finished.wall_s, "release, at exit"  # it was not seen in time: charge the whole run
    return Measurement(
        env_steps=result["env_steps"],
        env_steps_per_s=_training_speed(watch) or result["env_steps_per_s"],
        env_steps_per_s_with_start_up=result["env_steps"] / finished.wall_s,
        start_up_s=watch.first[0] if watch.first is not None else finished.wall_s,
        seconds_to_target=reached_s,
        reached_by=None if reached_s is None else reached_by,
        moments={} if reached_s is None else {reached_by: reached_s, "exit": finished.wall_s},
    )


def measure_peer(python: Path, variant: PeerVariant, directory: Path, seconds_max: float) -> Measurement:
    """Trains once with Sample Factory.

    Args:
      python: of its environment.
      variant: its settings.
      directory: its temporary files; kept over the rounds, since Sample Factory keeps a cache there.
      seconds_max: training is ended after this time.

    Raises:
      BenchmarkError: it failed.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix="run-") as name:
        report = Path(name) / "report.json"
        # Nothing of this environment's may come before what is installed in the peer's own.
        inherited = {variable: value for variable, value in os.environ.items() if variable != "PYTHONPATH"}
        run_to_end(
            [
                *(str(python), str(Path(__file__).with_name("peer_sample_factory.py"))),
                *("--run-dir", str(Path(name) / "train")),
                *("--report", str(report)),
                *("--started", "{started}"),
                *("--lanes", str(variant.lanes)),
                *("--target", f"{TARGET_RETURN:g}"),
                *("--seconds-max", f"{seconds_max:g}"),
                *("--", *variant.arguments),
            ],
            log=Path(name) / "log",
            directory=Path(name),
            seconds_max=seconds_max + OVERTIME_S,
            environment={**inherited, "TMPDIR": str(directory)},
        )
        fields = _read_json(report)
    return Measurement(**{field: fields[field] for field in Measurement.__dataclass_fields__})


def compare(options: argparse.Namespace, scratch: Path) -> tuple[dict[str, list[Measurement]], str]:
    """Runs all rounds, the systems one after the other within each; returns the measurements and our own name."""
    ours = "temper"
    variants = [VARIANTS[name] for name in options.peers]
    python = install_peer(options.venv_dir.expanduser().absolute(), options.torch)
    measured: dict[str, list[Measurement]] = {ours: []}
    for number in range(options.rounds):
        (scratch / f"temper-{number}").mkdir()
        measured[ours].append(measure_temper(scratch / f"temper-{number}", options.seconds_max))
        _say(f"round {number + 1}: {ours}: {measured[ours][-1]}")
        for variant in variants:
            directory = scratch / variant.name
            directory.mkdir(exist_ok=True)
            name = f"sample-factory {variant.name}"
            measured.setdefault(name, []).append(measure_peer(python, variant, directory, options.seconds_max))
            _say(f"round {number + 1}: {name}: {measured[name][-1]}")
    return measured, ours


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 with one message where something could not be measured."""
    options = _parser().parse_args(arguments)
    if options.cores:
        os.sched_setaffinity(0, options.cores)  # every process that is measured inherits it
    signal.signal(signal.SIGTERM, _exit)
    about = {
        "benchmark": "closed_loop",
        "target_return": TARGET_RETURN,
        "cores": sorted(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
        "sample_factory": {
            "version": VERSION,
            "variants": {
                name: {"meaning": VARIANTS[name].meaning, "lanes": VARIANTS[name].lanes}
                | {"arguments": list(VARIANTS[name].arguments)}
                for name in options.peers
            },
        },
    }
    try:
        with tempfile.TemporaryDirectory(prefix="temper-bench-") as scratch:
            measured, ours = compare(options, Path(scratch))
    except BenchmarkError as error:
        print(f"closed_loop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(measured, ours))
    print(json.dumps(summary(measured, ours, about)), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="closed_loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=_at_least_one, default=3, help="runs of each system (default 3)")
    parser.add_argument("--cores", type=int, nargs="+", help="the cores that both are held to (default: all)")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=sorted(VARIANTS),
        default=list(VARIANTS),
        help="ways to run the peer (all)",
    )
    parser.add_argument("--seconds-max", type=float, default=300.0, help="end a training after this time (300 s)")
    parser.add_argument(
        "--venv-dir",
        type=Path,
        default=Path("~/.cache/temper-benchmarks") / f"sample-factory-{VERSION}",
        help="where the peer's environment is kept",
    )
    parser.add_argument(
        "--torch", default="torch", help='pip requirement for its torch, such as "torch==2.13.0"; a CPU build is enough'
    )
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _training_speed(watch: CandidateWatch) -> float | None:
    """Steps per second between the first and the last line of metrics, by the learner's own clock."""
    if watch.first is None or watch.last is None or watch.last["time_s"] <= watch.first[1]["time_s"]:
        return None
    steps = watch.last["env_steps"] - watch.first[1]["env_steps"]
    return float(steps / (watch.last["time_s"] - watch.first[1]["time_s"]))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchmarkError(f"the run left no {path.name}") from None
    return value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _exit(number: int, frame: object) -> NoReturn:
    """On SIGTERM: leave by an exception, so that what was started is ended and scratch files are removed."""
    del frame
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
