"""Records of real rollouts in real environments, as a log holds them, and ways to forge them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environment import EnvironmentSpec
from actors.environments.catalog import make_vector
from actors.rollout import Rollout
from actors.seeds import training_seed
from actors.unroll import UnrollBuffer
from policies.client import ActingPolicy
from policies.distributions import sample
from policies.policy import ActionBatch, RandomSource
from protos.common.v1 import common_pb2
from replay.payload_encoding import RAW
from replay.record import LoggedRecord
from replay.schema import Encoding, PayloadLayout
from tests.actors.scripted import CollectingWriter, ScriptedSource


class UniformPolicy:
    """Chooses every action with the same probability; what it keeps, if anything, counts its steps."""

    identity = None

    def __init__(self, spec: EnvironmentSpec, state_size: int = 0) -> None:
        self.spec = spec
        self.state_size = state_size

    def act(
        self, observation: NDArray[Any], generator: RandomSource, state: NDArray[np.float32] | None = None
    ) -> ActionBatch:
        logits = np.zeros((len(observation), self.spec.action.parameters), np.float32)
        action, log_prob = sample(logits, self.spec.action, generator)
        kept = None if state is None or not self.state_size else state + 1
        return ActionBatch(action, log_prob, logits, state=kept)


def record_run(
    config: EnvironmentConfig,
    *,
    lanes: int = 3,
    length: int = 7,
    unrolls: int = 12,
    actor_id: str = "actor-0",
    run_seed: int = 0,
    first_position: int = 0,
    encoding: Encoding = RAW,
    state_size: int = 0,
) -> list[LoggedRecord]:
    """What one actor run puts into a log: `unrolls` records of each lane, in the order in which it sends them."""
    environment = make_vector(config, lanes)
    spec = environment.spec
    buffer = UnrollBuffer(spec, lanes, length, encoding, state_size)
    writer = CollectingWriter()
    policy = ActingPolicy(UniformPolicy(spec, state_size), 1, bytes(32), "snapshot", 0)
    Rollout(
        environment,
        buffer,
        ScriptedSource(lambda _call: policy),
        writer,
        seed_of=lambda lane, episode: training_seed(run_seed, actor_id, "run-0", lane, episode),
        generator=np.random.default_rng(run_seed),
        policy_wait_s_max=5.0,
        stop=lambda: len(writer.unrolls) >= unrolls,
    ).run()
    environment.close()
    origin = common_pb2.Origin(
        actor_id=actor_id,
        run_id="run-0",
        environment=common_pb2.EnvironmentIdentity(id=spec.id, version=spec.version, code_digest=spec.code_digest),
        schema=buffer.schema,
        config_digest=bytes(32),
    )
    records: list[LoggedRecord] = []
    for headers, payloads in writer.unrolls:
        for header, payload in zip(headers, payloads, strict=True):
            header.sequence = len(records)
            header.payload_digest = hashlib.sha256(payload).digest()
            records.append(LoggedRecord(first_position + len(records), header, origin, payload))
    return records


def interleaved(*runs: Sequence[LoggedRecord]) -> list[LoggedRecord]:
    """Records of several runs of equal length as they come in together, with positions from 0."""
    mixed = [record for group in zip(*runs, strict=True) for record in group]
    return [dataclasses.replace(record, position=position) for position, record in enumerate(mixed)]


def with_header(record: LoggedRecord, **fields: Any) -> LoggedRecord:
    """The record with another header; a list replaces a repeated field."""
    header = common_pb2.RecordHeader.FromString(record.header.SerializeToString())
    for name, value in fields.items():
        header.ClearField(name)
        header.MergeFrom(common_pb2.RecordHeader(**{name: value}))
    return dataclasses.replace(record, header=header)


def with_column(record: LoggedRecord, name: str, row: int | tuple[int, ...], value: Any) -> LoggedRecord:
    """The record with another value in one row, and the digest of that."""
    columns = {each: column.copy() for each, column in record.columns.items()}
    columns[name][row] = value
    payload = PayloadLayout(record.origin.schema).encode(columns, record.header.encoding)
    return dataclasses.replace(with_header(record, payload_digest=hashlib.sha256(payload).digest()), payload=payload)
