"""Recurrent policies through the real Inference service: the state goes both ways, and nobody gets anybody else's."""

from __future__ import annotations

import concurrent.futures
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.environments.catalog import make_vector
from actors.rollout import Rollout
from actors.unroll import UnrollBuffer
from policies import batching
from policies.artifact import Artifact
from policies.client import ActingPolicy
from policies.config import NetworkConfig
from policies.inference_numpy import NumpyPolicy
from policies.policy import ActionBatch
from policies.served import ServedPolicy, ServedPolicyClient
from policies.spaces import ActionSpace, record_space
from policies.spec import PolicySpec
from policies.testing import make_artifact, make_spec, random_observation
from protos.policy.v1 import policy_pb2
from replay.schema import PayloadLayout
from tests.actors.scripted import CollectingWriter
from tests.actors.spaces_environment import STEERED
from tests.policies.inference_host import WAIT_S, inference_of

STEPS = 12
GENERATOR = np.random.default_rng(0)
LSTM = make_spec((4,), 3, core="lstm", core_size=5)
PARTS = PolicySpec(
    NetworkConfig(hidden_sizes=(6,), core="gru", core_size=4, normalize_observations=True),
    record_space({"image": ((3, 3, 1), "|u1"), "inner/speed": ((2,), "<f4"), "edge": ((1,), "|b1")}),
    ActionSpace("box", (2,)),
)
specs = pytest.mark.parametrize("spec", [LSTM, PARTS], ids=["lstm", "gru-parts-box"])


def observed(spec: PolicySpec, client: int, step: int, rows: int) -> NDArray[Any]:
    return random_observation(spec, rows, 1000 * client + step)


def expected(artifact: Artifact, client: int, rows: int) -> list[ActionBatch]:
    """What a policy in this process says along the client's steps; every third episode row begins anew at step 6."""
    policy, state = NumpyPolicy(artifact), np.zeros((rows, artifact.spec.state_size), np.float32)
    batches = []
    for step in range(STEPS):
        if step == STEPS // 2:
            state[::3] = 0
        batches.append(policy.act(observed(artifact.spec, client, step, rows), GENERATOR, state))
        state = np.array(batches[-1].state)
    return batches


def acted(address: str, spec: PolicySpec, client: int, rows: int, barrier: threading.Barrier) -> list[ActionBatch]:
    """The same by the service, all clients at the same time."""
    policy = ServedPolicy(address, spec, timeout_s=WAIT_S)
    batches: list[ActionBatch] = []
    try:
        policy.probe(WAIT_S)
        state = np.zeros((rows, policy.state_size), np.float32)
        for step in range(STEPS):
            if step == STEPS // 2:
                state[::3] = 0
            barrier.wait(WAIT_S)
            batches.append(policy.act(observed(spec, client, step, rows), GENERATOR, state))
            given = batches[-1].state
            assert given is not None
            state = np.array(given)
    finally:
        policy.close()
    return batches


def side_by_side(directory: Path, artifact: Artifact, clients: int) -> tuple[list[list[ActionBatch]], list[int]]:
    """What each of the clients got, and how many rows each has."""
    rows = [client + 1 for client in range(clients)]
    barrier = threading.Barrier(clients)
    with inference_of(directory, artifact) as (_, address), concurrent.futures.ThreadPoolExecutor(clients) as pool:
        futures = [
            pool.submit(acted, address, artifact.spec, client, rows[client], barrier) for client in range(clients)
        ]
        return [future.result(WAIT_S) for future in futures], rows


def furthest(found: list[ActionBatch], wanted: list[ActionBatch]) -> float:
    """Largest difference of any logit or state."""
    pairs = list(zip(found, wanted, strict=True))
    logits = [np.abs(one.logits - other.logits).max() for one, other in pairs]
    states = [np.abs(kept(one) - kept(other)).max() for one, other in pairs]
    return float(max(logits + states))


def kept(batch: ActionBatch) -> NDArray[np.float32]:
    assert batch.state is not None
    return batch.state


@specs
def test_states_of_clients_are_their_own(spec: PolicySpec, socket_directory: Path) -> None:
    artifact = make_artifact(spec, 3)
    found, rows = side_by_side(socket_directory, artifact, 3)
    for client, batches in enumerate(found):
        assert furthest(batches, expected(artifact, client, rows[client])) < 1e-5


