"""Lets an actor lie from the middle of a training on, and asks whether the gate holds and whether the liar is found.

    python -m benchmarks.poisoned_run [--recipe cartpole-cost] [--env-steps N] [--episodes 1000] [--seed 1]

At half of the steps a second actor host joins the run, as anybody's may: benchmarks/poisoned_actor.py, which reports
each violation as a success. Shown afterwards: how often each release since then violates, by fresh episodes and not by
the gate's own, and how often the weights do that the gate had to judge in the end; which records `temper replay verify`
and the auditor found not to be what happened, and whose they are; which releases learnt from them, by the quarantine,
by the record's lineage and by each release's own. Exit status 1 where a release is shown to be above the limit, an
honest actor is accused, the liar is not found, or the lineages contradict each other. Prints a table and, last, one
line of JSON. Two cores; some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.poisoned_results import JudgedRelease, Poisoned, summary, table
from benchmarks.process_group import BenchmarkError, end_group, uninterrupted
from benchmarks.trained_run import ROOT, TrainedRun
from benchmarks.training_command import about_training, parse_training, run_benchmark, training_parser
from launch.config_file import read_config
from launch.metrics_tail import MetricsTail
from launch.process import ONE_THREAD
from launch.process_list import read_process_list
from launch.run_paths import RunPaths
from policies.registry import Release

PREFIX = "poisoned"
ACTOR = f"{PREFIX}-0000"


class Poisoning:
    """Starts the lying actor once the run has made so many steps. Close it after the run.

    Args:
      paths: of the run.
      env_steps: when.
      log: takes the actor's output.
    """

    def __init__(self, paths: RunPaths, env_steps: int, log: Path) -> None:
        self.began_ns = 0
        self._paths = paths
        self._env_steps = env_steps
        self._log = log
        self._tail = MetricsTail(paths.metrics)
        self._ending = contextlib.ExitStack()

    def look(self, elapsed_s: float) -> None:
        """Looks at how far the run is; to be called now and then while it goes on."""
        if self.began_ns or all((line.get("env_steps") or 0) < self._env_steps for line in self._tail.read()):
            return
        running = read_process_list(self._paths)
        if running is None:
            raise BenchmarkError(f"the run in {self._paths.root} does not say where its services listen")
        job = {
            "config": str(self._paths.config),
            "run_id": running["run_id"],
            "replay_address": running["addresses"]["replay"],
            "policy_address": running["addresses"]["policy"],
            "inference_address": None,
            "trust": str(self._paths.verify_key),
            "actor_prefix": PREFIX,
            "processes": 1,
        }
        self.began_ns = time.time_ns()
        with self._log.open("wb") as output, uninterrupted():
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.poisoned_actor", json.dumps(job)],
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._ending.callback(end_group, process)
        print(f"{elapsed_s:.0f} s: {ACTOR} joins the run", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the actor."""
        self._ending.close()


