"""The gate where an evaluation gets no verdict, and where a verdict had none: what each uses up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from safety.begun_evaluations import BROKEN_OFF, EVALUATION
from safety.gate import GateClosed
from safety.history import VERDICT
from safety.keys.history import OPENED
from safety.ledger import read_ledger
from safety.statistics.lifetime import spent_level
from safety.suites.manifest import seed_key
from tests.safety.scripted_pool import GOOD, UNSAFE, ScriptedPool
from tests.safety.test_safety_gate import CONFIG, RUN, Bench, offer, statement


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    bench = Bench(tmp_path / "safety")
    try:
        yield bench
    finally:
        bench.gate.close()


def test_what_was_broken_off_is_used_up_and_never_taken_up_again(bench: Bench) -> None:
    bench.pool.may_answer.clear()
    running = bench.gate.submit(offer(GOOD), GOOD, lambda ended, total: None)
    while not bench.pool.asked:
        pass
    seen = set(bench.pool.asked[0].seeds)
    bench.restart()
    with pytest.raises(GateClosed):
        running.result(30)
    key = seed_key(bench.gate.custody.secret, RUN, 1)
    entry = read_ledger(bench.directory)[-1]
    assert (entry.kind, dict(entry.fields)) == (BROKEN_OFF, {"evaluation": 1, "seed_key": key.hex()})
    # It is entered once, however often the service is started.
    bench.restart()
    verdict = bench.offer(GOOD)
    assert [entry.kind for entry in read_ledger(bench.directory)] == [
        OPENED,
        EVALUATION,
        BROKEN_OFF,
        EVALUATION,
        VERDICT,
    ]
    assert verdict.seed_key == seed_key(bench.gate.custody.secret, RUN, 2)
    assert not seen & {seed for job in bench.pool.asked for seed in job.seeds}
    assert (verdict.lifetime_index, verdict.error_level) == (2, spent_level(0.05, 2))
    assert (bench.gate.counts, bench.gate.docket.broken_off) == ((1, 0, 0, 0), 1)


def test_an_error_of_ours_uses_an_evaluation_up_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_over(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("safety.gate.run_trial", fall_over)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        bench.offer(GOOD)
    monkeypatch.undo()
    verdict = bench.offer(GOOD)
    assert (verdict.lifetime_index, verdict.seed_key) == (2, seed_key(bench.gate.custody.secret, RUN, 2))
    assert bench.gate.docket.broken_off == 1


def test_what_is_not_tested_takes_a_number_and_no_error_level(bench: Bench) -> None:
    huge = dataclasses.replace(offer(UNSAFE), total_bytes=CONFIG.artifact_bytes_max + 1)
    verdict = statement(bench.gate.submit(huge, b"", lambda ended, total: None).result(30))
    approved = bench.offer(GOOD)
    assert [entry.kind for entry in read_ledger(bench.directory)] == [OPENED, VERDICT, EVALUATION, VERDICT]
    assert [each.seed_key for each in (verdict, approved)] == [
        seed_key(bench.gate.custody.secret, RUN, number) for number in (1, 2)
    ]
    assert approved.lifetime_index == 1
    bench.restart()
