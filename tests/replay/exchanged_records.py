"""Records as an actor makes them, from episodes that are known, for the tests of exports and imports. Not a test."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.lmdb_store import LmdbStore
from replay.offline import OfflineSource
from replay.payload_encoding import RAW, encode_payload
from replay.provenance import check_batch, check_origin
from replay.record import LoggedRecord
from replay.schema import Encoding, PayloadLayout, schema_of
from replay.store import Append, StoreSettings, origin_digest, run_key
from replay.testing import DIGEST, make_origin

Arrays = dict[str, NDArray[Any]]

START_NS = 1_700_000_000_123_456_789


@dataclass(frozen=True)
class MadeEpisode:
    """An episode of k steps: observation [k + 1, 2], action and reward [k]; how it ended."""

    observation: NDArray[np.float32]
    action: NDArray[np.int32]
    reward: NDArray[np.float32]
    terminated: bool
    seed: int

    @property
    def steps(self) -> int:
        return len(self.action)


def made_episodes(lengths: Sequence[int], seed: int = 0) -> list[MadeEpisode]:
    """Every other one, from the first on, terminates; the rest are truncated."""
    generator = np.random.default_rng(seed)
    return [
        MadeEpisode(
            generator.standard_normal((steps + 1, 2), np.float32),
            generator.integers(0, 3, steps, np.int32),
            generator.standard_normal(steps, np.float32),
            number % 2 == 0,
            1000 * seed + number,
        )
        for number, steps in enumerate(lengths)
    ]


def _rows(episodes: Sequence[MadeEpisode]) -> tuple[Arrays, list[tuple[int, int]]]:
    """The rows of a lane one after another, and of each the number of its episode and the steps before it."""
    parts: list[Arrays] = []
    where: list[tuple[int, int]] = []
    for number, episode in enumerate(episodes):
        boundary = 0 if episode.terminated else 1
        rows = episode.steps + boundary
        discount = np.ones(rows, np.float32)
        discount[-1] = 0
        parts.append(
            {
                "observation": episode.observation[:rows],
                "action": np.pad(episode.action, (0, boundary)),
                "reward": np.pad(episode.reward, (0, boundary)),
                "discount": discount,
                "mask": np.arange(rows) < episode.steps,
            }
        )
        where += [(number, step) for step in range(rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, where


def lane_records(
    episodes: Sequence[MadeEpisode], rows: int, *, lane: int = 0, encoding: Encoding = RAW
) -> Iterator[tuple[common_pb2.RecordHeader, Arrays, Encoding]]:
    """Headers (without sequence and digest) and columns of the records of `rows` rows that a lane's episodes fill."""
    columns, where = _rows(episodes)
    for first in range(0, len(where) - rows, rows):
        number, step = where[first]
        part = {name: each[first : first + rows] for name, each in columns.items()}
        part["observation"] = columns["observation"][first : first + rows + 1]
        begun = [episode for episode, before in where[first + 1 : first + rows] if before == 0]
        ended = [episode for episode, before in where[first : first + rows] if before == episodes[episode].steps - 1]
        header = common_pb2.RecordHeader(
            steps=rows,
            lane=lane,
            environment_seed=episodes[number].seed,
            episode=number,
            episode_step=step,
            policies=[common_pb2.PolicySpan(first_step=0, version=first, digest=DIGEST)],
            start_time_ns=START_NS + first,
            end_time_ns=START_NS + first + rows,
            signals={
                "return": float(sum(episodes[each].reward.sum(dtype=np.float64) for each in ended)),
                "episodes": float(len(ended)),
            },
            encoding=encoding,
            episode_seeds=[episodes[each].seed for each in begun],
        )
        if rows > 1:
            header.policies.add(first_step=rows // 2, version=first + 1, digest=DIGEST)
        yield header, part, encoding


def logged(
    lanes: Iterable[tuple[common_pb2.RecordHeader, Arrays, Encoding]],
    *,
    actor_id: str = "actor-0",
    run_id: str = "run-0",
    first_position: int = 0,
) -> list[LoggedRecord]:
    """The records of one run, as a reader of the log sees them."""
    found = []
    for sequence, (header, columns, encoding) in enumerate(lanes):
        origin = make_origin(actor_id, run_id, columns, header.steps)
        payload = encode_payload(PayloadLayout(origin.schema).encode(columns), encoding)
        header.sequence = sequence
        header.payload_digest = hashlib.sha256(payload).digest()
        found.append(LoggedRecord(first_position + sequence, header, origin, payload))
    return found


def any_record(
    columns: Arrays,
    steps: int,
    *,
    position: int = 0,
    actor_id: str = "actor-0",
    once: Collection[str] = frozenset(),
) -> LoggedRecord:
    """A record of these columns, those in `once` stored once."""
    header = common_pb2.RecordHeader(
        steps=steps,
        sequence=position,
        policies=[common_pb2.PolicySpan(first_step=0, version=3, digest=DIGEST)],
        start_time_ns=START_NS,
        end_time_ns=START_NS + 1,
    )
    origin = make_origin(actor_id, columns=columns, steps=steps, once=once)
    assert origin.schema == schema_of(columns, steps, once)
    payload = PayloadLayout(origin.schema).encode(columns)
    header.payload_digest = hashlib.sha256(payload).digest()
    return LoggedRecord(position, header, origin, payload)


def store_of(directory: Path, records: Sequence[LoggedRecord], signal_names: tuple[str, ...] = ()) -> Path:
    """A store that holds these records, in this order, and totals these signals. Returns `directory`."""
    store = LmdbStore(directory, StoreSettings(signal_names=signal_names))
    for record in records:
        pending = check_batch(
            [common_pb2.Record(header=record.header, payload=record.payload)], check_origin(record.origin)
        )
        origin = record.origin
        append = Append(run_key(origin), origin.SerializeToString(deterministic=True), origin_digest(origin), pending)
        assert store.commit([append], {})[0].refusal is None
    store.close()
    return directory


def contents(directory: Path) -> list[tuple[bytes, bytes, bytes]]:
    """Origin, header and payload of every record of a store, sorted: what an import must bring back to the byte."""
    with OfflineSource(directory) as source:
        return sorted(
            (
                record.origin.SerializeToString(deterministic=True),
                record.header.SerializeToString(deterministic=True),
                record.payload,
            )
            for record in source.records(with_payload=True)
        )


def left_in(directory: Path) -> list[str]:
    """Names of everything in a directory, hidden files included."""
    return sorted(path.name for path in directory.iterdir())
