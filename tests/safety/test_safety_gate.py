"""The gate with a scripted evaluator: verdicts, their order in the ledger, restarts, and tampering."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec
from policies.artifact import artifact_digest
from policies.durable import replace_file
from policies.signing import VERDICT_TYPE, SigningKey, sign
from policies.trust import ExpiredStatement, NotApproved, TrustPolicy
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from replay.settings import SettingError
from safety.canonical_json import canonical_json
from safety.config import SafetyConfig
from safety.custody import CustodyError
from safety.evaluation import EpisodeOutcomes
from safety.evaluator import EvaluationFailed, EvaluatorClosed
from safety.gate import Gate, GateBusy, GateClosed, OfferRefused
from safety.history import VERDICT
from safety.key_history import OPENED
from safety.ledger import LedgerError, LedgerInUse, read_ledger
from safety.suite import criteria_digest, draw_seeds, seed_key, seed_manifest_digest, suite_digest
from safety.verdicts import Offer, statement_in

RUN = "run-1"
CONFIG = SafetyConfig(queue_max=2)
ENVIRONMENT = EnvironmentConfig(name="cartpole")
SPEC = EnvironmentSpec("cartpole", "1", bytes(32), (4,), "<f4", 2, 500)
GOOD, BETTER, UNSAFE, WORSE, BROKEN = b"good", b"better", b"unsafe", b"worse", b"broken"


def outcomes(mean_return: float, violating: int = 0) -> EpisodeOutcomes:
    costs = np.zeros(CONFIG.episodes)
    costs[:violating] = 3.0
    returns = np.full(CONFIG.episodes, mean_return)
    return EpisodeOutcomes(returns, costs, np.full(CONFIG.episodes, 500, np.int64))


class ScriptedEvaluator:
    """Stands in for the evaluator process: what each artifact comes to is known."""

    environment = SPEC
    script: ClassVar[Mapping[bytes, EpisodeOutcomes]] = {
        GOOD: outcomes(480.0, violating=1),
        BETTER: outcomes(500.0),
        UNSAFE: outcomes(500.0, violating=20),
        WORSE: outcomes(300.0),
    }

    def __init__(self, environment: EnvironmentConfig, config: SafetyConfig, log_path: Path) -> None:
        self.asked: list[tuple[bytes, tuple[int, ...]]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.failing: set[bytes] = {BROKEN}
        self.closed = False
        self.answers = dict(self.script)

    def start(self) -> None:
        pass

    def evaluate(
        self, artifact: bytes, digest: bytes, seeds: Sequence[int], on_progress: Callable[[int], None]
    ) -> EpisodeOutcomes:
        assert artifact_digest(artifact) == digest
        self.asked.append((artifact, tuple(seeds)))
        on_progress(len(seeds) // 2)
        self.may_answer.wait(30)
        if self.closed:
            raise EvaluatorClosed("closed")
        if artifact in self.failing:
            raise EvaluationFailed("the evaluator process exited with status 3")
        return self.answers[artifact]

    def close(self) -> None:
        self.closed = True
        self.may_answer.set()

    def release(self) -> None:
        pass


class Bench:
    """Gates over one directory, with a clock that tests move."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ns = 1_700_000_000_000_000_000
        self.gate = self.open()

    def open(self, config: SafetyConfig = CONFIG, run_id: str = RUN) -> Gate:
        self.gate = Gate(config, ENVIRONMENT, self.directory, run_id, lambda: self.now_ns)
        self.gate.start()
        return self.gate

    def restart(self) -> None:
        self.gate.close()
        self.open()

    @property
    def evaluator(self) -> ScriptedEvaluator:
        evaluator = self.gate._evaluator
        assert isinstance(evaluator, ScriptedEvaluator)
        return evaluator

    def offer(self, artifact: bytes, version: int = 1) -> safety_pb2.VerdictStatement:
        signed = self.gate.submit(offer(artifact, version), artifact, lambda ended, total: None).result(30)
        return statement(signed)


def offer(artifact: bytes, version: int = 1) -> Offer:
    return Offer(RUN, version, artifact_digest(artifact), len(artifact))


def statement(signed: common_pb2.SignedStatement) -> safety_pb2.VerdictStatement:
    return safety_pb2.VerdictStatement.FromString(signed.payload)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("safety.gate.Evaluator", ScriptedEvaluator)
    bench = Bench(tmp_path / "safety")
    try:
        yield bench
    finally:
        bench.gate.close()


