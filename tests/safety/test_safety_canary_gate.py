"""While a canary is undecided, the gate judges nobody else, and compares with the release before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from policies.artifact import artifact_digest
from safety.gate import GateBusy
from tests.safety.made_up_trials import MadeUpPolicy
from tests.safety.scripted_pool import BETTER, GOOD, UNSAFE, ScriptedPool
from tests.safety.test_safety_gate import (
    CONFIG,
    RUN,
    Bench,
    offer,
    statement,
)

BEST = b"best"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    monkeypatch.setattr(ScriptedPool, "script", {**ScriptedPool.script, BEST: MadeUpPolicy(505.0)})
    bench = Bench(tmp_path / "safety")
    bench.gate.close()
    bench.open(dataclasses.replace(CONFIG, canary_share=0.25))
    return bench


def test_one_canary_at_a_time(bench: Bench) -> None:
    try:
        canary = bench.offer(GOOD)
        assert (canary.release_number, canary.canary_share) == (1, 0.25)
        with pytest.raises(GateBusy, match="release 1 is a canary: wait until it is decided"):
            bench.offer(BETTER)
        # Who lost the answer gets it once more.
        assert bench.offer(GOOD) == canary
        bench.gate.docket.promote(1, episodes=60, violating_episodes=0, why="w")
        verdict = bench.offer(BETTER)
        assert (verdict.release_number, verdict.incumbent_digest) == (2, artifact_digest(GOOD))
        bench.gate.revoke(RUN, 2, "canary: it did harm")
        # What is not approved is no canary, and keeps nobody waiting.
        refused = bench.offer(UNSAFE)
        assert (refused.approved, refused.canary_share, refused.incumbent_digest) == (False, 0.0, artifact_digest(GOOD))
        assert bench.offer(BEST).release_number == 3
    finally:
        bench.gate.close()


def test_who_is_in_the_queue_already_is_not_judged_either(bench: Bench) -> None:
    """Both were submitted before the first became a canary."""
    try:
        bench.pool.may_answer.clear()
        first, second = (
            bench.gate.submit(offer(artifact), artifact, lambda ended, total: None) for artifact in (GOOD, BETTER)
        )
        bench.pool.may_answer.set()
        assert statement(first.result(30)).release_number == 1
        with pytest.raises(GateBusy, match="nothing was decided here"):
            second.result(30)
        assert bench.gate.counts == (1, 0, 0, 0)
    finally:
        bench.gate.close()