def test_states_that_are_mixed_up_would_be_told(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = make_artifact(LSTM, 3)
    right = batching._distribute

    def shifted(batch: ActionBatch, *others: Any) -> None:
        assert batch.state is not None
        right(batch._replace(state=np.roll(batch.state, 1, axis=0)), *others)

    monkeypatch.setattr(batching, "_distribute", shifted)
    found, rows = side_by_side(socket_directory, artifact, 3)
    assert max(furthest(each, expected(artifact, client, rows[client])) for client, each in enumerate(found)) > 1e-2


def test_requests_of_one_batch_keep_their_states_apart() -> None:
    """Requests that were certainly evaluated together, one with a state of its own, one that begins."""
    artifact = make_artifact(LSTM, 3)
    policy, state = NumpyPolicy(artifact), GENERATOR.standard_normal((2, LSTM.state_size)).astype(np.float32)
    asked: list[tuple[int, bytes]] = [(2, state.tobytes()), (3, b""), (1, bytes(4 * LSTM.state_size - 4))]
    requests = [
        policy_pb2.ActRequest(
            request_id=number, count=rows, observation=observed(LSTM, number, 0, rows).tobytes(), state=sent
        )
        for number, (rows, sent) in enumerate(asked)
    ]
    batcher = batching.Batcher(_Fixed(policy), np.random.default_rng(0))
    first, second, third = batcher._answer(requests)
    batcher._executor.shutdown()
    assert isinstance(third, batching.RequestError)
    assert "state has 36 bytes; 1 of 10 float32 have 40; no action is chosen" in str(third)
    for answer, before in ((first, state), (second, None)):
        assert isinstance(answer, policy_pb2.ActResponse)
        rows = 2 if before is not None else 3
        alone = NumpyPolicy(artifact).act(observed(LSTM, answer.request_id, 0, rows), GENERATOR, before)
        given = np.frombuffer(answer.state, "<f4").reshape(rows, -1)
        np.testing.assert_allclose(given, kept(alone), atol=1e-6)


class _Fixed:
    def __init__(self, policy: NumpyPolicy) -> None:
        self._acting = ActingPolicy(policy, 1, bytes(32), "release", 1)

    def current(self) -> ActingPolicy | None:
        return self._acting


def test_an_actor_whose_policy_is_served_stores_the_states_that_it_acted_from(socket_directory: Path) -> None:
    """Run over the stored rows from the stored state, a policy here says what the service did."""
    interface = make_vector(STEERED, 1).spec
    network = NetworkConfig(hidden_sizes=(6,), core="lstm", core_size=4)
    artifact = make_artifact(PolicySpec(network, interface.observation, interface.action), 5)
    writer, lanes, length = CollectingWriter(), 2, 8
    with inference_of(socket_directory, artifact) as (_, address):
        client = ServedPolicyClient(address, interface, timeout_s=WAIT_S)
        acting = client.wait(WAIT_S)
        assert acting is not None
        assert acting.policy.state_size == 8
        environment = make_vector(STEERED, lanes)
        buffer = UnrollBuffer(interface, lanes, length, state_size=acting.policy.state_size)
        Rollout(
            environment,
            buffer,
            client,
            writer,
            seed_of=lambda lane, episode: 100 * lane + episode,
            generator=np.random.default_rng(0),
            policy_wait_s_max=WAIT_S,
            stop=lambda: len(writer.unrolls) >= 5,
        ).run()
        client.close()
        environment.close()
    layout, policy = PayloadLayout(buffer.schema), NumpyPolicy(artifact)
    states = []
    for _, payloads in writer.unrolls:
        columns = layout.decode_batch(payloads, length)
        state = np.array(columns["state"][0])
        states.append(state.copy())
        for row in range(length):
            seen = {name: part[row] for name, part in columns.items() if name.startswith("observation")}
            observation = interface.observation.zeros(lanes)
            for name, part in interface.observation.columns(observation).items():
                part[...] = seen[name]
            batch = policy.act(observation, GENERATOR, state)
            made = columns["mask"][row]
            np.testing.assert_allclose(batch.logits[made], columns["logits"][row][made], atol=1e-5)
            state = np.where((columns["discount"][row] == 0)[:, None], np.float32(0.0), kept(batch))
    assert any(state.any() for state in states)