def test_an_approval_says_everything_and_is_trusted(bench: Bench) -> None:
    signed = bench.gate.submit(offer(GOOD, 17), GOOD, lambda ended, total: None).result(30)
    trust = TrustPolicy(bench.gate.verify_key, RUN, lambda: bench.now_ns)
    verdict = trust.check_release(signed, artifact_digest(GOOD))
    seeds = draw_seeds(seed_key(bench.gate.custody.secret, RUN, 1), CONFIG.episodes)
    assert (verdict.run_id, verdict.version, verdict.release_number, verdict.reason) == (RUN, 17, 1, "")
    assert verdict.criteria_digest == criteria_digest(CONFIG)
    assert verdict.suite_digest == suite_digest(SPEC, CONFIG)
    assert verdict.seed_manifest_digest == seed_manifest_digest(seeds)
    assert bench.evaluator.asked == [(GOOD, seeds)]
    assert (verdict.episodes, verdict.violating_episodes, verdict.return_mean) == (100, 1, 480.0)
    assert [result.name for result in verdict.criteria] == ["violation_rate", "return_non_inferiority"]
    assert verdict.incumbent_digest == b""
    assert verdict.expiry_time_ns - verdict.issue_time_ns == 30 * 86_400 * 10**9
    opened, entry = read_ledger(bench.directory)
    assert (opened.kind, entry.kind) == (OPENED, VERDICT)
    assert verdict.previous_entry_digest == opened.digest
    assert statement_in(entry.fields) == signed
    assert entry.fields["verdict_id"] == verdict.verdict_id
    bench.now_ns = verdict.expiry_time_ns
    with pytest.raises(ExpiredStatement):
        trust.check_release(signed, artifact_digest(GOOD))


@pytest.mark.parametrize(
    ("artifact", "reason"),
    [
        (UNSAFE, "violation_rate: 20 of 100"),
        (WORSE, "return_non_inferiority: mean return 300 against 480"),
        (BROKEN, "exited with status 3"),
    ],
)
def test_a_rejection_says_why_and_releases_nothing(bench: Bench, artifact: bytes, reason: str) -> None:
    bench.offer(GOOD)
    verdict = bench.offer(artifact)
    assert not verdict.approved
    assert reason in verdict.reason
    assert verdict.release_number == 0
    assert reason in read_ledger(bench.directory)[-1].fields["reason"]
    assert bench.gate.counts == (1, 1)
    with pytest.raises(NotApproved):
        TrustPolicy(bench.gate.verify_key, RUN, lambda: bench.now_ns).check_release(
            bench.gate.newest_verdicts(1)[0], artifact_digest(artifact)
        )
    # The incumbent stays, and release numbers have no gaps.
    verdict = bench.offer(BETTER)
    assert verdict.release_number == 2
    assert verdict.incumbent_digest == artifact_digest(GOOD)


def test_candidate_and_incumbent_meet_the_same_seeds_and_evaluations_never_share_any(bench: Bench) -> None:
    for artifact in (GOOD, BETTER, UNSAFE):
        bench.offer(artifact)
    first, second, incumbent, third, other = bench.evaluator.asked
    assert [asked[0] for asked in bench.evaluator.asked] == [GOOD, BETTER, GOOD, UNSAFE, BETTER]
    assert second[1] == incumbent[1]
    assert third[1] == other[1]
    assert not set(first[1]) & set(second[1])
    assert not set(second[1]) & set(third[1])


def test_a_judged_artifact_keeps_its_verdict(bench: Bench) -> None:
    rejected, approved = bench.offer(UNSAFE), bench.offer(GOOD)
    asked = len(bench.evaluator.asked)
    bench.restart()
    assert bench.offer(UNSAFE, version=99) == rejected
    assert bench.offer(GOOD) == approved
    assert len(bench.evaluator.asked) == 0 < asked
    assert len(read_ledger(bench.directory)) == 3


def test_what_could_not_be_judged_or_has_expired_may_be_offered_again(bench: Bench) -> None:
    assert not bench.offer(BROKEN).approved
    bench.evaluator.failing.clear()
    bench.evaluator.answers[BROKEN] = outcomes(480.0)
    verdict = bench.offer(BROKEN)
    assert verdict.approved
    bench.now_ns = verdict.expiry_time_ns
    assert bench.offer(BROKEN).release_number == 2


def test_a_verdict_by_other_criteria_does_not_stand(bench: Bench) -> None:
    assert bench.offer(GOOD).approved
    bench.gate.close()
    bench.open(dataclasses.replace(CONFIG, violation_rate_max=0.04))
    verdict = bench.offer(GOOD)
    assert not verdict.approved
    assert "1 of 100 episodes had a cost" in verdict.reason
    assert bench.offer(GOOD) == verdict


