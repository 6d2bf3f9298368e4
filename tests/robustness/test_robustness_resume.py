"""kill -9 of a real learner: in lockstep the run ends in the bits of the unbroken one; else all counts add up.

The long campaign, with more kills and updates, is `python -m tests.robustness.resumed_runs`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.training_run import training_run
from tests.robustness.resumed_runs import (
    LOCKSTEP,
    MIXED,
    batches_taken,
    check_continuous,
    check_equal,
    run_to_the_end,
)

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(300)]

UPDATES = 240
KILL_AT = (25, 90, 170)


def test_a_learner_killed_at_three_updates_ends_in_the_bits_of_one_that_never_was(tmp_path: Path) -> None:
    unbroken = run_to_the_end(tmp_path / "unbroken", LOCKSTEP, UPDATES)
    broken = run_to_the_end(tmp_path / "broken", LOCKSTEP, UPDATES, KILL_AT)
    assert broken.progress.updates >= UPDATES
    check_equal(unbroken, broken)
    check_continuous(broken)
    log = (tmp_path / "broken" / "logs" / "learner.log").read_text()
    assert log.count("killed by SIGKILL") == len(KILL_AT)
    # Kills between a checkpoint and the first batch after it have nothing to be made again; not all three are.
    assert "were made again" in log
    assert "cannot be made again" not in log


def test_with_several_actors_and_replayed_records_every_count_goes_on(tmp_path: Path) -> None:
    outcome = run_to_the_end(tmp_path / "run", MIXED, UPDATES, (40, 120))
    check_continuous(outcome)
    assert outcome.progress.updates == batches_taken(tmp_path / "run") == outcome.progress.batches
    assert len(outcome.progress.consumed) == sum(
        counts.records for counts in outcome.progress.provenance.streams.values()
    )


def test_a_run_that_cannot_write_its_checkpoints_ends_and_says_why(tmp_path: Path) -> None:
    with training_run(tmp_path / "run", "catch", "--max-seconds=100", "--set=stop.target_return=inf") as run:
        place = tmp_path / "run" / "learner" / "checkpoints"
        run.until("there is a checkpoint", lambda: place.is_dir() and any(place.glob("[0-9]*")))
        shutil.rmtree(place)
        place.write_text("in the way\n")
        assert run.wait(timeout_s=60) == 1, run.story()
        log = (tmp_path / "run" / "logs" / "learner.log").read_text()
        # Whatever a thread of the storage library's has said before, this is the last word, and said once.
        assert log.count("could not be written") == 1, log
        ended = [line for line in log.splitlines() if not line.startswith("[supervisor]")]
        assert ended[-1].startswith(f"temper: a checkpoint in {place} could not be written"), log
        assert f"a checkpoint in {place} could not be written" in run.output.read_text()
