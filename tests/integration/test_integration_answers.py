"""What the safety service has decided arrives, whoever is killed between its ledger and the registry."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.releases import open_registry
from launch.run_paths import RunPaths
from learner.candidate_file import NAME, CandidateFile
from learner.promotion import PromotionDesk
from policies.artifact import artifact_digest
from policies.distribution import PolicyBoard
from policies.registry import PolicyRegistry, Release
from policies.signing import VerifyKey
from policies.trust import TrustPolicy
from safety.client import SafetyClient
from safety.ledger import read_ledger
from safety.testing import balancing_artifact
from tests.integration.training_run import TrainingRun, kill, training_run
from tests.safety.safety_process import RUN, own_process

pytestmark = [pytest.mark.timeout(180), pytest.mark.robustness]

WAIT_S = 60.0
GOOD = balancing_artifact().to_bytes()
LINEAGE = b"l" * 32


@pytest.mark.parametrize(
    ("dies", "decided"),
    [
        (("after", "safety.trials.runner", "_Counter.add", 1), 0),
        (("before", "safety.ledger", "Ledger._write", 1), 0),
        (("after", "safety.docket", "Docket.record", 1), 1),
    ],
    ids=["in the middle of the evaluation", "before the ledger", "before the answer"],
)
def test_a_candidate_is_released_although_the_safety_service_is_killed(
    socket_directory: Path, dies: tuple[str, str, str, int], decided: int
) -> None:
    directory, board = socket_directory / "safety", PolicyBoard()
    kept = CandidateFile(socket_directory / NAME, RUN)
    with contextlib.ExitStack() as stack:
        with own_process(socket_directory, dies=dies) as (service, _):
            registry = PolicyRegistry(
                socket_directory / "policies", TrustPolicy(VerifyKey.load(directory / "verify_key.pem"), RUN)
            )
            client = SafetyClient(f"unix:{socket_directory}/safety.sock")
            desk = PromotionDesk(client, registry, board, RUN, WAIT_S, kept=kept)
            stack.callback(desk.close)
            desk.offer(7, GOOD, LINEAGE)
            service.process.wait(WAIT_S)
        assert len(verdicts(directory)) == decided
        assert not desk.idle
        with own_process(socket_directory):
            assert desk.wait(WAIT_S)
        (result,) = desk.results()
    assert (result.version, result.approved, result.release_number) == (7, True, 1)
    assert board.release_number == 1
    (release,) = registry.releases()
    (verdict,) = verdicts(directory)
    assert (release.verdict_id, release.digest) == (verdict["verdict_id"], artifact_digest(GOOD))
    assert verdict["lineage_digest"] == LINEAGE.hex()
    assert kept.read() is None


def verdicts(directory: Path) -> list[dict[str, Any]]:
    return [dict(entry.fields) for entry in read_ledger(directory) if entry.kind == "verdict"]


@contextlib.contextmanager
def nothing_registered(run: TrainingRun) -> Iterator[None]:
    """Writers of the run's registry wait meanwhile: that is where the learner is between a verdict and its release."""
    policies = run.directory / "policies"
    policies.mkdir()
    with (policies / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def approved(run: TrainingRun) -> list[dict[str, Any]]:
    return [entry for entry in run.ledger() if entry.get("approved")]


def judged(run: TrainingRun) -> list[str]:
    return [entry["artifact_digest"] for entry in run.ledger() if entry["kind"] == "verdict"]


def releases(run: TrainingRun) -> list[Release]:
    registry = open_registry(RunPaths(run.directory))
    return [] if registry is None else registry.releases()


@pytest.mark.parametrize("share", [0.0, 0.6], ids=["for everywhere", "canary"])
def test_a_learner_killed_before_it_took_its_verdict_takes_it_when_it_starts(tmp_path: Path, share: float) -> None:
    settings = ("stop.target_return=inf", f"safety.canary_share={share}", "safety.monitor_poll_s=0.1")
    with training_run(tmp_path / "run", "catch", *(f"--set={each}" for each in settings)) as run:
        run.until("the learner is started", lambda: run.pid_of("learner") is not None)
        with nothing_registered(run):
            run.until("a candidate is approved", lambda: bool(approved(run)))
            first = approved(run)[0]
            learner = run.pid_of("learner")
            assert learner is not None
            kill(learner)
            assert releases(run) == []
            assert (run.directory / NAME).exists()
        run.until("its release is registered", lambda: bool(releases(run)))
        (release,) = releases(run)[:1]
        assert (release.number, release.verdict_id) == (1, first["verdict_id"])
        assert release.canary_share == share
        run.until("it may act everywhere", lambda: releases(run)[0].promoted)
        promotions = [entry["release_number"] for entry in run.ledger() if entry["kind"] == "promotion"]
        assert promotions[:1] == ([1] if share else [])
        known = len(judged(run))
        run.until("the next candidate is judged", lambda: len(judged(run)) > known)
        # None was judged twice.
        assert len(set(judged(run))) == len(judged(run))
