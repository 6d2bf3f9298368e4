"""The Inference service and its client over real sockets, the served policy under the contract of a policy included."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from policies.artifact import Artifact, artifact_digest
from policies.inference_numpy import NumpyPolicy
from policies.policy import Policy, PolicyIdentity
from policies.served import InferenceRefused, InferenceUnavailable, ServedPolicy, ServedPolicyClient
from policies.service import serve
from policies.signing import KeyFileError
from policies.testing import RUN_ID, PolicyContract, make_artifact, make_spec, random_observation
from protos import transport
from protos.policy.v1 import policy_pb2, policy_pb2_grpc
from tests.policies.inference_host import KEY, WAIT_S, distribution, inference, inference_of, publish

GENERATOR = np.random.default_rng(0)


@contextlib.contextmanager
def served(directory: Path, artifact: Artifact) -> Iterator[ServedPolicy]:
    with inference_of(directory, artifact) as (_, address):
        policy = ServedPolicy(address, artifact.spec)
        try:
            yield policy
        finally:
            policy.close()


class TestServedPolicy(PolicyContract):
    @pytest.fixture(autouse=True)
    def _in_directory(self, socket_directory: Path) -> None:
        self.directory = socket_directory

    @contextlib.contextmanager
    def policy(self, artifact: Artifact) -> Iterator[Policy]:
        with served(self.directory, artifact) as policy:
            yield policy


def test_each_batch_says_who_chose(socket_directory: Path) -> None:
    first, second = make_artifact(seed=1), make_artifact(seed=2)
    observation = random_observation(first.spec, 3, 0)
    with inference_of(socket_directory, first) as (board, address):
        client = ServedPolicyClient(address, first.spec)
        try:
            assert client.current() is None
            acting = client.wait(WAIT_S)
            assert acting is not None
            assert acting is client.current()
            assert (acting.kind, acting.version, acting.digest) == ("served", 10, artifact_digest(first.to_bytes()))
            assert acting.policy.act(observation, GENERATOR).identity == PolicyIdentity(10, acting.digest)
            digest = publish(board, second, 2)
            deadline = time.monotonic() + WAIT_S
            while acting.policy.act(observation, GENERATOR).identity != PolicyIdentity(20, digest):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            client.close()


def test_streams_are_answered_side_by_side(socket_directory: Path) -> None:
    artifact = make_artifact()
    failures: list[str] = []

    def act(address: str, seed: int) -> None:
        policy = ServedPolicy(address, artifact.spec)
        local, oracle = NumpyPolicy(artifact), np.random.default_rng(seed)
        try:
            for _ in range(20):
                observation = random_observation(artifact.spec, seed + 1, int(oracle.integers(1 << 30)))
                batch = policy.act(observation, oracle)
                expected = local.act(observation, oracle).logits
                np.testing.assert_allclose(batch.logits, expected, atol=1e-6)
        except AssertionError as error:
            failures.append(str(error))
        finally:
            policy.close()

    with inference_of(socket_directory, artifact) as (_, address):
        threads = [threading.Thread(target=act, args=(address, seed)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert not any(thread.is_alive() for thread in threads)
    assert not failures


def test_a_service_that_restarts_is_found_again(socket_directory: Path) -> None:
    artifact = make_artifact()
    observation = random_observation(artifact.spec, 2, 0)
    with distribution(socket_directory, artifact) as (_, policy_address), contextlib.ExitStack() as stack:
        with inference(socket_directory, policy_address) as address:
            policy = ServedPolicy(address, artifact.spec, timeout_s=WAIT_S)
            stack.callback(policy.close)
            policy.act(observation, GENERATOR)
        with inference(socket_directory, policy_address):
            assert policy.act(observation, GENERATOR).action.shape == (2,)


def test_without_a_policy_or_a_service_the_client_says_so_in_time(socket_directory: Path) -> None:
    spec = make_spec()
    with inference_of(socket_directory, None) as (_, address):
        client = ServedPolicyClient(address, spec)
        try:
            assert client.wait(0.3) is None
        finally:
            client.close()
        policy = ServedPolicy(address, spec, timeout_s=2.0)
        try:
            with pytest.raises(InferenceUnavailable, match="no verified policy"):
                policy.act(random_observation(spec, 2, 0), GENERATOR)
        finally:
            policy.close()
    absent = ServedPolicy(f"unix:{socket_directory}/nobody", spec, timeout_s=0.3)
    try:
        with pytest.raises(InferenceUnavailable):
            absent.act(random_observation(spec, 2, 0), GENERATOR)
    finally:
        absent.close()


def test_another_environment_is_refused_for_good(socket_directory: Path) -> None:
    artifact, other = make_artifact(), make_spec((5,))
    more_actions = make_spec(choices=3)
    with inference_of(socket_directory, artifact) as (_, address):
        # The first policy may take a moment to arrive; only then can a misfit be told.
        probe = ServedPolicy(address, artifact.spec)
        probe.probe(WAIT_S)
        probe.close()
        for spec, said in ((other, "observation has 40 bytes"), (more_actions, "8, 16, 32")):
            policy = ServedPolicy(address, spec)
            try:
                with pytest.raises(InferenceRefused, match=said):
                    policy.act(random_observation(spec, 2, 0), GENERATOR)
            finally:
                policy.close()


def test_health_and_refusals_on_the_wire(socket_directory: Path) -> None:
    artifact = make_artifact()
    with inference_of(socket_directory, artifact) as (_, address), transport.channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        response = health.Check(health_pb2.HealthCheckRequest(service="temper.policy.v1.Inference"), timeout=20)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        stub = policy_pb2_grpc.InferenceStub(channel)
        call = stub.Act(iter([policy_pb2.ActRequest(count=0)]), timeout=20)
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_bad_input_is_said_before_anything_runs(socket_directory: Path) -> None:
    async def attempt(key: Path, address: str) -> None:
        await serve(
            f"unix:{socket_directory}/policy",
            key,
            RUN_ID,
            address,
            backend="numpy",
            on_ready=lambda bound: pytest.fail(f"ready at {bound}"),
            stop=asyncio.Event(),
        )

    with pytest.raises(KeyFileError):
        asyncio.run(attempt(socket_directory / "missing.pem", "127.0.0.1:0"))
    KEY.verify_key.save(socket_directory / "key.pem")
    with pytest.raises(transport.AddressError):
        asyncio.run(attempt(socket_directory / "key.pem", "nowhere"))
