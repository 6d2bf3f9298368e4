"""What an actor process stored is what the learner's network says: behaviour log-probabilities at the same weights.

An actor runs in a process of its own, gets each policy from a distribution service and sends its records to a replay
service, over real sockets. The learner's network, run over whole unrolls from the stored state, agrees row by row with
the stored log-probabilities, whatever the network and the actions, also across ends of episodes inside of an unroll. So
a ratio other than 1 means staleness alone.

Probabilities of choices agree within 1e-6. The logarithm of a density is a sum of terms that may be large and of either
sign - squares of noise, logarithms of deviations - and float32 keeps each of them to some parts in ten million: there
it is 1e-6 of the sum of their magnitudes, where that is above 1.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from actors.config import ActorConfig, EnvironmentConfig
from actors.environments.catalog import make_vector
from actors.process import ActorJob
from learner.columns import core_state, observations, resets, trained_columns
from learner.distributions import log_prob
from policies.artifact import Artifact, artifact_digest
from policies.config import NetworkConfig
from policies.distribution import DistributionServer, PolicyBoard
from policies.distributions import gaussian
from policies.networks import functional
from policies.signing import SigningKey
from policies.spec import PolicySpec
from policies.testing import RUN_ID, make_artifact, signed_verdict
from replay.client import ReplayClient
from replay.config import ReplayConfig
from replay.schema import PayloadLayout
from replay.testing import serving
from tests.actors.spaces_environment import STEERED, SWITCHED

pytestmark = pytest.mark.timeout(180)

T, LANES, UNROLLS = 16, 3, 4
TOLERANCE = 1e-6
KEY = SigningKey.generate()
SHORT = EnvironmentConfig("cartpole", episode_steps_max=9)
CATCH_MEMORY = EnvironmentConfig("catch-memory")

CASES: dict[str, tuple[EnvironmentConfig, dict[str, Any]]] = {
    "mlp-categorical-normalized": (SHORT, {"normalize_observations": True}),
    "mlp-gaussian": (STEERED, {}),
    "conv-multi": (SWITCHED, {"kind": "conv", "conv_channels": (4,), "normalize_observations": True}),
    "resnet-gaussian": (STEERED, {"kind": "resnet", "resnet_channels": (3, 4), "normalize_observations": True}),
    "lstm-categorical": (CATCH_MEMORY, {"core": "lstm", "core_size": 6}),
    "lstm-gaussian-normalized": (STEERED, {"core": "lstm", "core_size": 6, "normalize_observations": True}),
    "gru-categorical-normalized": (SHORT, {"core": "gru", "core_size": 6, "normalize_observations": True}),
    "gru-multi": (SWITCHED, {"kind": "conv", "conv_channels": (4,), "core": "gru", "core_size": 6}),
}
RECURRENT = [case for case in CASES if case.startswith(("lstm", "gru"))]

ACTOR = """
import itertools, pathlib, sys
from actors.config import ActorConfig, EnvironmentConfig
from actors.process import ActorJob, run_actor
from replay.config import ReplayConfig
PosixPath = pathlib.PosixPath
assert "jax" not in sys.modules
for line in sys.stdin:
    job, asked = eval(line), itertools.count()
    # Asked before every step, and a few times besides: too few for another unroll.
    asked_max = job.actor.unroll_length * %d + 8
    print(run_actor(job, job.actor_prefix, "run-0", lambda: next(asked) > asked_max), flush=True)
