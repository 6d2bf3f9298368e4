"""One actor process: builds its environment, policy source and writer, and runs the rollout until told to stop.

What it imports is what a thin actor is: numpy, grpc and its environment. Processes are started by `actors.host`.

Exceptions: JobError (a ValueError) for a job that contradicts itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from actors.config import ActorConfig, EnvironmentConfig
from actors.environment import EnvironmentSpec
from actors.environments.catalog import make_vector
from actors.lockstep import SEED_NAME, Lockstep
from actors.rollout import Rollout, first_policy
from actors.seeds import acting_seed, training_seed
from actors.unroll import UnrollBuffer
from policies.client import PolicyClient
from policies.config import Backend
from policies.served import ServedPolicyClient
from policies.signing import VerifyKey
from policies.trust import TrustPolicy
from protos.common.v1 import common_pb2
from protos.transport import check_address
from replay.client_sharded import open_writer
from replay.config import ReplayConfig
from replay.large_buffers import keep_large_buffers
from replay.payload_encoding import ENCODINGS
from replay.schema import PAYLOAD_BYTES_MAX
from replay.sharding import check_addresses

_LARGE_PAYLOAD_BYTES = 128 * 1024
"""From here on the memory of one payload would come from the kernel anew for each."""

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}")


class JobError(ValueError):
    """A job contradicts itself; the message is one line for the person who gave it."""


@dataclasses.dataclass(frozen=True)
class ActorJob:
    """Everything that the actors of one host need to know.

    Attributes:
      actor, environment, replay: settings.
      seed: of the training run; episode seeds and actions derive from it.
      run_id: of the training run. Each actor process has a run id of its own besides.
      config_digest: SHA-256 of the run's configuration file (32 bytes), for provenance.
      replay_address: where records go.
      policy_address: where policies come from.
      inference_address: where actions come from, if inference is "served".
      trust_key_path: PEM file of the safety service's public key.
      actor_prefix: actors are named PREFIX-0000, PREFIX-0001, ...
      processes: how many.
      source_revision: revision of this code, or "" where it is not known.
      lockstep_unrolls: unrolls to be acted by each snapshot (`actors.lockstep`); 0: whatever timing makes of it.
    """

    actor: ActorConfig
    environment: EnvironmentConfig
    replay: ReplayConfig
    seed: int
    run_id: str
    config_digest: bytes
    replay_address: str
    policy_address: str
    inference_address: str | None
    trust_key_path: Path
    actor_prefix: str
    processes: int
    source_revision: str = ""
    lockstep_unrolls: int = 0


def check_job(job: ActorJob) -> None:
    """Finds what would fail in every process before one is started, and imports what the environment needs.

    Raises:
      JobError: inference is "served" and nobody serves it, actor_prefix makes no names that replay would take, or one
        record or one unroll of all lanes is too large.
      SchemaError: a single row would be larger than any may be.
      AddressError: an address is malformed.
      KeyFileError: the trusted key cannot be read.
      EnvironmentUnsupported: the environment cannot be made.
    """
    if job.actor.inference == "served" and job.inference_address is None:
        raise JobError("actor.inference = 'served' needs the address of an inference service: --inference-address")
    if not _PREFIX.fullmatch(job.actor_prefix):
        raise JobError(
            f"actor_prefix {job.actor_prefix!r} must be 1 to 100 of A-Z, a-z, 0-9, '.', '_' and '-': replay and the "
            "learner would refuse actors of that name"
        )
    check_addresses(job.replay_address)
    for address in (job.policy_address, job.inference_address):
        if address is not None:
            check_address(address)
    VerifyKey.load(job.trust_key_path)
    environment = make_vector(job.environment, 1)
    try:
        check_window(job.actor, environment.spec)
    finally:
        environment.close()


def check_window(actor: ActorConfig, spec: EnvironmentSpec, state_size: int = 0) -> None:
    """Checks that replay takes a record, and the writer's window an unroll of all lanes, which is appended at once.

    Raises:
      JobError: one of them is too large.
      SchemaError: a single row would be larger than any may be.
    """
    payload_bytes = UnrollBuffer(spec, 1, actor.unroll_length, state_size=state_size).payload_bytes
    if payload_bytes > PAYLOAD_BYTES_MAX:
        raise JobError(
            f"a record of actor.unroll_length = {actor.unroll_length} rows takes {payload_bytes} bytes, the limit is "
            f"{PAYLOAD_BYTES_MAX}: replay would refuse it; lower unroll_length"
        )
    if actor.lanes > actor.window_records:
        raise JobError(
            f"actor.lanes = {actor.lanes} exceeds actor.window_records = {actor.window_records}: the records of one "
            "unroll could never be sent; raise window_records or lower lanes"
        )
    if actor.lanes * payload_bytes > actor.window_bytes:
        raise JobError(
            f"{actor.lanes} payloads of {payload_bytes} bytes exceed actor.window_bytes = {actor.window_bytes}: the "
            "records of one unroll could never be sent; raise window_bytes or lower lanes or unroll_length"
        )


def run_actor(job: ActorJob, actor_id: str, run_id: str, stop: Callable[[], bool]) -> str:
    """Runs one actor until `stop` is True, sends what it still holds, and returns one line about what it did.

    Args:
      job: as for every actor of the host.
      actor_id: name of this actor.
      run_id: of this process, never used before.
      stop: asked before every step.

    Raises:
      RolloutError, UnrollFault, ReplayRefused: the actor cannot go on; see `actors.rollout.Rollout.run`.
    """
    environment = make_vector(job.environment, job.actor.lanes)
    spec = environment.spec
    with contextlib.ExitStack() as stack:
        stack.callback(environment.close)
        policies = _policy_source(job, spec, actor_id, run_id)
        stack.callback(policies.close)
        # What a record holds depends on the policy: a recurrent one has a state.
        first = first_policy(policies, job.actor.policy_wait_s, stop)
        if first is None:
            return "stopped before there was a policy"
        buffer = _buffer(job, spec, first.policy.state_size)
        writer = open_writer(
            job.replay_address,
            _origin(job, spec, buffer.schema, actor_id, run_id),
            window_records=job.actor.window_records,
            window_bytes=job.actor.window_bytes,
        )
        # Less than the time that the host grants in all, so that this process still ends by itself. Replay may be
        # holding inserts back for a learner that ended before us: what it has not taken by then, and so has never
        # acknowledged, is given up.
        stack.callback(writer.close, job.actor.stop_s_max / 8)
        lockstep = Lockstep(policies, writer, job.lockstep_unrolls) if job.lockstep_unrolls else None
        seed_name = run_id if lockstep is None else SEED_NAME
        rollout = Rollout(
            environment,
            buffer,
            lockstep or policies,
            lockstep or writer,
            seed_of=lambda lane, episode: training_seed(job.seed, actor_id, seed_name, lane, episode),
            generator=np.random.Generator(np.random.PCG64(acting_seed(job.seed, actor_id, seed_name))),
            policy_wait_s_max=job.actor.policy_wait_s,
            stop=stop,
        )
        rollout.run()
    done, written = rollout.statistics, writer.statistics
    return (
        f"{done.env_steps} steps, {done.episodes} episodes, {written.acknowledged} records acknowledged, "
        f"{done.dropped_records + written.unacknowledged} lost; waited {done.policy_wait_s:.1f} s for a policy, "
        f"{written.waiting_s:.1f} s for replay"
    )


def _buffer(job: ActorJob, spec: EnvironmentSpec, state_size: int) -> UnrollBuffer:
    check_window(job.actor, spec, state_size)
    lanes, length = job.actor.lanes, job.actor.unroll_length
    buffer = UnrollBuffer(spec, lanes, length, ENCODINGS[job.actor.compression], state_size)
    if buffer.payload_bytes > _LARGE_PAYLOAD_BYTES:
        keep_large_buffers()
    return buffer


def _origin(
    job: ActorJob, spec: EnvironmentSpec, schema: common_pb2.Schema, actor_id: str, run_id: str
) -> common_pb2.Origin:
    return common_pb2.Origin(
        actor_id=actor_id,
        run_id=run_id,
        environment=common_pb2.EnvironmentIdentity(id=spec.id, version=spec.version, code_digest=spec.code_digest),
        schema=schema,
        config_digest=job.config_digest,
        source_revision=job.source_revision,
    )


def _policy_source(
    job: ActorJob, spec: EnvironmentSpec, actor_id: str, run_id: str
) -> PolicyClient | ServedPolicyClient:
    if job.actor.inference == "served" and job.inference_address is not None:
        # A request must be over before the host loses patience with a process that was told to stop.
        return ServedPolicyClient(job.inference_address, spec, timeout_s=job.actor.stop_s_max / 4)
    trust = TrustPolicy(VerifyKey.load(job.trust_key_path), job.run_id)
    backend: Backend = "jax" if job.actor.inference == "jax" else "numpy"
    return PolicyClient(job.policy_address, trust, backend, actor_id, run_id, expected=spec)