def measure(options: argparse.Namespace, scratch: Path) -> Poisoned:
    """Trains, with the poisoning, and finds out what became of it. Raises BenchmarkError."""
    run = TrainedRun(scratch)
    with contextlib.closing(Poisoning(run.paths, options.env_steps // 2, scratch / "actor.log")) as poisoning:
        settings = [f"seed={options.seed}", f"audit.fraction={options.audit_fraction}", *options.settings]
        run.train(options.recipe, options.env_steps, settings, poisoning.look)
    if not poisoning.began_ns:
        raise BenchmarkError(f"the run ended before it was seen to make {options.env_steps // 2} steps: give it more")
    releases = run.releases()
    since = [release for release in releases if release.issue_time_ns >= poisoning.began_ns]
    audited = _by_actor(run, "signals.mismatch == 1")
    verification = run.ask("replay", "verify", str(run.paths.root), statuses=(0, 1))[-1]
    mismatched = _by_actor(run, "signals.mismatch == 1")
    why = "re-execution: its records are not what happened"
    root = str(run.paths.root)
    quarantine = run.ask("replay", "quarantine", root, "signals.mismatch == 1", "--why", why)[-1]
    shares = {release.number: _poisoned_share(run, release) for release in releases}
    safety = read_config(run.paths.config).safety
    candidates = run.summary()["candidates"]
    return Poisoned(
        actor=ACTOR,
        limit=safety.violation_rate_max,
        error_rate=safety.error_rate,
        releases_before=len(releases) - len(since),
        releases=[_judged(run, release, shares[release.number], options) for release in since],
        last_weights=run.evaluate(run.last_weights(), options.episodes, options.seed),
        approved=candidates["approved"] or 0,
        rejected=candidates["rejected"] or 0,
        records=_by_actor(run, ""),
        mismatched=mismatched,
        audited=audited,
        verified=_by_actor(run, "signals.verified == 1"),
        reached=_releases_of(quarantine["affected"] or []),
        held_back=_held_back(quarantine["affected"] or []),
        reached_by_lineage=[number for number, share in shares.items() if share > 0],
        traced=_traced(run, verification["mismatches"]),
        quarantined=int(quarantine["quarantine"]["records"]),
        wall_s=run.wall_s,
    )


def _judged(run: TrainedRun, release: Release, share: float, options: argparse.Namespace) -> JudgedRelease:
    found = run.evaluate(run.artifact(release), options.episodes, options.seed)
    print(f"release {release.number}: {found}", file=sys.stderr, flush=True)
    return JudgedRelease(release.number, release.version, share, found)


def _by_actor(run: TrainedRun, filter_text: str) -> dict[str, int]:
    """Records that pass, by the actor that sent them."""
    listed = run.ask(
        *("replay", "list", str(run.paths.root), "--filter", filter_text, "--limit", "0", "--columns", "actor_id")
    )
    return dict(Counter(record["actor_id"] for record in listed))


def _poisoned_share(run: TrainedRun, release: Release) -> float:
    """Of the records that a release learnt from, by its lineage."""
    learnt = run.ask("policy", "lineage", str(run.paths.root), f"release:{release.number}")[-1]
    poisoned = sum(stream["records"] for stream in learnt["streams"] if stream["actor_id"] == ACTOR)
    return float(poisoned / learnt["records"])


def _traced(run: TrainedRun, mismatches: Sequence[dict[str, Any]]) -> list[int]:
    """Releases that learnt from the first record that is not what happened, by the lineage of that record."""
    if not mismatches:
        return []
    first = min(found["position"] for found in mismatches)
    return _releases_of(run.ask("replay", "lineage", str(run.paths.root), str(first))[-1]["policies"])


def _releases_of(policies: Sequence[dict[str, Any]]) -> list[int]:
    return sorted(release["number"] for policy in policies for release in policy["releases"])


def _held_back(policies: Sequence[dict[str, Any]]) -> list[int]:
    """Updates of those that were candidates, and are no release."""
    return sorted(policy["version"] for policy in policies if policy["artifact_digest"] and not policy["releases"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 where the gate did not hold, the liar was not found, or nothing could be measured."""
    parser = training_parser("poisoned_run", __doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the training, and of the evaluations (default 1)")
    parser.add_argument(
        "--audit-fraction", type=float, default=0.05, help="that the auditor re-executes (default 0.05)"
    )
    options = parse_training(parser, arguments)
    return run_benchmark("poisoned_run", lambda: _report(options))


def _report(options: argparse.Namespace) -> int:
    own = {"seed": options.seed, "audit_fraction": options.audit_fraction}
    about = {**about_training("poisoned_run", options), **own}
    with tempfile.TemporaryDirectory(prefix="temper-bench-") as scratch:
        found = measure(options, Path(scratch))
    print(table(found))
    print(json.dumps(summary(found, about)), flush=True)
    return 1 if found.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
