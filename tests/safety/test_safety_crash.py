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
from safety.suites.manifest import draw_seeds, seed_key, seed_manifest_digest
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
    assert kinds == ["opened", "verdict", "verdict", "recovered", "verdict"]


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
        recorded = [safety_pb2.VerdictStatement.FromString(signed.payload) for signed in client.verdicts()]
    identifiers = [verdict.verdict_id for verdict in recorded]
    assert len(set(identifiers)) == len(identifiers)
    assert {verdict.verdict_id for verdict in answered} <= set(identifiers)
    assert [verdict.release_number for verdict in reversed(recorded)] == list(range(1, len(recorded) + 1))
    assert len([entry for entry in read_ledger(directory) if entry.kind == "verdict"]) == len(recorded)


def audited(directory: Path) -> LedgerAudit:
    """What the directory holds; raises unless all of it verifies, evidence included."""
    key = VerifyKey.load(directory / "verify_key.pem")
    return audit_ledger(read_ledger(directory), key, RUN, directory=directory)


@pytest.mark.parametrize(
    ("dies", "decided"),
    [
        (("before", "safety.keys.custody", "Custody.keep_incumbent"), False),
        (("after", "safety.keys.custody", "Custody.keep_incumbent"), False),
        (("before", "safety.evidence.file", "replace_file"), False),
        (("after", "safety.evidence.store", "write_evidence"), False),
        (("after", "safety.ledger", "Ledger._write"), True),
        (("after", "safety.docket", "Ledger.append"), True),
        (("after", "safety.docket", "Docket.record"), True),
    ],
)
def test_killed_at_each_step_of_a_decision_nothing_is_half(
    socket_directory: Path, dies: tuple[str, str, str], decided: bool
) -> None:
    directory = socket_directory / "safety"
    with own_process(socket_directory, dies=dies) as (_, client), pytest.raises(SafetyUnavailable):
        evaluate(client, GOOD)
    verdicts = [entry for entry in read_ledger(directory) if entry.kind == "verdict"]
    assert len(verdicts) == decided
    with own_process(socket_directory) as (_, client):
        # What stood without a verdict is gone, and what a verdict names is there.
        audit = audited(directory)
        assert (audit.evidence_checked, audit.evidence_absent) == (decided, 0)
        for folder in ("evidence", "incumbents"):
            assert len(list((directory / folder).iterdir())) == decided
        verdict = evaluate(client, GOOD)
        assert (verdict.release_number, verdict.lifetime_index) == (1, 1)
        if decided:
            assert verdict.verdict_id == verdicts[0].fields["verdict_id"]
        assert evaluate(client, BETTER).release_number == 2
    assert audited(directory).evidence_checked == 2


def test_killed_evaluators_cost_their_candidate_and_nothing_else(socket_directory: Path) -> None:
    directory = socket_directory / "safety"
    outcomes: list[str] = []
    with own_process(socket_directory) as (service, client):
        assert evaluate(client, GOOD).approved

        def kill_workers() -> None:
            for worker in psutil.Process(service.process.pid).children():
                worker.kill()

        for attempt in range(6):
            timer = threading.Timer(0.01 + 0.04 * attempt, kill_workers)
            timer.start()
            verdict = evaluate(client, cartpole_artifact((0.5, 0.5, 3.0, 1.1 + 0.01 * attempt)).to_bytes())
            timer.join()
            outcomes.append("" if verdict.approved else verdict.reason)
        # The last kill may have hit an evaluator that had nothing to do, and cost the next one its trial.
        assert any(evaluate(client, BETTER).approved for _ in range(2))
    assert any("was killed by SIGKILL" in reason for reason in outcomes)
    assert {reason for reason in outcomes if reason and "was killed by SIGKILL" not in reason} == set()
    audit = audited(directory)
    assert audit.approved + audit.rejected in {8, 9}
    assert audit.evidence_absent == 0
