"""The safety service killed for real, in a process of its own, and started again on what it left."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from policies.artifact import artifact_digest
from policies.signing import VerifyKey
from policies.trust import ReplayedStatement, TrustPolicy
from protos.safety.v1 import safety_pb2
from safety.audit import LedgerAudit, audit_ledger
from safety.client import SafetyClient, SafetyUnavailable
from safety.keys.directory import default_place
from safety.ledger import Ledger, LedgerInUse, read_ledger
from safety.suites.manifest import draw_seeds, seed_commitment, seed_key, seed_manifest_digest
from safety.testing import balancing_artifact, cartpole_artifact, drifting_artifact
from tests.safety.safety_process import RUN, own_process

GOOD, BETTER = balancing_artifact().to_bytes(), cartpole_artifact((0.1, 0.2, 3.0, 1.0)).to_bytes()

pytestmark = pytest.mark.robustness


def evaluate(client: SafetyClient, artifact: bytes) -> safety_pb2.VerdictStatement:
    return safety_pb2.VerdictStatement.FromString(client.evaluate(artifact, RUN, 1, 60.0).payload)


def test_killed_between_verdicts_it_goes_on_where_it_was(socket_directory: Path) -> None:
    directory = socket_directory / "safety"
    with own_process(socket_directory) as (service, client):
        first = evaluate(client, GOOD)
        rejected = evaluate(client, drifting_artifact().to_bytes())
        lease = client.renew_lease(RUN)
        with pytest.raises(LedgerInUse):
            Ledger(directory)
        (worker,) = psutil.Process(service.process.pid).children()
        service.kill()
        with pytest.raises(SafetyUnavailable):
            client.trust()
        worker.wait(10)
    # As if the crash had come in the middle of the next entry.
    with (directory / "ledger.jsonl").open("ab") as file:
        file.write(b'{"approved":true,"artifact_dig')
    trust = TrustPolicy(VerifyKey.load(directory / "verify_key.pem"), RUN)
    number = trust.check_lease(lease).lease_number
    with own_process(socket_directory) as (_, client):
        assert client.trust().public_key == trust.verify_key.raw
        newer = client.renew_lease(RUN)
        assert trust.check_lease(newer, number).lease_number > number
        with pytest.raises(ReplayedStatement):
            trust.check_lease(lease, trust.check_lease(newer).lease_number)
        second = evaluate(client, BETTER)
        assert evaluate(client, drifting_artifact().to_bytes()) == rejected
    assert (first.release_number, second.release_number) == (1, 2)
    assert second.incumbent_digest == artifact_digest(GOOD)
    secret = (default_place(RUN) / "evaluation_secret").read_bytes()
    assert second.seed_manifest_digest == seed_manifest_digest(
        {"held-out": draw_seeds(seed_key(secret, RUN, 3), "held-out", second.episodes)}
    )
    kinds = [entry.kind for entry in read_ledger(directory)]
    assert kinds == ["opened", *2 * ["evaluation", "verdict"], "recovered", "evaluation", "verdict"]


def test_killed_during_evaluations_no_answered_verdict_is_lost(socket_directory: Path) -> None:
    directory = socket_directory / "safety"
    answered: list[safety_pb2.VerdictStatement] = []
    for attempt in range(3):
        with own_process(socket_directory) as (service, client):
            timer = threading.Timer(0.05 + 0.1 * attempt, service.process.kill)
            timer.start()
            try:
                for candidate in range(100):
                    gains = (0.5, 0.5, 3.0, 1.0 + 0.001 * (100 * attempt + candidate))
                    answered.append(evaluate(client, cartpole_artifact(gains).to_bytes()))
            except SafetyUnavailable:
                pass
            finally:
                timer.join()
    with own_process(socket_directory) as (_, client):
        answered.append(evaluate(client, GOOD))
        recorded = [safety_pb2.VerdictStatement.FromString(signed.payload) for signed in client.verdicts()]
    identifiers = [verdict.verdict_id for verdict in recorded]
    assert len(set(identifiers)) == len(identifiers)
    assert {verdict.verdict_id for verdict in answered} <= set(identifiers)
    # No two ever had the same seeds or the same share of the error rate, whether they were broken off or not.
    assert len({verdict.seed_key for verdict in recorded}) == len(recorded)
    assert recorded[0].lifetime_index == len(recorded) + audited(directory).broken_off
    assert [verdict.release_number for verdict in reversed(recorded)] == list(range(1, len(recorded) + 1))
    assert len([entry for entry in read_ledger(directory) if entry.kind == "verdict"]) == len(recorded)


def audited(directory: Path) -> LedgerAudit:
    """What the directory holds; raises unless all of it verifies, evidence included."""
    key = VerifyKey.load(directory / "verify_key.pem")
    return audit_ledger(read_ledger(directory), key, RUN, directory=directory)


@pytest.mark.parametrize(
    ("dies", "entered"),
    [
        (("before", "safety.ledger", "Ledger._write", 1), []),
        (("after", "safety.ledger", "Ledger._write", 1), ["evaluation"]),
        (("after", "safety.gate", "Docket.begin", 1), ["evaluation"]),
        (("before", "safety.keys.custody", "Custody.keep_incumbent", 1), ["evaluation"]),
        (("after", "safety.keys.custody", "Custody.keep_incumbent", 1), ["evaluation"]),
        (("before", "safety.evidence.file", "replace_file", 1), ["evaluation"]),
        (("after", "safety.evidence.store", "write_evidence", 1), ["evaluation"]),
        (("after", "safety.ledger", "Ledger._write", 2), ["evaluation", "verdict"]),
        (("after", "safety.docket", "Ledger.append", 2), ["evaluation", "verdict"]),
        (("after", "safety.docket", "Docket.record", 1), ["evaluation", "verdict"]),
    ],
)
def test_killed_at_each_step_of_a_decision_nothing_is_half(
    socket_directory: Path, dies: tuple[str, str, str, int], entered: list[str]
) -> None:
    directory = socket_directory / "safety"
    with own_process(socket_directory, dies=dies) as (_, client), pytest.raises(SafetyUnavailable):
        evaluate(client, GOOD)
    decided, broken_off = "verdict" in entered, entered == ["evaluation"]
    opened, *left = read_ledger(directory)
    assert [entry.kind for entry in left] == entered
    with own_process(socket_directory) as (_, client):
        # What stood without a verdict is gone, and what a verdict names is there.
        audit = audited(directory)
        assert (audit.broken_off, audit.under_way) == (broken_off, 0)
        assert (audit.evidence_checked, audit.evidence_absent) == (decided, 0)
        for folder in ("evidence", "incumbents"):
            assert len(list((directory / folder).iterdir())) == decided
        verdict = evaluate(client, GOOD)
        assert (verdict.release_number, verdict.lifetime_index) == (1, 1 + broken_off)
        # What the first entry committed to is used only where nothing was broken off.
        assert (seed_commitment(verdict.seed_key).hex() == opened.fields["seed_commitment"]) == (not broken_off)
        if decided:
            assert verdict.verdict_id == left[1].fields["verdict_id"]
        assert evaluate(client, BETTER).release_number == 2
    assert audited(directory).evidence_checked == 2


def test_a_killed_evaluator_costs_its_candidate_nothing(socket_directory: Path) -> None:
    directory = socket_directory / "safety"
    with own_process(socket_directory) as (service, client):

        def kill_workers() -> None:
            for worker in psutil.Process(service.process.pid).children():
                worker.kill()

        for attempt in range(6):
            timer = threading.Timer(0.01 + 0.04 * attempt, kill_workers)
            timer.start()
            verdict = evaluate(client, cartpole_artifact((0.5, 0.5, 3.0, 1.1 + 0.01 * attempt)).to_bytes())
            timer.join()
            assert (verdict.approved, verdict.reason) == (True, "")
    audit = audited(directory)
    assert (audit.approved, audit.rejected, audit.broken_off, audit.evidence_absent) == (6, 0, 0, 0)


def test_evaluators_that_are_killed_again_and_again_cost_their_candidate_and_nothing_else(
    socket_directory: Path,
) -> None:
    with own_process(socket_directory) as (service, client):
        ended = threading.Event()

        def kill_workers() -> None:
            while not ended.wait(0.002):
                for worker in psutil.Process(service.process.pid).children():
                    worker.kill()

        killer = threading.Thread(target=kill_workers)
        killer.start()
        try:
            verdict = evaluate(client, GOOD)
        finally:
            ended.set()
            killer.join()
        assert not verdict.approved
        assert "was killed by SIGKILL" in verdict.reason
        # The last kill may have hit what the next one needs; that is run again.
        assert evaluate(client, BETTER).approved
    audit = audited(socket_directory / "safety")
    assert (audit.approved, audit.rejected) == (1, 1)
