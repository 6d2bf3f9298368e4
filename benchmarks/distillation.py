"""How much of a teacher's return a smaller student keeps, on fresh episodes of its own.

    python -m benchmarks.distillation [--recipe cartpole] [--student-size 16x16] [--seeds 3] [--episodes 500]
        [--env-steps 1000000] [--set KEY=VALUE ...]

For each seed: a teacher is trained with `temper train` until its recipe's target, and from it two students with `temper
distill`: on_policy, which learns on its own steps, and offline, which learns from the records that the teacher's run
has left. All three are what their gates released; each is evaluated on the same fresh episodes, which no training and
no gate has seen. Prints a table and, last, one line of JSON. Two cores; about two minutes a seed for cartpole.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.process_group import BenchmarkError
from benchmarks.trained_run import Evaluated, TrainedRun
from policies.artifact import Artifact, artifact_digest

TEACHER = "teacher"
STUDENTS = ("on_policy", "offline")


class Released(NamedTuple):
    """What a run released, and what it came to."""

    parameters: int
    wall_s: float
    evaluated: Evaluated


def measure_seed(seed: int, options: argparse.Namespace, scratch: Path) -> dict[str, Released]:
    """Trains a teacher and its students with one seed, and evaluates them. Raises BenchmarkError."""
    runs = {}
    for arm in (TEACHER, *STUDENTS):
        (scratch / arm).mkdir()
        runs[arm] = TrainedRun(scratch / arm)
        settings = [f"seed={seed}", *options.settings]
        if arm == TEACHER:
            runs[arm].train(options.recipe, options.env_steps, settings)
        else:
            runs[arm].distill(
                runs[TEACHER].paths.root, options.student_size, options.env_steps, settings, offline=arm == "offline"
            )
        print(f"seed {seed}, {arm}: {runs[arm].wall_s:.0f} s", file=sys.stderr, flush=True)
    return {arm: _released(run, options.episodes, seed) for arm, run in runs.items()}


def shares(results: Sequence[Mapping[str, Released]], arm: str) -> list[float]:
    """Share of the teacher's return that the student of each seed keeps."""
    return [each[arm].evaluated.return_mean / each[TEACHER].evaluated.return_mean for each in results]


def table(results: Sequence[Mapping[str, Released]]) -> str:
    """Markdown: a line for each seed and policy."""
    lines = ["| seed | policy | parameters | return | kept | wall (s) |", "|---|---|---|---|---|---|"]
    for seed, result in enumerate(results):
        for arm, each in result.items():
            kept = each.evaluated.return_mean / result[TEACHER].evaluated.return_mean
            lines.append(
                f"| {seed} | {arm} | {each.parameters:,} | {each.evaluated.return_mean:.1f} | {kept:.1%} | "
                f"{each.wall_s:.0f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", default="cartpole")
    parser.add_argument("--student-size", default="16x16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--env-steps", type=int, default=1_000_000)
    parser.add_argument("--set", nargs="*", default=[], dest="settings", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    results = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="temper-distillation-") as scratch:
            results.append(measure_seed(seed, options, Path(scratch)))
    print(table(results))
    kept = {arm: shares(results, arm) for arm in STUDENTS}
    print(json.dumps({"options": vars(options), "share_kept": kept}))
    return 0


def _released(run: TrainedRun, episodes: int, seed: int) -> Released:
    releases = run.releases()
    if not releases:
        raise BenchmarkError(f"the run in {run.paths.root} released nothing")
    data = run.artifact(releases[-1])
    artifact = Artifact.from_bytes(data, artifact_digest(data))
    parameters = sum(array.size for array in artifact.parameters.values())
    return Released(parameters, run.wall_s, run.evaluate(data, episodes, seed))


if __name__ == "__main__":
    raise SystemExit(main())
