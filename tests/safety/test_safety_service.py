"""The safety service over real sockets, with the real evaluator process."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentUnsupported
from policies.artifact import artifact_digest
from policies.signing import VerifyKey
from policies.trust import TrustPolicy
from protos import transport
from protos.safety.v1 import safety_pb2, safety_pb2_grpc
from replay.client import ReplayWriter
from replay.schema import PayloadLayout
from replay.settings import SettingError
from replay.testing import make_columns, make_header, make_origin
from replay.testing import serving as replay_serving
from safety.begun_evaluations import BROKEN_OFF, EVALUATION
from safety.client import LeaseBreached, LeaseRefused, OfferRefused, SafetyClient, SafetyUnavailable
from safety.history import VERDICT
from safety.keys.history import OPENED
from safety.ledger import LedgerError, LedgerInUse, read_ledger
from safety.service import SERVICE_NAME, UPLOADS_MAX
from safety.testing import (
    balancing_artifact,
    constant_artifact,
    drifting_artifact,
    falling_artifact,
    nan_artifact,
)
from tests.safety.safety_process import CARTPOLE, CONFIG, RUN, ServiceThread, parameters_of, running

GOOD = balancing_artifact().to_bytes()


def evaluate(client: SafetyClient, artifact: bytes, version: int = 1) -> safety_pb2.VerdictStatement:
    return safety_pb2.VerdictStatement.FromString(client.evaluate(artifact, RUN, version, 60.0).payload)


@pytest.fixture
def client(socket_directory: Path) -> Iterator[SafetyClient]:
    with running(socket_directory) as client:
        yield client


@pytest.fixture
def directory(socket_directory: Path) -> Path:
    return socket_directory / "safety"


def test_candidates_get_the_verdicts_they_deserve(client: SafetyClient, directory: Path) -> None:
    trust = TrustPolicy(VerifyKey.load(directory / "verify_key.pem"), RUN)
    release = trust.check_release(client.evaluate(GOOD, RUN, 100, 60.0), artifact_digest(GOOD))
    assert (release.release_number, release.version, release.return_mean) == (1, 100, 500.0)
    for artifact, reason in (
        (drifting_artifact(), "sequential_violation_rate"),
        (falling_artifact(), "capability_non_inferiority"),
        (nan_artifact(), "not finite"),
    ):
        verdict = evaluate(client, artifact.to_bytes())
        assert not verdict.approved
        assert reason in verdict.reason
    answer = client.trust()
    assert (answer.public_key, answer.approved, answer.deferred, answer.rejected) == (trust.verify_key.raw, 1, 1, 2)
    assert (answer.void, answer.broken_off) == (0, 0)
    assert answer.key_id == trust.verify_key.key_id
    listed = [safety_pb2.VerdictStatement.FromString(signed.payload) for signed in client.verdicts()]
    assert [verdict.approved for verdict in listed] == [False, False, False, True]
    assert len(client.verdicts(2)) == 2
    entered = [entry.fields["reason"] for entry in read_ledger(directory) if entry.kind == VERDICT]
    assert entered[::-1] == [verdict.reason for verdict in listed]


def test_progress_is_told_while_it_is_made(client: SafetyClient) -> None:
    seen: list[tuple[int, int]] = []
    client.evaluate(GOOD, RUN, 1, 60.0, lambda *progress: seen.append(progress))
    client.evaluate(falling_artifact().to_bytes(), RUN, 2, 60.0, lambda *progress: seen.append(progress))
    verdicts = [safety_pb2.VerdictStatement.FromString(signed.payload) for signed in client.verdicts()]
    # Planted episodes, the candidate's and the incumbent's.
    planted, episodes = verdicts[0].detector.violating + verdicts[0].detector.clean, verdicts[0].episodes
    assert seen[-1] == (planted + 2 * episodes,) * 2


def test_the_verdict_binds_the_lineage_that_was_offered(client: SafetyClient) -> None:
    signed = client.evaluate(GOOD, RUN, 1, 60.0, lineage_digest=b"l" * 32)
    assert safety_pb2.VerdictStatement.FromString(signed.payload).lineage_digest == b"l" * 32


def test_leases_are_granted_and_trusted(client: SafetyClient, directory: Path) -> None:
    trust = TrustPolicy(VerifyKey.load(directory / "verify_key.pem"), RUN)
    first, second = trust.check_lease(client.renew_lease(RUN)), trust.check_lease(client.renew_lease(RUN))
    assert second.lease_number > first.lease_number
    assert first.expiry_time_ns - first.issue_time_ns == 10 * 10**9
    with pytest.raises(LeaseRefused, match="serves run 'run-1' only"):
        client.renew_lease("run-2")


def test_the_service_is_healthy_and_describes_itself(client: SafetyClient, socket_directory: Path) -> None:
    with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status == 1


def offer(artifact: bytes, **changes: object) -> safety_pb2.EvaluateRequest:
    fields: dict[str, object] = {"run_id": RUN, "version": 1, "digest": artifact_digest(artifact)}
    fields |= {"total_bytes": len(artifact)} | changes
    return safety_pb2.EvaluateRequest(offer=safety_pb2.CandidateOffer(**fields))  # type: ignore[arg-type]


def data(content: bytes) -> safety_pb2.EvaluateRequest:
    return safety_pb2.EvaluateRequest(data=content)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "first message"),
        ([data(GOOD)], "first message"),
        ([safety_pb2.EvaluateRequest()], "first message"),
        ([offer(GOOD), offer(GOOD)], "must carry data"),
        ([offer(GOOD), data(GOOD[:-1])], "nothing was evaluated"),
        ([offer(GOOD), data(GOOD), data(b"x")], "more than the"),
        ([offer(GOOD), data(GOOD[:-1] + bytes([GOOD[-1] ^ 1]))], "nothing was evaluated"),
        ([offer(GOOD, digest=b"")], "SHA-256 has 32"),
        ([offer(GOOD, run_id="run-2"), data(GOOD)], "serves run"),
    ],
)
def test_senseless_offers_are_refused_and_leave_no_trace(
    client: SafetyClient,
    socket_directory: Path,
    directory: Path,
    requests: list[safety_pb2.EvaluateRequest],
    message: str,
) -> None:
    with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
        with pytest.raises(grpc.RpcError, match=message) as refusal:
            list(safety_pb2_grpc.SafetyStub(channel).Evaluate(iter(requests), timeout=30))
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(read_ledger(directory)) == 1


def forever(content: bytes, stop: threading.Event) -> Iterator[safety_pb2.EvaluateRequest]:
    """An upload that never ends: its offer, and then nothing, or nothing but empty pieces."""
    yield offer(GOOD)
    while not stop.wait(0.01):
        if content == b"empty pieces":
            yield data(b"")


@pytest.mark.parametrize("content", [b"silence", b"empty pieces"])
def test_an_upload_that_never_ends_is_ended(
    client: SafetyClient, socket_directory: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr("safety.service.UPLOAD_S_MAX", 0.3)
    stop = threading.Event()
    try:
        with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
            with pytest.raises(grpc.RpcError, match="not uploaded within") as refusal:
                list(safety_pb2_grpc.SafetyStub(channel).Evaluate(forever(content, stop), timeout=20))
            assert refusal.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        stop.set()
    assert evaluate(client, GOOD).release_number == 1
    assert [entry.kind for entry in read_ledger(directory)] == [OPENED, EVALUATION, VERDICT]


def test_stalled_uploads_keep_nobody_from_a_lease(client: SafetyClient, socket_directory: Path) -> None:
    stop = threading.Event()
    try:
        with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
            stub = safety_pb2_grpc.SafetyStub(channel)
            calls = [stub.Evaluate(forever(b"silence", stop), timeout=30) for _ in range(80)]
            deadline = time.monotonic() + 20
            while sum(call.is_active() for call in calls) > UPLOADS_MAX and time.monotonic() < deadline:
                time.sleep(0.01)
            turned_away = [call for call in calls if not call.is_active()]
            assert len(turned_away) == len(calls) - UPLOADS_MAX
            assert {call.code() for call in turned_away} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            client.renew_lease(RUN)
            for call in calls:
                call.cancel()
        stop.set()
        verdict = None
        while verdict is None and time.monotonic() < deadline:
            with contextlib.suppress(SafetyUnavailable):
                verdict = evaluate(client, GOOD)
        assert verdict is not None
        assert verdict.approved
    finally:
        stop.set()


def test_an_artifact_of_exabytes_is_rejected_by_its_offer(client: SafetyClient, socket_directory: Path) -> None:
    with transport.channel(f"unix:{socket_directory / 'safety.sock'}") as channel:
        requests = iter([offer(GOOD, total_bytes=2**63)])
        *_, last = safety_pb2_grpc.SafetyStub(channel).Evaluate(requests, timeout=30)
    verdict = safety_pb2.VerdictStatement.FromString(last.verdict.payload)
    assert not verdict.approved
    assert "9223372036854775808 bytes" in verdict.reason


def test_the_client_tells_refusals_from_absence(client: SafetyClient, socket_directory: Path) -> None:
    with pytest.raises(OfferRefused, match="serves run"):
        client.evaluate(GOOD, "run-2", 1, 30.0)
    with SafetyClient(f"unix:{socket_directory / 'nobody.sock'}") as nobody:
        for call in (nobody.trust, nobody.verdicts, lambda: nobody.renew_lease(RUN)):
            with pytest.raises(SafetyUnavailable, match=r"nobody\.sock"):
                call()
        with pytest.raises(SafetyUnavailable):
            nobody.evaluate(GOOD, RUN, 1, 5.0)


def test_an_oversize_candidate_is_rejected_by_its_offer(socket_directory: Path) -> None:
    config = dataclasses.replace(CONFIG, artifact_bytes_max=1024)
    with running(socket_directory, config) as client:
        verdict = evaluate(client, bytes(2_000_000))
    assert not verdict.approved
    assert "2000000 bytes, the limit is 1024" in verdict.reason


HANGS = EnvironmentConfig(name="gym:tests.safety.stubborn_environment:stubborn-hangs-v0")
SHORT = dataclasses.replace(CONFIG, episodes=30, evaluation_s_max=2.0, queue_max=1)


@pytest.mark.robustness
def test_a_hanging_candidate_is_rejected_and_the_next_one_is_judged(socket_directory: Path) -> None:
    with running(socket_directory, SHORT, HANGS) as client:
        verdict = evaluate(client, constant_artifact(1).to_bytes())
        assert not verdict.approved
        assert "longer than 2 s" in verdict.reason
        assert evaluate(client, constant_artifact(0).to_bytes()).release_number == 1
    entries = read_ledger(socket_directory / "safety")
    reasons = [entry.fields["reason"] for entry in entries if entry.kind == VERDICT]
    assert reasons == [verdict.reason, ""]


@pytest.mark.robustness
def test_leases_and_questions_are_answered_during_an_evaluation_and_the_queue_is_bounded(
    socket_directory: Path,
) -> None:
    accepted: list[threading.Event] = []
    verdicts: list[bool] = []
    # Long enough for the third to come while the first is still in evaluation, on a busy machine, too.
    config = dataclasses.replace(SHORT, evaluation_s_max=5.0)
    with running(socket_directory, config, HANGS) as client, contextlib.ExitStack() as stack:
        for action in (1, 0):
            accepted.append(threading.Event())

            def offer_it(
                artifact: bytes = constant_artifact(action).to_bytes(), event: threading.Event = accepted[-1]
            ) -> None:
                signed = client.evaluate(artifact, RUN, 1, 60.0, lambda ended, total: event.set())
                verdicts.append(safety_pb2.VerdictStatement.FromString(signed.payload).approved)

            thread = threading.Thread(target=offer_it)
            thread.start()
            stack.callback(thread.join)
            assert accepted[-1].wait(30)
        with pytest.raises(SafetyUnavailable, match="RESOURCE_EXHAUSTED"):
            evaluate(client, falling_artifact().to_bytes())
        client.renew_lease(RUN)
        assert (client.trust().approved, client.trust().rejected) == (0, 0)
    assert verdicts == [False, True]


def test_a_client_that_goes_away_finds_the_verdict_when_it_comes_back(client: SafetyClient, directory: Path) -> None:
    class Gone(Exception):
        pass

    def go_away(ended: int, total: int) -> None:
        # Progress is told from the moment at which the candidate is in the queue.
        raise Gone

    with pytest.raises(Gone):
        client.evaluate(GOOD, RUN, 1, 60.0, go_away)
    verdict = evaluate(client, GOOD)
    assert verdict.release_number == 1
    assert [entry.kind for entry in read_ledger(directory)] == [OPENED, EVALUATION, VERDICT]


def test_stopping_ends_a_running_evaluation_undecided(socket_directory: Path) -> None:
    outcome: list[Exception] = []
    with running(socket_directory, CONFIG, HANGS) as client:

        def offer_it() -> None:
            try:
                evaluate(client, constant_artifact(1).to_bytes())
            except SafetyUnavailable as error:
                outcome.append(error)

        thread = threading.Thread(target=offer_it)
        thread.start()
        thread.join(0.5)
    thread.join(30)
    assert len(outcome) == 1
    assert [entry.kind for entry in read_ledger(socket_directory / "safety")] == [OPENED, EVALUATION]
    # The next service says what became of it, and the candidate is tested at the next level.
    with running(socket_directory, CONFIG, HANGS) as client:
        assert client.trust().broken_off == 1
        verdict = evaluate(client, constant_artifact(0).to_bytes())
    assert (verdict.approved, verdict.lifetime_index) == (True, 2)
    kinds = [entry.kind for entry in read_ledger(socket_directory / "safety")]
    assert kinds == [OPENED, EVALUATION, BROKEN_OFF, EVALUATION, VERDICT]


def start_failure(directory: Path, environment: EnvironmentConfig = CARTPOLE, **changes: Any) -> BaseException | None:
    config = dataclasses.replace(CONFIG, **changes)
    service = ServiceThread(parameters_of(directory, config, environment, None))
    service.stop()
    return service.failure


def test_what_must_not_start_does_not_start(client: SafetyClient, socket_directory: Path, tmp_path: Path) -> None:
    assert isinstance(start_failure(socket_directory), LedgerInUse)
    other = {"directory": str(tmp_path / "other"), "keys": str(tmp_path / "other-keys")}
    parameters = parameters_of(socket_directory, CONFIG, CARTPOLE, None) | other
    service = ServiceThread(parameters)
    service.stop()
    assert isinstance(service.failure, transport.AddressError)
    # The one that runs has not been disturbed.
    assert client.trust().approved == 0


@pytest.mark.parametrize(
    ("environment", "changes", "kind"),
    [
        (EnvironmentConfig(name="nonsense"), {}, EnvironmentUnsupported),
        (CARTPOLE, {"violation_rate_max": 0.01}, SettingError),
        (CARTPOLE, {"lease_violation_rate_max": 0.5}, SettingError),
    ],
)
def test_bad_input_is_told_at_the_start(
    socket_directory: Path, environment: EnvironmentConfig, changes: dict[str, Any], kind: type[Exception]
) -> None:
    assert isinstance(start_failure(socket_directory, environment, **changes), kind)


def test_a_damaged_ledger_keeps_the_service_from_starting(socket_directory: Path, directory: Path) -> None:
    with running(socket_directory) as client:
        evaluate(client, GOOD)
    ledger = directory / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"approved":true', b'"approved":false'))
    assert isinstance(start_failure(socket_directory), LedgerError)


def test_a_service_that_cannot_record_any_more_ends(
    socket_directory: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = parameters_of(socket_directory, CONFIG, CARTPOLE, None)
    service = ServiceThread(parameters)
    try:
        with SafetyClient(parameters["address"]) as client:

            def fail(path: Path, content: bytes, mode: int) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("safety.ledger.replace_file", fail)
            with pytest.raises(SafetyUnavailable, match="No space left"):
                evaluate(client, GOOD)
            service.wait()
            assert isinstance(service.failure, LedgerError)
    finally:
        service.stop()


def renewed_within(client: SafetyClient, time_s: float, rolled_back_epoch: int = 0) -> None:
    """Asks for a lease until there is one: the first look at replay takes a moment."""
    deadline = time.monotonic() + time_s
    while True:
        try:
            client.renew_lease(RUN, rolled_back_epoch)
            return
        except LeaseRefused as error:
            assert "not known yet" in str(error)
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.robustness
def test_a_replay_that_is_gone_ends_the_leases(socket_directory: Path, directory: Path) -> None:
    config = dataclasses.replace(CONFIG, monitor_poll_s=0.05, monitor_stale_s_max=1.0)
    address = f"unix:{socket_directory / 'replay.sock'}"
    with running(socket_directory, config, replay_address=address) as client:
        with pytest.raises(LeaseRefused, match="not known yet"):
            client.renew_lease(RUN)
        with replay_serving(address=address):
            renewed_within(client, 20.0)
        with pytest.raises(LeaseRefused, match="not been known"):
            for _ in range(400):
                client.renew_lease(RUN)
                time.sleep(0.05)
    entries = read_ledger(directory)
    assert [entry.kind for entry in entries] == ["opened", "lease_withheld", "lease_resumed", "lease_withheld"]
    assert [entry.fields["code"] for entry in entries[1:]] == ["unknown", "", "stale"]


def breach_within(client: SafetyClient, time_s: float, rolled_back_epoch: int) -> LeaseBreached | None:
    """Renews the lease until it is breached."""
    deadline = time.monotonic() + time_s
    while time.monotonic() < deadline:
        try:
            client.renew_lease(RUN, rolled_back_epoch)
        except LeaseBreached as breach:
            return breach
        time.sleep(0.01)
    return None


@pytest.mark.robustness
def test_training_violations_that_arrive_in_replay_end_an_epoch(socket_directory: Path, directory: Path) -> None:
    config = dataclasses.replace(CONFIG, monitor_poll_s=0.05, lease_violation_rate_max=0.2)
    columns = make_columns()
    origin = make_origin(columns=columns)
    payload = PayloadLayout(origin.schema).encode(columns)
    with (
        replay_serving() as replay_address,
        ReplayWriter(replay_address, origin, window_records=64, window_bytes=1 << 20) as writer,
    ):

        def record(tag: str, episodes: float, violating: float) -> None:
            signals = {"episodes": episodes, "violating_episodes": violating}
            signals |= {f"{tag}.episodes": episodes, f"{tag}.violating_episodes": violating}
            writer.append([make_header(signals=signals)], [payload], 10.0)
            assert writer.flush(10.0)

        with running(socket_directory, config, replay_address=replay_address) as client:
            release = evaluate(client, GOOD)
            renewed_within(client, 20.0)
            record("lease.1", 100.0, 2.0)
            record("release.1", 100.0, 100.0)
            assert breach_within(client, 0.5, 0) is None
            record("lease.1", 100.0, 80.0)
            breach = breach_within(client, 30.0, 0)
            assert breach is not None
            assert (breach.epoch, breach.release_number) == (1, 1)
            assert breach.release_digest == release.artifact_digest == artifact_digest(GOOD)
            assert "82 of 200 training episodes" in breach.reason
        # It is one after a restart, too, until the learner has rolled back; what comes late is not held against that.
        with running(socket_directory, config, replay_address=replay_address) as client:
            again = breach_within(client, 30.0, 0)
            assert again is not None
            assert (again.epoch, again.reason) == (1, breach.reason)
            record("lease.1", 100.0, 100.0)
            key = TrustPolicy(VerifyKey.load(directory / "verify_key.pem"), RUN)
            renewed_within(client, 20.0, 1)
            assert key.check_lease(client.renew_lease(RUN, 1)).epoch == 2
            record("lease.1", 100.0, 100.0)
            assert breach_within(client, 0.5, 1) is None
            assert evaluate(client, GOOD).approved
    entries = [entry for entry in read_ledger(directory) if entry.kind.startswith("lease_")]
    codes = [(entry.kind, entry.fields.get("code")) for entry in entries]
    assert [code for code in codes if code[1] != "unknown"][-2:] == [("lease_breach", None), ("lease_resumed", "")]
    (noted,) = [entry for entry in entries if entry.kind == "lease_breach"]
    assert (noted.fields["violating"], noted.fields["release_digest"]) == (82, artifact_digest(GOOD).hex())
