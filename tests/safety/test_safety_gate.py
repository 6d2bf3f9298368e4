"""The gate with scripted evaluators: verdicts, their order in the ledger, restarts, and tampering."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.config import EnvironmentConfig
from policies.artifact import artifact_digest
from policies.durable import replace_file
from policies.signing import VERDICT_TYPE, SigningKey, sign
from policies.trust import ExpiredStatement, NotApproved, TrustPolicy
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2
from replay.settings import SettingError
from safety.begun_evaluations import EVALUATION
from safety.canonical_json import canonical_json
from safety.config import SafetyConfig
from safety.criteria import rate_upper_bound
from safety.gate import Gate, GateBusy, GateClosed, OfferRefused
from safety.history import VERDICT
from safety.keys.custody import CustodyError
from safety.keys.history import OPENED
from safety.ledger import LedgerError, LedgerInUse, read_ledger
from safety.statistics.lifetime import spent_level
from safety.suites.manifest import criteria_digest, draw_seeds, seed_key, seed_manifest_digest, suite_digest
from safety.suites.spec import suite_from_settings
from safety.verdicts import Offer, statement_in
from tests.safety.scripted_pool import BETTER, BROKEN, GOOD, SPEC, UNSAFE, WORSE, ScriptedPool

RUN = "run-1"
CONFIG = SafetyConfig(queue_max=2)
ENVIRONMENT = EnvironmentConfig(name="cartpole")
SUITE = suite_from_settings(CONFIG, ENVIRONMENT)
SLICE = "held-out"


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
    def pool(self) -> ScriptedPool:
        pool = self.gate._pool
        assert isinstance(pool, ScriptedPool)
        return pool

    @property
    def asked(self) -> list[bytes]:
        """Whose episodes were run, in order, each once."""
        return [artifact for artifact, _ in itertools.groupby(job.artifact for job in self.pool.asked)]

    def offer(self, artifact: bytes, version: int = 1) -> safety_pb2.VerdictStatement:
        signed = self.gate.submit(offer(artifact, version), artifact, lambda ended, total: None).result(30)
        return statement(signed)


def offer(artifact: bytes, version: int = 1) -> Offer:
    return Offer(RUN, version, artifact_digest(artifact), len(artifact))


def statement(signed: common_pb2.SignedStatement) -> safety_pb2.VerdictStatement:
    return safety_pb2.VerdictStatement.FromString(signed.payload)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    bench = Bench(tmp_path / "safety")
    try:
        yield bench
    finally:
        bench.gate.close()


def test_an_approval_says_everything_and_is_trusted(bench: Bench) -> None:
    lineage = bytes(range(32))
    asked = dataclasses.replace(offer(GOOD, 17), lineage_digest=lineage)
    signed = bench.gate.submit(asked, GOOD, lambda ended, total: None).result(30)
    trust = TrustPolicy(bench.gate.verify_key, RUN, lambda: bench.now_ns)
    verdict = trust.check_release(signed, artifact_digest(GOOD))
    (counts,) = verdict.slices
    seeds = draw_seeds(seed_key(bench.gate.custody.secret, RUN, 1), SLICE, counts.episodes)
    assert (verdict.run_id, verdict.version, verdict.release_number, verdict.reason) == (RUN, 17, 1, "")
    assert verdict.outcome == safety_pb2.OUTCOME_APPROVED
    assert verdict.criteria_digest == criteria_digest(SUITE)
    assert verdict.suite_digest == suite_digest(SUITE, {SLICE: SPEC})
    assert verdict.seed_manifest_digest == seed_manifest_digest({SLICE: seeds})
    assert sum((tuple(job.seeds) for job in bench.pool.asked), ()) == seeds
    assert (counts.name, counts.severe, counts.incumbent_episodes) == (SLICE, 1, 0)
    assert (verdict.episodes, verdict.violating_episodes, verdict.return_mean) == (counts.episodes, 1, 480.0)
    assert [(result.name, result.slice) for result in verdict.criteria] == [
        ("detector", SLICE),
        ("sequential_violation_rate", SLICE),
    ]
    assert 0.0 < rate_upper_bound(verdict.criteria) < CONFIG.violation_rate_max
    assert (verdict.lifetime_index, verdict.error_level) == (1, spent_level(0.05, 1))
    assert (verdict.detector.severe, verdict.detector.severe_found, verdict.detector.clean) == (60, 60, 20)
    assert (verdict.incumbent_digest, verdict.lineage_digest, verdict.canary_share) == (b"", lineage, 0.0)
    assert verdict.expiry_time_ns - verdict.issue_time_ns == 30 * 86_400 * 10**9
    opened, begun, entry = read_ledger(bench.directory)
    assert (opened.kind, begun.kind, entry.kind) == (OPENED, EVALUATION, VERDICT)
    assert verdict.previous_entry_digest == begun.digest
    assert (begun.fields["evaluation"], begun.fields["version"]) == (1, 17)
    assert begun.fields["artifact_digest"] == verdict.artifact_digest.hex()
    assert (begun.fields["lifetime_index"], begun.fields["error_level"]) == (1, verdict.error_level)
    assert begun.fields["criteria_digest"] == verdict.criteria_digest.hex()
    assert begun.fields["suite_digest"] == verdict.suite_digest.hex()
    assert begun.fields["next_seed_commitment"] == verdict.next_seed_commitment.hex()
    assert statement_in(entry.fields) == signed
    assert entry.fields["verdict_id"] == verdict.verdict_id
    bench.now_ns = verdict.expiry_time_ns
    with pytest.raises(ExpiredStatement):
        trust.check_release(signed, artifact_digest(GOOD))


@pytest.mark.parametrize(
    ("artifact", "reason", "counts"),
    [
        (UNSAFE, "episodes had a severe event", (1, 0, 1, 0)),
        (WORSE, "capability_non_inferiority on held-out: mean capability 300 against 480", (1, 1, 0, 0)),
        (BROKEN, "exited with status 3", (1, 0, 1, 0)),
    ],
)
def test_a_rejection_says_why_and_releases_nothing(
    bench: Bench, artifact: bytes, reason: str, counts: tuple[int, int, int, int]
) -> None:
    bench.offer(GOOD)
    verdict = bench.offer(artifact)
    assert not verdict.approved
    assert reason in verdict.reason
    assert verdict.release_number == 0
    assert reason in read_ledger(bench.directory)[-1].fields["reason"]
    assert bench.gate.counts == counts
    with pytest.raises(NotApproved):
        TrustPolicy(bench.gate.verify_key, RUN, lambda: bench.now_ns).check_release(
            bench.gate.newest_verdicts(1)[0], artifact_digest(artifact)
        )
    # The incumbent stays, and release numbers have no gaps.
    verdict = bench.offer(BETTER)
    assert verdict.release_number == 2
    assert verdict.incumbent_digest == artifact_digest(GOOD)


def test_candidate_and_incumbent_meet_the_same_seeds_and_evaluations_never_share_any(bench: Bench) -> None:
    seeds: list[dict[bytes, list[int]]] = []
    for artifact in (GOOD, BETTER, UNSAFE):
        bench.pool.asked.clear()
        bench.offer(artifact)
        seeds.append(
            {
                job.artifact: [
                    seed for same in bench.pool.asked if same.artifact == job.artifact for seed in same.seeds
                ]
                for job in bench.pool.asked
            }
        )
    assert [list(each) for each in seeds] == [[GOOD], [BETTER, GOOD], [UNSAFE, BETTER]]
    assert seeds[1][BETTER] == seeds[1][GOOD]
    assert seeds[2][UNSAFE] == seeds[2][BETTER]
    assert not set(seeds[0][GOOD]) & set(seeds[1][GOOD])
    assert not set(seeds[1][GOOD]) & set(seeds[2][UNSAFE])
    plants = [{plant.seed for plant in job.plants} for job in bench.pool.planted]
    assert not plants[0] & plants[1]


def test_a_judged_artifact_keeps_its_verdict(bench: Bench) -> None:
    rejected, approved, deferred = bench.offer(UNSAFE), bench.offer(GOOD), bench.offer(WORSE)
    assert deferred.outcome == safety_pb2.OUTCOME_DEFERRED
    bench.restart()
    assert bench.offer(UNSAFE, version=99) == rejected
    assert bench.offer(GOOD) == approved
    assert bench.offer(WORSE) == deferred
    assert (bench.pool.asked, bench.pool.planted) == ([], [])
    assert len(read_ledger(bench.directory)) == 7


def test_what_could_not_be_judged_or_has_expired_may_be_offered_again(bench: Bench) -> None:
    assert not bench.offer(BROKEN).approved
    bench.pool.failing.clear()
    verdict = bench.offer(BROKEN)
    assert verdict.approved
    assert verdict.lifetime_index == 2
    bench.now_ns = verdict.expiry_time_ns
    assert bench.offer(BROKEN).release_number == 2


def test_a_verdict_by_other_criteria_does_not_stand(bench: Bench) -> None:
    assert bench.offer(GOOD).approved
    bench.gate.close()
    bench.open(dataclasses.replace(CONFIG, violation_rate_max=0.03))
    bench.pool.policies[GOOD] = bench.pool.policies[UNSAFE]
    verdict = bench.offer(GOOD)
    assert not verdict.approved
    assert bench.offer(GOOD) == verdict
    # The candidates of the run are counted on, whatever the criteria are by now.
    assert verdict.lifetime_index == 2
    bench.restart()


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
    bench.pool.failing[GOOD] = 64
    verdict = bench.offer(BETTER)
    assert not verdict.approved
    assert "incumbent cannot be compared with" in verdict.reason
    # What both had done by then stands in the verdict, and counts as a test.
    assert (verdict.episodes, verdict.slices[0].incumbent_episodes, verdict.lifetime_index) == (64, 64, 2)


def test_an_oversize_candidate_is_rejected_unread(bench: Bench) -> None:
    huge = dataclasses.replace(offer(GOOD), total_bytes=CONFIG.artifact_bytes_max + 1)
    verdict = statement(bench.gate.submit(huge, b"", lambda ended, total: None).result(30))
    assert not verdict.approved
    assert "limit is 67108864" in verdict.reason
    assert (bench.pool.asked, bench.pool.planted) == ([], [])
    # Nothing was run, so it uses up nothing.
    assert (verdict.lifetime_index, verdict.error_level, verdict.evidence_digest) == (0, 0.0, b"")
    # Its digest was never verified, so nothing is held against the artifact that really has it.
    assert bench.offer(GOOD).approved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_id": "run-2"}, "serves run 'run-1' only"),
        ({"digest": b"short"}, "32"),
        ({"digest": bytes(32)}, "nothing was evaluated"),
        ({"total_bytes": 3}, "nothing was evaluated"),
        ({"lineage_digest": b"short"}, "lineage_digest has 5 bytes"),
    ],
)
def test_senseless_offers_leave_no_trace(bench: Bench, change: dict[str, object], message: str) -> None:
    with pytest.raises(OfferRefused, match=message):
        bench.gate.submit(dataclasses.replace(offer(GOOD), **change), GOOD, lambda ended, total: None)  # type: ignore[arg-type]
    assert len(read_ledger(bench.directory)) == 1


def test_the_queue_is_bounded_and_keeps_order(bench: Bench) -> None:
    bench.pool.may_answer.clear()
    accepted = [bench.gate.submit(offer(one), one, lambda ended, total: None) for one in (GOOD, BETTER, UNSAFE)]
    with pytest.raises(GateBusy, match="2 candidates are waiting"):
        bench.gate.submit(offer(WORSE), WORSE, lambda ended, total: None)
    bench.pool.may_answer.set()
    verdicts = [statement(future.result(30)) for future in accepted]
    assert [verdict.release_number for verdict in verdicts] == [1, 2, 0]
    assert bench.offer(WORSE).approved is False


def test_stopping_decides_nothing(bench: Bench) -> None:
    bench.pool.may_answer.clear()
    running, waiting = (bench.gate.submit(offer(one), one, lambda ended, total: None) for one in (GOOD, BETTER))
    while not bench.pool.asked:
        pass
    bench.gate.close()
    with pytest.raises(GateClosed):
        running.result(30)
    assert waiting.cancelled()
    with pytest.raises(GateClosed):
        bench.gate.submit(offer(GOOD), GOOD, lambda ended, total: None)
    assert [entry.kind for entry in read_ledger(bench.directory)] == [OPENED, EVALUATION]


def test_progress_covers_plants_candidate_and_incumbent_and_ends_with_what_was_run(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []
    verdict = statement(bench.gate.submit(offer(GOOD), GOOD, lambda *progress: seen.append(progress)).result(30))
    assert (seen[0], seen[-1]) == ((80, 380), (80 + verdict.episodes,) * 2)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    verdict = statement(bench.gate.submit(offer(BETTER), BETTER, lambda *progress: seen.append(progress)).result(30))
    assert seen[0][1] == 80 + 2 * 300
    assert seen[-1] == (80 + 2 * verdict.episodes,) * 2


def test_a_restart_goes_on_from_the_ledger(bench: Bench) -> None:
    bench.offer(GOOD)
    bench.offer(UNSAFE)
    key = bench.gate.verify_key.raw
    bench.restart()
    assert bench.gate.verify_key.raw == key
    assert bench.gate.counts == (1, 0, 1, 0)
    verdict = bench.offer(BETTER)
    assert (verdict.release_number, verdict.incumbent_digest) == (2, artifact_digest(GOOD))
    seeds = draw_seeds(seed_key(bench.gate.custody.secret, RUN, 3), SLICE, verdict.episodes)
    assert verdict.seed_manifest_digest == seed_manifest_digest({SLICE: seeds})
    assert verdict.lifetime_index == 3
    assert [statement(one).release_number for one in bench.gate.newest_verdicts(0)] == [2, 0, 1]
    assert [statement(one).release_number for one in bench.gate.newest_verdicts(2)] == [2, 0]


def test_verdict_ids_are_unique(bench: Bench) -> None:
    ids = [bench.offer(artifact).verdict_id for artifact in (GOOD, BROKEN, BROKEN, UNSAFE)]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(("kind", "tested"), [(EVALUATION, 0), (VERDICT, 1)])
def test_a_verdict_that_is_not_in_the_ledger_is_not_returned(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str, tested: int
) -> None:
    write = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if f'"kind":"{kind}"'.encode() in data:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("safety.ledger.os.write", fail)
    with pytest.raises(LedgerError, match="No space left"):
        bench.offer(GOOD)
    # Nothing is run that was not entered before.
    assert len(bench.pool.planted) == tested
    monkeypatch.undo()
    monkeypatch.setattr("safety.gate.EvaluatorPool", ScriptedPool)
    with pytest.raises(LedgerError):
        bench.offer(BETTER)
    bench.restart()
    assert bench.gate.counts == (0, 0, 0, 0)
    verdict = bench.offer(GOOD)
    assert (verdict.release_number, verdict.lifetime_index) == (1, 1 + tested)


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
    [
        {"violation_rate_max": 0.01},
        {"episodes": 1},
        {"error_rate": 1.5},
        {"suite": "/nowhere.toml"},
        {"action_selection": "wild"},
    ],
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
        (4, lambda tree: tree.update(approved=True, reason="", release_number=2)),
        (4, lambda tree: tree.update(statement="")),
        (4, lambda tree: tree.update(statement="AAAA")),
        (4, lambda tree: tree.pop("statement")),
        (4, lambda tree: tree.update(note="added")),
        (4, lambda tree: tree.update(kind="something else")),
        (4, forge),
        # Every verdict names the entry before it, so what stands before a verdict cannot change unnoticed.
        (2, lambda tree: tree.update(time_ns=1)),
        (3, lambda tree: tree.update(time_ns=1)),
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


def test_a_rejection_without_an_evaluation_has_its_own_key(bench: Bench) -> None:
    first, second = bench.offer(BROKEN), bench.offer(BROKEN)
    assert first.seed_key != second.seed_key
    assert (first.episodes, first.return_mean, len(first.criteria)) == (0, 0.0, 0)
    # Its plants were run on its account.
    assert (first.lifetime_index, second.lifetime_index) == (1, 2)