def test_nobody_else_can_write_in_its_directory_nor_read_its_keys(bench: Bench, tmp_path: Path) -> None:
    mask = os.umask(0)
    keys = tmp_path / "above" / "keys"
    try:
        Gate(CONFIG, ENVIRONMENT, tmp_path / "generous", RUN, keys=keys).close()
    finally:
        os.umask(mask)
    for path in (tmp_path / "generous", *(tmp_path / "generous").rglob("*")):
        assert path.stat().st_mode & 0o022 == 0, path
    for path in (keys.parent, keys, *keys.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_failing_incumbent_means_rejection(bench: Bench) -> None:
    bench.offer(GOOD)
    bench.evaluator.failing.add(GOOD)
    verdict = bench.offer(BETTER)
    assert not verdict.approved
    assert "incumbent cannot be compared with" in verdict.reason
    assert verdict.episodes == 100


def test_an_oversize_candidate_is_rejected_unread(bench: Bench) -> None:
    huge = dataclasses.replace(offer(GOOD), total_bytes=CONFIG.artifact_bytes_max + 1)
    verdict = statement(bench.gate.submit(huge, b"", lambda ended, total: None).result(30))
    assert not verdict.approved
    assert "limit is 67108864" in verdict.reason
    assert bench.evaluator.asked == []
    # Its digest was never verified, so nothing is held against the artifact that really has it.
    assert bench.offer(GOOD).approved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_id": "run-2"}, "serves run 'run-1' only"),
        ({"digest": b"short"}, "32"),
        ({"digest": bytes(32)}, "nothing was evaluated"),
        ({"total_bytes": 3}, "nothing was evaluated"),
    ],
)
def test_senseless_offers_leave_no_trace(bench: Bench, change: dict[str, object], message: str) -> None:
    with pytest.raises(OfferRefused, match=message):
        bench.gate.submit(dataclasses.replace(offer(GOOD), **change), GOOD, lambda ended, total: None)  # type: ignore[arg-type]
    assert len(read_ledger(bench.directory)) == 1


def test_the_queue_is_bounded_and_keeps_order(bench: Bench) -> None:
    bench.evaluator.may_answer.clear()
    accepted = [bench.gate.submit(offer(one), one, lambda ended, total: None) for one in (GOOD, BETTER, UNSAFE)]
    with pytest.raises(GateBusy, match="2 candidates are waiting"):
        bench.gate.submit(offer(WORSE), WORSE, lambda ended, total: None)
    bench.evaluator.may_answer.set()
    verdicts = [statement(future.result(30)) for future in accepted]
    assert [verdict.release_number for verdict in verdicts] == [1, 2, 0]
    assert bench.offer(WORSE).approved is False


def test_stopping_decides_nothing(bench: Bench) -> None:
    bench.evaluator.may_answer.clear()
    running, waiting = (bench.gate.submit(offer(one), one, lambda ended, total: None) for one in (GOOD, BETTER))
    while not bench.evaluator.asked:
        pass
    bench.gate.close()
    with pytest.raises(GateClosed):
        running.result(30)
    assert waiting.cancelled()
    with pytest.raises(GateClosed):
        bench.gate.submit(offer(GOOD), GOOD, lambda ended, total: None)
    assert len(read_ledger(bench.directory)) == 1


