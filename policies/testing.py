"""For tests, this package's and others': the contract of a policy, and makers of artifacts, keys and statements.

Nothing here is for production: the keys sign whatever they are asked to.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.architecture import parameter_shapes
from policies.artifact import Artifact
from policies.config import NetworkConfig
from policies.distributions import log_prob
from policies.key_chain import LEASE_PURPOSE
from policies.policy import Policy
from policies.signing import (
    KEY_TYPE,
    LEASE_TYPE,
    PROMOTION_TYPE,
    REVOCATION_TYPE,
    VERDICT_TYPE,
    SigningKey,
    VerifyKey,
    sign,
)
from policies.spaces import ActionSpace, array_space, discrete, record_space
from policies.spec import PolicySpec
from protos.common.v1 import common_pb2
from protos.safety.v1 import safety_pb2

RUN_ID = "test-run"
SECOND_NS = 1_000_000_000


def make_spec(
    observation_shape: tuple[int, ...] = (4,), choices: int = 2, observation_dtype: str = "<f4", **network: Any
) -> PolicySpec:
    """A small specification; keywords beyond the named ones are settings of the network."""
    settings = {"hidden_sizes": (8, 8), "conv_channels": (3,)} | network
    return PolicySpec(NetworkConfig(**settings), array_space(observation_shape, observation_dtype), discrete(choices))


def make_artifact(spec: PolicySpec | None = None, seed: int = 0) -> Artifact:
    """An artifact with random parameters of about the size that training gives them, made without a framework."""
    spec = spec or make_spec()
    generator = np.random.default_rng(seed)
    parameters = {}
    for name, shape in parameter_shapes(spec).items():
        scale = 1 / math.sqrt(math.prod(shape[:-1])) if name.endswith("kernel") else 0.1
        parameters[name] = (scale * generator.standard_normal(shape)).astype(np.float32)
    return Artifact(spec, parameters)


def signed_verdict(key: SigningKey, artifact_digest: bytes, **fields: Any) -> common_pb2.SignedStatement:
    """A verdict that approves `artifact_digest` as release 1 of RUN_ID for an hour from now, but for `fields`."""
    now = time.time_ns()
    verdict: dict[str, Any] = {
        "verdict_id": "0123456789abcdef",
        "run_id": RUN_ID,
        "version": 1,
        "artifact_digest": artifact_digest,
        "approved": True,
        "release_number": 1,
        "episodes": 100,
        "return_mean": 480.0,
        "issue_time_ns": now,
        "expiry_time_ns": now + 3600 * SECOND_NS,
    } | fields
    return sign(key, VERDICT_TYPE, safety_pb2.VerdictStatement(**verdict).SerializeToString(deterministic=True))


def signed_lease(key: SigningKey, **fields: Any) -> common_pb2.SignedStatement:
    """Lease 1 of RUN_ID for a minute from now, but for `fields`; by a lease key for RUN_ID that `key` vouches for."""
    now = time.time_ns()
    lease: dict[str, Any] = {
        "run_id": RUN_ID,
        "lease_number": 1,
        "issue_time_ns": now,
        "expiry_time_ns": now + 60 * SECOND_NS,
    } | fields
    lease_key, certificate = _lease_key(key)
    payload = safety_pb2.LeaseStatement(**lease).SerializeToString(deterministic=True)
    return sign(lease_key, LEASE_TYPE, payload, [certificate])


def signed_key(
    key: SigningKey, certified: VerifyKey, purpose: str = LEASE_PURPOSE, **fields: Any
) -> common_pb2.SignedStatement:
    """The word of `key` that `certified` is a key of RUN_ID for this purpose, but for `fields`."""
    statement: dict[str, Any] = {
        "run_id": RUN_ID,
        "purpose": purpose,
        "public_key": certified.raw,
        "issue_time_ns": time.time_ns(),
    } | fields
    return sign(key, KEY_TYPE, safety_pb2.KeyStatement(**statement).SerializeToString(deterministic=True))


@functools.lru_cache
def _lease_key(key: SigningKey) -> tuple[SigningKey, common_pb2.SignedStatement]:
    lease_key = SigningKey.generate()
    return lease_key, signed_key(key, lease_key.verify_key)


def signed_revocation(key: SigningKey, artifact_digest: bytes, **fields: Any) -> common_pb2.SignedStatement:
    """Revocation 1 of RUN_ID, of release 1 with the artifact `artifact_digest`, but for `fields`."""
    revocation: dict[str, Any] = {
        "run_id": RUN_ID,
        "revocation_number": 1,
        "release_number": 1,
        "artifact_digest": artifact_digest,
        "why": "it learnt from poisoned records",
        "issue_time_ns": time.time_ns(),
    } | fields
    statement = safety_pb2.RevocationStatement(**revocation)
    return sign(key, REVOCATION_TYPE, statement.SerializeToString(deterministic=True))


def signed_promotion(key: SigningKey, artifact_digest: bytes, **fields: Any) -> common_pb2.SignedStatement:
    """Promotion 1 of RUN_ID, of release 1 with the artifact `artifact_digest`, but for `fields`."""
    promotion: dict[str, Any] = {
        "run_id": RUN_ID,
        "promotion_number": 1,
        "release_number": 1,
        "artifact_digest": artifact_digest,
        "episodes": 100,
        "why": "the canary did no harm",
        "issue_time_ns": time.time_ns(),
    } | fields
    statement = safety_pb2.PromotionStatement(**promotion)
    return sign(key, PROMOTION_TYPE, statement.SerializeToString(deterministic=True))


class PolicyContract(abc.ABC):
    """What holds for every implementation of `policies.policy.Policy`: subclass it as TestX and say how X is made.

    The oracle is the network that the learner trains; it needs jax where the tests run.
    """

    SPECS = (
        make_spec(),
        make_spec(activation="relu", hidden_sizes=()),
        make_spec((3, 2), 5, "|b1"),
        make_spec((), 3, "<i4", hidden_sizes=(16,)),
        make_spec((6, 5, 2), 4, "|u1", kind="conv", activation="relu"),
        make_spec((10, 10, 4), 6, "<f4", kind="conv", conv_channels=(4, 5), conv_stride=2),
        make_spec((9, 7, 3), 4, "|u1", kind="resnet", resnet_channels=(4, 5)),
        make_spec((4,), 3, core="lstm", core_size=6),
        make_spec((4,), 3, core="gru", core_size=6, normalize_observations=True),
        PolicySpec(
            NetworkConfig(kind="conv", hidden_sizes=(8,), conv_channels=(3,), normalize_observations=True),
            record_space({"image": ((5, 4, 2), "|u1"), "inner/speed": ((2,), "<f4"), "gear": ((3,), "|b1")}),
            ActionSpace("box", (3,)),
        ),
        PolicySpec(NetworkConfig(hidden_sizes=(8,)), array_space((4,), "<f4"), ActionSpace("multi_discrete", (3, 2))),
    )

    @abc.abstractmethod
    def policy(self, artifact: Artifact) -> contextlib.AbstractContextManager[Policy]:
        """A policy of `artifact`; leaving the context releases what it holds."""

    def test_log_probabilities_are_those_of_the_learners_network(self) -> None:
        """Log-probabilities and states agree within 1e-6, for one and for many rows."""
        for seed, spec in enumerate(self.SPECS):
            artifact, observation = make_artifact(spec, seed), random_observation(spec, 64, seed)
            state = np.random.default_rng(seed).standard_normal((64, spec.state_size)).astype(np.float32)
            expected, following = network_output(spec, seed, 64, seed)
            with self.policy(artifact) as policy:
                for rows in (1, 7, 64, 7):
                    given = state[:rows] if spec.state_size else None
                    batch = policy.act(observation[:rows], np.random.default_rng(seed), given)
                    chosen = log_prob(expected[:rows], batch.action, spec.action)
                    np.testing.assert_allclose(batch.log_prob, chosen, rtol=1e-6, atol=1e-6)
                    again = log_prob(batch.logits, batch.action, spec.action)
                    np.testing.assert_allclose(again, chosen, rtol=1e-6, atol=1e-6)
                    if batch.state is not None:
                        np.testing.assert_array_less(np.abs(batch.state - following[:rows]), 1e-6)

    def test_shapes_and_types(self) -> None:
        """Actions of the space, log-probability float32 [N], logits float32 [N, P], state float32 [N, S] or none."""
        for spec in self.SPECS:
            with self.policy(make_artifact(spec)) as policy:
                batch = policy.act(random_observation(spec, 9, 0), np.random.default_rng(0))
                np.testing.assert_equal(
                    (batch.action.dtype, batch.action.shape), (spec.action.dtype, (9, *spec.action.shape))
                )
                np.testing.assert_equal(batch.action.shape, (9, *spec.action.shape))
                np.testing.assert_equal(spec.action.fault(batch.action), "")
                np.testing.assert_equal((batch.log_prob.dtype, batch.log_prob.shape), (np.dtype(np.float32), (9,)))
                np.testing.assert_equal(
                    (batch.logits.dtype, batch.logits.shape), (np.float32, (9, spec.action.parameters))
                )
                np.testing.assert_equal(policy.state_size, spec.state_size)
                if batch.state is not None:
                    np.testing.assert_equal((batch.state.dtype, batch.state.shape), (np.float32, (9, spec.state_size)))

    def test_actions_follow_the_distribution(self) -> None:
        """Frequencies over 20,000 draws lie within five standard errors of the probabilities."""
        spec = make_spec((3,), 4)
        artifact = make_artifact(spec, seed=3)
        observation = np.repeat(random_observation(spec, 1, 1), 4_000, axis=0)
        generator = np.random.default_rng(5)
        with self.policy(artifact) as policy:
            actions = np.concatenate([policy.act(observation, generator).action for _ in range(5)])
        logits = network_output(spec, 3, 1, 1)[0][0].astype(np.float64)
        probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        frequency = np.bincount(actions, minlength=4) / len(actions)
        error = np.sqrt(probability * (1 - probability) / len(actions))
        np.testing.assert_array_less(np.abs(frequency - probability), 5 * error)

    def test_results_are_the_callers(self) -> None:
        """A later call does not change an earlier result, and the observation is only read."""
        spec = make_spec()
        first, second = random_observation(spec, 8, 1), random_observation(spec, 8, 2)
        first.flags.writeable = False
        with self.policy(make_artifact(spec)) as policy:
            batch = policy.act(first, np.random.default_rng(1))
            kept = [array.copy() for array in batch[:3]]
            policy.act(second, np.random.default_rng(2))
            for array, copy in zip(batch[:3], kept, strict=True):
                np.testing.assert_array_equal(array, copy)

    def test_a_misfit_is_refused(self) -> None:
        """Another shape, no rows, or another type raise ValueError, and the policy works on."""
        with self.policy(make_artifact(make_spec())) as policy:
            generator = np.random.default_rng(0)
            for misfit in (np.zeros((2, 5), "f4"), np.zeros(4, "f4"), np.zeros((0, 4), "f4"), np.zeros((2, 4), "f8")):
                np.testing.assert_raises(ValueError, policy.act, misfit, generator)
            policy.act(np.zeros((2, 4), "f4"), generator)


def random_observation(spec: PolicySpec, rows: int, seed: int) -> NDArray[Any]:
    """Observations [rows, *shape] of the specification's space."""
    generator = np.random.default_rng(seed)
    observation = spec.observation.zeros(rows)
    for part in spec.observation.columns(observation).values():
        part[...] = _random_part(generator, part.shape, part.dtype)
    return observation


def _random_part(generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return np.asarray(generator.standard_normal(shape), dtype)
    high = {"b": 2, "u": 256, "i": 5}[dtype.kind]
    return generator.integers(0, high, shape).astype(dtype)


@functools.lru_cache
def network_output(
    spec: PolicySpec, artifact_seed: int, rows: int, observation_seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [rows, P] and next state [rows, S] by `policies.networks`.

    For the artifact and observations of these seeds; the state before is random, too, by the artifact's.
    """
    import jax  # noqa: PLC0415 - thin tests use the makers above without it

    from policies.networks import functional  # noqa: PLC0415 - likewise

    columns = spec.observation.columns(random_observation(spec, rows, observation_seed))
    state = np.random.default_rng(artifact_seed).standard_normal((rows, spec.state_size)).astype(np.float32)
    output = jax.jit(functional(spec))(
        make_artifact(spec, artifact_seed).parameters,
        {name: np.ascontiguousarray(part)[None] for name, part in columns.items()},
        state,
        np.zeros((1, rows), np.bool_),
    )
    return np.asarray(output.logits[0]), np.asarray(output.state)
