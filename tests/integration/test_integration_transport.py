"""The real services behind real TLS: each lets in who has the role, and its client says what became of who has not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from policies.artifact import artifact_digest
from policies.client import PolicyClient
from policies.distribution import DistributionServer, PolicyBoard
from policies.release_client import RevocationNotTaken, hand_over_revocation
from policies.served import InferenceRefused, ServedPolicy
from policies.service import serve as serve_inference
from policies.signing import SigningKey
from policies.testing import RUN_ID, make_artifact, make_spec, signed_verdict
from policies.trust import TrustPolicy
from protos import transport
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2, replay_pb2_grpc
from protos.transport_security import Security
from replay.client import ReplayClient, ReplayRefused, ReplayWriter
from replay.client_sample import ReplaySampler
from replay.config import ReplayConfig
from replay.schema import PayloadLayout
from replay.service import serve as serve_replay
from replay.testing import make_columns, make_header, make_origin
from safety.client import SafetyClient, SafetyUnavailable
from safety.service import serve as serve_safety
from tests.protos.installation import HOSTS, Installation, in_thread, process_is
from tests.safety.safety_process import CARTPOLE, CONFIG, RUN

KEY = SigningKey.generate()
GENERATOR = np.random.default_rng(0)
HERE = "127.0.0.1:0"
WAIT_S = 10.0


@pytest.fixture
def keys(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "keys")


@contextlib.contextmanager
def replay(security: Security, directory: Path, **settings: Any) -> Iterator[str]:
    config = ReplayConfig(store="memory", **settings)
    with (
        process_is(security),
        in_thread(lambda ready, stop: serve_replay(config, directory, HERE, on_ready=ready, stop=stop)) as address,
    ):
        yield address


def append(address: str, count: int) -> None:
    origin = make_origin(steps=2)
    layout = PayloadLayout(origin.schema)
    with ReplayWriter(address, origin, window_records=64, window_bytes=2**20) as writer:
        headers, payloads = [make_header(2) for _ in range(count)], [layout.encode(make_columns(2, seed=0))] * count
        writer.append(headers, payloads, WAIT_S)
        assert writer.flush(WAIT_S)


def test_replay_takes_from_appenders_and_gives_to_samplers(keys: Installation, tmp_path: Path) -> None:
    actor, learner, reader = (keys.client(role, role) for role in ("append", "sample", "read"))
    server = keys.server()
    with replay(server, tmp_path / "store") as address:
        with process_is(actor):
            append(address, 4)
            with (
                ReplayClient(address) as client,
                pytest.raises(ReplayRefused, match="needs the role read, and has app"),
            ):
                client.stats()
        with process_is(learner), ReplaySampler(address, "fresh", 4) as sampler:
            # It asked where the store lies (Locate), was refused, and has the records sent.
            assert len(sampler.next(WAIT_S).positions) == 4
        with process_is(reader):
            with ReplayClient(address) as client:
                assert client.stats().appended_records == 4
                with pytest.raises(ReplayRefused, match="needs the role administer"):
                    client.quarantine("position >= 0", "because")
            with pytest.raises(ReplayRefused, match="needs the role append"):
                append(address, 1)
            with ReplayClient(address) as client:
                assert client.stats().appended_records == 4, "nothing of it was stored"
    assert server.counts().denied_calls >= 4


def test_replay_applies_its_own_rules_though_its_certificate_has_no_role(keys: Installation, tmp_path: Path) -> None:
    server = keys.server()
    with (
        replay(server, tmp_path / "store", rules=("duplicate_of",), fresh_unconsumed_max=1000) as address,
        process_is(keys.client("both", "append", "read")),
        ReplayClient(address) as client,
    ):
        append(address, 2)
        deadline_s = time.monotonic() + WAIT_S
        while "duplicate_of" not in client.get([1])[0].marks.signals and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert client.get([1])[0].marks.signals["duplicate_of"] == 0
    assert server.counts().denied_calls == 0


def test_policies_go_to_watchers_and_revocations_come_from_revokers(keys: Installation) -> None:
    board = PolicyBoard()
    data = make_artifact(seed=1).to_bytes()
    board.publish_release(10, data, signed_verdict(KEY, artifact_digest(data), release_number=1, version=10))
    trust = TrustPolicy(KEY.verify_key, RUN_ID)
    with process_is(keys.server()):
        server = DistributionServer(board, HERE)
        address = server.start()
    try:
        with process_is(keys.client("actor", "append", "watch")):
            with contextlib.closing(PolicyClient(address, trust, "numpy", "actor", "run")) as client:
                assert client.wait(WAIT_S) is not None
            with pytest.raises(RevocationNotTaken, match="PERMISSION_DENIED: 'actor' may not call"):
                hand_over_revocation(address, common_pb2.SignedStatement(), WAIT_S)
        with (
            process_is(keys.client("stranger", "append")),
            contextlib.closing(PolicyClient(address, trust, "numpy", "actor", "run")) as client,
        ):
            deadline_s = time.monotonic() + WAIT_S
            while not client.refused["not_let_in"] and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert client.refused["not_let_in"] >= 1
            assert client.current() is None
        with process_is(keys.client("operator", "revoke")), pytest.raises(RevocationNotTaken, match="FAILED_PRECOND"):
            hand_over_revocation(address, common_pb2.SignedStatement(), WAIT_S)
    finally:
        server.stop()


def test_inference_acts_for_watchers(keys: Installation, tmp_path: Path) -> None:
    board = PolicyBoard()
    data = make_artifact(seed=1).to_bytes()
    board.publish_release(10, data, signed_verdict(KEY, artifact_digest(data), release_number=1, version=10))
    KEY.verify_key.save(tmp_path / "key.pem")
    spec = make_spec()
    with process_is(Security(keys.issue("inference", "watch", hosts=HOSTS))):
        server = DistributionServer(board, HERE)
        policies = server.start()

        def serve(ready: Any, stop: asyncio.Event) -> Any:
            return serve_inference(
                policies, tmp_path / "key.pem", RUN_ID, HERE, backend="numpy", on_ready=ready, stop=stop
            )

        try:
            with in_thread(serve) as address:
                for role, allowed in (("watch", True), ("append", False)):
                    with process_is(keys.client(role, role)):
                        policy = ServedPolicy(address, spec, timeout_s=WAIT_S)
                    with contextlib.closing(policy):
                        observation = spec.observation.zeros(1)
                        if allowed:
                            assert policy.act(observation, GENERATOR).action.shape == (1,)
                        else:
                            with pytest.raises(InferenceRefused, match="needs the role watch, and has append"):
                                policy.act(observation, GENERATOR)
        finally:
            server.stop()


def test_the_gate_hears_learners_and_revokers(keys: Installation, tmp_path: Path) -> None:
    def serve(ready: Any, stop: asyncio.Event) -> Any:
        return serve_safety(
            CONFIG, CARTPOLE, tmp_path / "safety", HERE, run_id=RUN, replay_address=None, on_ready=ready, stop=stop
        )

    with process_is(keys.server()), in_thread(serve) as address:
        with process_is(keys.client("learner", "offer")), SafetyClient(address) as client:
            assert client.renew_lease(RUN).payload
            with pytest.raises(SafetyUnavailable, match=r"PERMISSION_DENIED: 'learner' may not call .*/Revoke"):
                client.revoke(RUN, 1, "because")
        with process_is(keys.client("reader", "read")), SafetyClient(address) as client:
            assert client.trust().public_key
            with pytest.raises(SafetyUnavailable, match="needs the role offer, and has read"):
                client.evaluate(b"artifact", RUN, 1, WAIT_S)


def test_what_is_locked_out_of_a_stream_cannot_send_the_rest_of_it(keys: Installation, tmp_path: Path) -> None:
    """The first message of a refused stream is not looked at, nor any later one."""
    with (
        replay(keys.server(), tmp_path / "store") as address,
        transport.channel(address, keys.client("reader", "read")) as channel,
    ):
        requests = iter([replay_pb2.AppendRequest(open=make_origin()), replay_pb2.AppendRequest()])
        with pytest.raises(grpc.RpcError) as refused:
            next(replay_pb2_grpc.ReplayStub(channel).Append(requests, timeout=WAIT_S))
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        stats = replay_pb2_grpc.ReplayStub(channel).Stats(replay_pb2.StatsRequest(), timeout=WAIT_S)
        assert (stats.append_streams, stats.appended_records) == (0, 0)