def test_progress_covers_candidate_and_incumbent(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []
    bench.gate.submit(offer(GOOD), GOOD, lambda *progress: seen.append(progress)).result(30)
    bench.gate.submit(offer(BETTER), BETTER, lambda *progress: seen.append(progress)).result(30)
    assert seen == [(50, 100), (50, 200), (150, 200)]


def test_a_restart_goes_on_from_the_ledger(bench: Bench) -> None:
    bench.offer(GOOD)
    bench.offer(UNSAFE)
    key = bench.gate.verify_key.raw
    bench.restart()
    assert bench.gate.verify_key.raw == key
    assert bench.gate.counts == (1, 1)
    verdict = bench.offer(BETTER)
    assert (verdict.release_number, verdict.incumbent_digest) == (2, artifact_digest(GOOD))
    seeds = draw_seeds(seed_key(bench.gate.custody.secret, RUN, 3), CONFIG.episodes)
    assert verdict.seed_manifest_digest == seed_manifest_digest(seeds)
    assert [statement(one).release_number for one in bench.gate.newest_verdicts(0)] == [2, 0, 1]
    assert [statement(one).release_number for one in bench.gate.newest_verdicts(2)] == [2, 0]


def test_verdict_ids_are_unique(bench: Bench) -> None:
    ids = [bench.offer(artifact).verdict_id for artifact in (GOOD, BROKEN, BROKEN, UNSAFE)]
    assert len(set(ids)) == 4


def test_a_verdict_that_is_not_in_the_ledger_is_not_returned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safety.ledger.os.write", fail)
    with pytest.raises(LedgerError, match="No space left"):
        bench.offer(GOOD)
    monkeypatch.undo()
    monkeypatch.setattr("safety.gate.Evaluator", ScriptedEvaluator)
    with pytest.raises(LedgerError):
        bench.offer(BETTER)
    bench.restart()
    assert bench.gate.counts == (0, 0)
    assert bench.offer(GOOD).release_number == 1


def test_two_gates_cannot_share_a_directory(bench: Bench) -> None:
    with pytest.raises(LedgerInUse):
        Gate(CONFIG, ENVIRONMENT, bench.directory, RUN)


def test_a_directory_belongs_to_one_run(bench: Bench) -> None:
    bench.gate.close()
    with pytest.raises(CustodyError, match="belongs to"):
        Gate(CONFIG, ENVIRONMENT, bench.directory, "run-2")


def test_without_the_incumbents_artifact_it_does_not_start(bench: Bench) -> None:
    bench.offer(GOOD)
    bench.gate.close()
    path = bench.directory / "incumbents" / artifact_digest(GOOD).hex()
    path.write_bytes(b"altered")
    with pytest.raises(CustodyError, match="damaged"):
        bench.open()
    path.write_bytes(GOOD)
    bench.open()


def test_a_candidate_that_never_became_a_release_is_forgotten(bench: Bench) -> None:
    bench.offer(GOOD)
    bench.gate.custody.keep_incumbent(b"crashed before its verdict")
    bench.restart()
    assert [path.name for path in (bench.directory / "incumbents").iterdir()] == [artifact_digest(GOOD).hex()]


@pytest.mark.parametrize(
    "change",
    [{"violation_rate_max": 0.02}, {"episodes": 1}, {"confidence": 1.5}, {"action_selection": "wild"}],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Gate(dataclasses.replace(CONFIG, **change), ENVIRONMENT, tmp_path, RUN)  # type: ignore[arg-type]


def rewrite(directory: Path, index: int, change: Callable[[dict[str, object]], None]) -> None:
    """Changes an entry as somebody would who can write every file and compute every digest, but has no key."""
    trees = [json.loads(line) for line in (directory / "ledger.jsonl").read_bytes().splitlines()]
    change(trees[index])
    previous = bytes(32).hex()
    for tree in trees:
        tree.pop("digest")
        tree["previous"] = previous
        previous = tree["digest"] = hashlib.sha256(canonical_json(tree)).hexdigest()
    (directory / "ledger.jsonl").write_bytes(b"".join(canonical_json(tree) + b"\n" for tree in trees))
    head = {"index": len(trees) - 1, "digest": previous}
    replace_file(directory / "ledger.head", canonical_json(head) + b"\n", 0o600)


def forge(tree: dict[str, object]) -> None:
    verdict = statement(statement_in(tree))
    verdict.approved, verdict.release_number = True, 1
    signed = sign(SigningKey.generate(), VERDICT_TYPE, verdict.SerializeToString(deterministic=True))
    tree["statement"] = base64.b64encode(signed.SerializeToString()).decode()


@pytest.mark.parametrize(
    ("index", "change"),
    [
        (2, lambda tree: tree.update(approved=True, reason="", release_number=2)),
        (2, lambda tree: tree.update(statement="")),
        (2, lambda tree: tree.update(statement="AAAA")),
        (2, lambda tree: tree.pop("statement")),
        (2, lambda tree: tree.update(note="added")),
        (2, lambda tree: tree.update(kind="something else")),
        (2, forge),
        # Every verdict names the entry before it, so what stands before a verdict cannot change unnoticed.
        (1, lambda tree: tree.update(time_ns=1)),
    ],
)
def test_a_rewritten_ledger_is_detected_by_its_signatures(
    bench: Bench, index: int, change: Callable[[dict[str, object]], None]
) -> None:
    for artifact in (GOOD, UNSAFE, BETTER):
        bench.offer(artifact)
    bench.gate.close()
    rewrite(bench.directory, index, lambda tree: None)
    bench.restart()
    bench.gate.close()
    rewrite(bench.directory, index, change)
    with pytest.raises(LedgerError, match=r"entry [0-9]"):
        bench.open()


def test_a_rejection_without_an_evaluation_has_its_own_seeds(bench: Bench) -> None:
    first, second = bench.offer(BROKEN), bench.offer(BROKEN)
    assert first.seed_manifest_digest != second.seed_manifest_digest
    assert (first.episodes, first.return_mean, len(first.criteria)) == (0, 0.0, 0)
