"""Runs whose learner is killed again and again, and what they came to. Not a test.

    python -m tests.robustness.resumed_runs DIRECTORY --kills 10 --seed 0 [--updates 3000]

is the long campaign: an unbroken run and a broken one in lockstep, which must end in the same bits, and a broken one of
several actors and replayed records, whose counts must add up. It prints one line for each, and ends with status 1 where
something does not hold.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from actors.environments.catalog import make_vector
from launch.config_file import read_config
from learner.checkpoint import Checkpointer
from learner.draw_journal import DIRECTORY as DRAWS_DIRECTORY
from learner.draw_journal import DrawJournal
from learner.progress import Progress
from learner.train_state import initial_state
from policies.spec import PolicySpec
from tests.integration.training_run import TrainingRun, kill, open_store

LANES, T, B = 8, 8, 8
SETTINGS = (
    f"actor.lanes={LANES}",
    f"actor.unroll_length={T}",
    f"learner.batch_size={B}",
    "learner.snapshot_updates=2",
    "learner.checkpoint_interval_s=1",
    "learner.candidate_return_min=inf",
    "network.hidden_sizes=[16]",
    "replay.fresh_unconsumed_max=64",
    "safety.episodes=100",
    "audit.fraction=0",
    "stop.target_return=inf",
)
LOCKSTEP = ("learner.lockstep=true",)
MIXED = ("actor.processes=2", "learner.uniform_fraction=0.5")


@dataclass(frozen=True)
class Outcome:
    """What an ended run came to: its last checkpoint, and every record of its log."""

    leaves: list[NDArray[np.generic]]
    progress: Progress
    payloads: list[bytes]
    steps: list[int]
    """Environment steps of each record."""
    versions: list[tuple[str, int, bytes]]
    """Of each policy that acted its lane, its version and its digest, in the order of the log."""


def run_to_the_end(
    directory: Path, settings: tuple[str, ...], updates: int, kill_at: tuple[int, ...] = (), timeout_s: float = 120.0
) -> Outcome:
    """Trains for about so many updates; kills the learner once it has taken each of these numbers of batches."""
    sets = [f"--set={item}" for item in SETTINGS + settings]
    with TrainingRun(directory, "catch", f"--max-env-steps={updates * B * T}", *sets) as run:
        run.start()
        for batches in kill_at:
            run.until(f"batch {batches}", lambda least=batches: batches_taken(directory) >= least, timeout_s)  # type: ignore[misc]
            pid = run.pid_of("learner")
            if pid is None:
                raise AssertionError(f"there is no learner:\n{run.story()}")
            kill(pid)
            run.until("another learner", lambda before=pid: run.pid_of("learner") not in {before, None}, timeout_s)  # type: ignore[misc]
        status = run.wait(timeout_s)
        if status != 0:
            raise AssertionError(run.story())
    return outcome_of(directory)


def batches_taken(directory: Path) -> int:
    """Batches that the learner of a run has taken so far, those included that are to be taken again."""
    place = directory / DRAWS_DIRECTORY
    files = sorted(place.glob("*.draws")) if place.is_dir() else []
    if not files:
        return 0
    try:
        first = int(files[-1].stem.partition("-")[0])
        return first + len(DrawJournal(place).batches(first, 0))
    except FileNotFoundError:
        return 0


def outcome_of(directory: Path) -> Outcome:
    """Reads what an ended run has left."""
    config = read_config(directory / "config.toml")
    environment = make_vector(config.environment, 1)
    spec = PolicySpec(config.network, environment.spec.observation, environment.spec.action)
    environment.close()
    checkpoints = Checkpointer(directory / "learner" / "checkpoints", config.learner.checkpoints_kept)
    restored = checkpoints.restore(initial_state(spec, config.learner, config.seed))
    checkpoints.close()
    if restored is None:
        raise AssertionError(f"{directory} holds no checkpoint")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(restored[0])]
    payloads: list[bytes] = []
    steps: list[int] = []
    versions: list[tuple[str, int, bytes]] = []
    with open_store(directory) as store:
        for start in range(0, store.counters().next_position, 512):
            for record in store.read(range(start, min(start + 512, store.counters().next_position))):
                payloads.append(bytes(record.payload))
                steps.append(int(record.header.signals["steps"]))
                lane = f"{store.origin(record.origin_id).run_id} {record.header.lane}"
                versions += [(lane, span.version, span.digest) for span in record.header.policies]
    return Outcome(leaves, restored[1], payloads, steps, versions)


def check_equal(one: Outcome, other: Outcome) -> None:
    """Both have the same records, and came to the same bits and the same counts by them."""
    learnt = one.progress.fresh[0]
    assert one.payloads[:learnt] == other.payloads[:learnt]
    for expected, actual in zip(one.leaves, other.leaves, strict=True):
        np.testing.assert_array_equal(expected, actual)
    for name in ("updates", "batches", "fresh", "env_steps", "lag_sum", "lag_count", "consumed", "recent_returns"):
        assert getattr(one.progress, name) == getattr(other.progress, name), name


def check_continuous(outcome: Outcome) -> None:
    """Every fresh record was learnt from once, and no version stands for two policies, or was followed by an older."""
    progress = outcome.progress
    learnt = progress.fresh[0]
    assert progress.env_steps == sum(outcome.steps[:learnt])
    assert set(range(learnt)) <= set(progress.consumed.positions())
    assert progress.undone_records == 0
    digests: dict[int, bytes] = {}
    newest: dict[str, int] = {}
    for lane, version, digest in outcome.versions:
        assert digests.setdefault(version, digest) == digest, f"version {version} is two policies"
        assert version >= newest.get(lane, 0), f"an actor went back from version {newest[lane]} to {version}"
        newest[lane] = version


def main() -> int:
    """The campaign; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=3000)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    kill_at = tuple(sorted(generator.sample(range(1, given.updates), given.kills)))
    given.directory.mkdir(parents=True, exist_ok=True)
    try:
        unbroken = run_to_the_end(given.directory / "unbroken", LOCKSTEP, given.updates, timeout_s=1200)
        broken = run_to_the_end(given.directory / "broken", LOCKSTEP, given.updates, kill_at, timeout_s=1200)
        check_equal(unbroken, broken)
        print(
            f"lockstep: {given.kills} kills at batches {kill_at}: the same bits after {broken.progress.updates} updates"
        )
        mixed = run_to_the_end(given.directory / "mixed", MIXED, given.updates, kill_at, timeout_s=1200)
        check_continuous(mixed)
        print(f"mixed: {given.kills} kills: {mixed.progress.fresh[0]} fresh records, each learnt from once")
    except AssertionError as error:
        print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