"""


class Stored(NamedTuple):
    """What the actor stored of one policy."""

    spec: PolicySpec
    parameters: dict[str, NDArray[np.float32]]
    columns: dict[str, NDArray[Any]]
    """Time-major, of all records."""


def artifact_for(case: str) -> Artifact:
    config, network = CASES[case]
    interface = make_vector(config, 1).spec
    settings = NetworkConfig(**{"hidden_sizes": (16,), **network})
    return make_artifact(PolicySpec(settings, interface.observation, interface.action), 7)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stored]]:
    """The records of one actor process that acted with the policies of all cases, one after the other."""
    directory = tmp_path_factory.mktemp("behaviour")
    key_path = directory / "verify_key.pem"
    KEY.verify_key.save(key_path)
    replay = ReplayConfig(store="memory", fresh_unconsumed_max=100_000)
    with serving(replay) as replay_address, contextlib.ExitStack() as stack:
        jobs = [_job(stack, case, replay, replay_address, key_path) for case in CASES]
        done = subprocess.run(
            [sys.executable, "-c", ACTOR % UNROLLS],
            input="".join(f"{job!r}\n" for job in jobs),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with ReplayClient(replay_address) as client:
            yield {case: _columns(client, case) for case in CASES}


def _job(stack: contextlib.ExitStack, case: str, replay: ReplayConfig, replay_address: str, key_path: Path) -> ActorJob:
    data, board = artifact_for(case).to_bytes(), PolicyBoard()
    board.publish_release(1, data, signed_verdict(KEY, artifact_digest(data)))
    server = DistributionServer(board, "127.0.0.1:0")
    stack.callback(server.stop)
    return ActorJob(
        actor=ActorConfig(lanes=LANES, unroll_length=T, window_records=64),
        environment=CASES[case][0],
        replay=replay,
        seed=0,
        run_id=RUN_ID,
        config_digest=bytes(32),
        replay_address=replay_address,
        policy_address=server.start(),
        inference_address=None,
        trust_key_path=key_path,
        actor_prefix=case,
        processes=1,
    )


def _columns(client: ReplayClient, case: str) -> Stored:
    records = list(client.records(filter_text=f"actor_id == {case!r}", with_payload=True))
    assert len(records) == LANES * UNROLLS
    layout = PayloadLayout(records[0].origin.schema)
    artifact = artifact_for(case)
    columns = layout.decode_batch([record.payload for record in records], T)
    return Stored(artifact.spec, dict(artifact.parameters), columns)


def learner_log_probs(stored: Stored, columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Of the actions in the columns, by the learner's network, its distributions and its ways with columns. [T, B]"""
    spec = stored.spec
    batch = {name: columns[name] for name in trained_columns(spec)}
    output = jax.jit(functional(spec))(
        stored.parameters, observations(batch, spec), core_state(batch, spec), resets(batch)
    )
    return np.asarray(log_prob(output.logits[:-1], jnp.asarray(batch["action"]), spec.action))


def error(stored: Stored, columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Absolute difference to what is stored, 0 where no step was made. [T, B]"""
    difference = np.abs(learner_log_probs(stored, columns) - stored.columns["log_prob"])
    return np.where(stored.columns["mask"], difference, np.float32(0.0))


def magnitude(stored: Stored) -> NDArray[np.float32]:
    """Of the largest thing that a log-probability is a sum of, at least 1. [T, B]"""
    if stored.spec.action.is_discrete:
        return np.ones_like(stored.columns["log_prob"])
    mean, log_std = gaussian(stored.columns["logits"])
    squares = np.square((stored.columns["action"] - mean) * np.exp(-log_std))
    terms: NDArray[np.float32] = (0.5 * squares + np.abs(log_std) + 0.5 * np.log(2 * np.pi)).sum(axis=-1)
    return np.maximum(terms, 1)


@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_are_the_learner_s_row_by_row(case: str, stored: dict[str, Stored]) -> None:
    found = stored[case]
    columns, mask = found.columns, found.columns["mask"]
    assert (columns["discount"][:-1] == 0).any(), "an episode ends inside of an unroll"
    assert not mask.all() or case.endswith("categorical"), "one was truncated"
    assert len(np.unique(columns["log_prob"][mask])) > mask.sum() / 4
    assert np.all(error(found, columns) <= TOLERANCE * magnitude(found))


@pytest.mark.parametrize("case", RECURRENT)
def test_they_are_so_by_the_stored_state_and_the_resets(case: str, stored: dict[str, Stored]) -> None:
    """Without either the network says something else, so the test above can fail."""
    found = stored[case]
    state = found.columns["state"]
    assert state.shape == (1, LANES * UNROLLS, found.spec.state_size)
    assert state.any(axis=(0, 2)).any()
    assert not state.any(axis=(0, 2)).all(), "the first episodes begin with zeros"
    forgotten = {**found.columns, "state": np.zeros_like(state)}
    assert error(found, forgotten).max() > 1e-4
    endless = {**found.columns, "discount": np.ones_like(found.columns["discount"])}
    assert error(found, endless).max() > 1e-4
