"""A run whose world becomes dangerous, with real processes: the lease ends, the learner goes back, and it goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration import danger_environment
from tests.integration.training_run import TrainingRun, kill, open_store, training_run

pytestmark = pytest.mark.timeout(180)

SETTINGS = (
    "stop.target_return=inf",
    "safety.lease_violation_rate_max=0.2",
    "safety.lease_s=1",
    "safety.monitor_poll_s=0.1",
    "safety.return_margin=10",
    "learner.candidate_interval_s=0.5",
    "learner.rollbacks_max=2",
)


def of_kind(run: TrainingRun, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in run.ledger() if entry["kind"] == kind]


def releases(run: TrainingRun) -> dict[int, str]:
    """Artifact digests by number."""
    return {each["release_number"]: each["artifact_digest"] for each in of_kind(run, "verdict") if each["approved"]}


def goes_on(run: TrainingRun, rollbacks: int, updates: int) -> bool:
    """The learner has rolled back so often, has a lease again, and has made more updates since."""
    last = run.metrics()[-1]
    return (last["rollbacks"], last["lease_refusal"]) == (rollbacks, "") and int(last["updates"]) > updates


def test_a_breach_rolls_the_learner_back_and_a_new_epoch_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = tmp_path / "world"
    world.mkdir()
    shutil.copy(danger_environment.__file__, world / "a_dangerous_world.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(world), *os.environ.get("PYTHONPATH", "").split(os.pathsep))))
    danger = world / danger_environment.DANGER
    recipe, settings = "gym:a_dangerous_world:Danger-v0", [f"--set={each}" for each in SETTINGS]
    with training_run(tmp_path / "run", recipe, *settings) as run:
        learner_log = run.directory / "logs" / "learner.log"
        run.until("there is a release", lambda: bool(releases(run)))
        danger.touch()
        run.until("the lease is breached", lambda: bool(of_kind(run, "lease_breach")))
        danger.unlink()
        (breach,) = of_kind(run, "lease_breach")
        assert (breach["epoch"], breach["limit"]) == (1, 0.2)
        assert 0 < breach["violating"] <= breach["episodes"]
        assert releases(run)[breach["release_number"]] == breach["release_digest"]
        run.until("training goes on in epoch 2", lambda: goes_on(run, 1, run.metrics()[0]["updates"]))
        assert f"to release {breach['release_number']} (update" in learner_log.read_text()
        assert [entry["index"] for entry in of_kind(run, "lease_resumed") if entry["index"] > breach["index"]]

        # A learner that dies remembers that it has rolled back.
        pid, updates = run.pid_of("learner"), run.updates()
        assert pid is not None
        kill(pid)
        run.until("it is restarted", lambda: run.pid_of("learner") not in (pid, None))
        run.until("it goes on", lambda: goes_on(run, 1, updates))
        assert len(of_kind(run, "lease_breach")) == 1

        # A new release, and from then on nothing but danger: no further one comes between, and the run ends.
        known = len(releases(run))
        run.until("there is another release", lambda: len(releases(run)) > known)
        danger.touch()
        assert run.wait(timeout_s=60) == 1, run.story()
        printed = run.output.read_text()
    assert "breached 2 times without a new release between, learner.rollbacks_max is 2" in printed
    epochs = [entry["epoch"] for entry in of_kind(run, "lease_breach")]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) >= 3
    with open_store(run.directory) as store:
        totals = store.counters().signal_totals
    for epoch in epochs[:2]:
        assert totals[f"lease.{epoch}.violating_episodes"] > 0
    tagged = sum(total for name, total in totals.items() if name.endswith(".episodes"))
    # A few had more than one release acting in them, and are nobody's.
    assert 0.95 * totals["episodes"] <= tagged <= totals["episodes"]
