"""Trains a recipe without and with the gate, seed by seed, and evaluates what was released by episodes of its own.

    python -m benchmarks.gated_training [--recipe cartpole-cost] [--seeds 5] [--env-steps N] [--episodes 1000]

Temper has no way round the gate, so the run without it is one with limits that every candidate passes that does not
violate in nearly all episodes; and what is evaluated of it are the weights that training ended with, whatever its gate
said, because that is what a system that pushes every weight hands out. The run with the gate has the recipe's own
limits; of it the newest release is evaluated, and beside it its last weights. Both train with `temper train`, one after
the other, in the same environment with the same seed and for as many steps; they are not the same training, because
which weights act when depends on timing. All policies of a seed are evaluated on the same fresh episodes, in processes
of their own. Prints a table and, last, one line of JSON. Two cores; some ten minutes for cartpole-cost, and up to 40
for minatar-cost-space-invaders.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gated_results import GATED, GATED_LAST, UNGATED, SeedResult, summary, table
from benchmarks.trained_run import TrainedRun
from benchmarks.training_command import about_training, at_least_one, parse_training, run_benchmark, training_parser
from policies.artifact import artifact_digest

NO_LIMITS = (
    "safety.violation_rate_max=0.999",
    "safety.risk_margin=0.999",
    "safety.return_margin=1e9",
    "safety.return_margin_absolute=1e9",
)
"""As far as the settings go. A candidate that violates in all of its episodes is rejected even so."""


def measure_seed(seed: int, options: argparse.Namespace, scratch: Path) -> SeedResult:
    """Trains twice with one seed, and evaluates. Raises BenchmarkError."""
    runs = {}
    for arm, settings in ((UNGATED, NO_LIMITS), (GATED, ())):
        (scratch / arm).mkdir()
        runs[arm] = TrainedRun(scratch / arm)
        runs[arm].train(options.recipe, options.env_steps, [f"seed={seed}", *options.settings, *settings])
        _say(f"seed {seed}, {arm}: trained in {runs[arm].wall_s:.0f} s")
    ungated, gated = runs[UNGATED], runs[GATED]
    last, releases = ungated.last_weights(), gated.releases()
    candidates = gated.summary()["candidates"]
    result = SeedResult(
        seed,
        {
            UNGATED: ungated.evaluate(last, options.episodes, seed),
            GATED: gated.evaluate(gated.artifact(releases[-1]), options.episodes, seed) if releases else None,
            GATED_LAST: gated.evaluate(gated.last_weights(), options.episodes, seed),
        },
        approved=candidates["approved"] or 0,
        rejected=candidates["rejected"] or 0,
        last_let_through=artifact_digest(last) in {release.digest for release in ungated.releases()},
        wall_s=(ungated.wall_s, gated.wall_s),
    )
    _say(f"seed {seed}: {result.evaluated}")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 with one message where something could not be measured."""
    parser = training_parser("gated_training", __doc__)
    parser.add_argument("--seeds", type=at_least_one, default=5, help="how many, from 1 on (default 5)")
    options = parse_training(parser, arguments)
    return run_benchmark("gated_training", lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    about = {**about_training("gated_training", options), "without_the_gate": NO_LIMITS}
    results = []
    for seed in range(1, options.seeds + 1):
        # What a seed leaves on disk is removed before the next.
        with tempfile.TemporaryDirectory(prefix="temper-bench-") as scratch:
            results.append(measure_seed(seed, options, Path(scratch)))
    print(table(results))
    print(json.dumps(summary(results, about)), flush=True)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
