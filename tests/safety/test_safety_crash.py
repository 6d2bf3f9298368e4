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
from safety.client import SafetyClient, SafetyUnavailable
from safety.ledger import Ledger, LedgerInUse, read_ledger
from safety.suite import draw_seeds, seed_key, seed_manifest_digest
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
    secret = (directory / "evaluation_secret").read_bytes()
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
