"""For tests of this and other packages: small valid records, a service in a thread, and the contract of every store.

Not imported by production code. Subclass `StoreContract` in a test module and give it an `open_store`.
"""

# ruff: noqa: S101, D102  the contract is made of tests: they assert, and their names say what they check

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.chain import verify_chain
from replay.config import ReplayConfig
from replay.provenance import check_batch, check_origin
from replay.schema import PayloadLayout, schema_of
from replay.service import serve
from replay.store import (
    CHAIN_START,
    SEQUENCE_LEAD_MAX,
    Append,
    AppendOutcome,
    Store,
    StoreSettings,
    TableState,
    origin_digest,
    run_key,
)

DIGEST = hashlib.sha256(b"temper").digest()
SERVER_TIMEOUT_S = 20.0


def make_columns(steps: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Arrays of one small record: observation [T + 1, 4], action, reward and mask [T]."""
    generator = np.random.default_rng(seed)
    return {
        "observation": generator.standard_normal((steps + 1, 4), np.float32),
        "action": generator.integers(0, 2, steps, np.int32),
        "reward": np.ones(steps, np.float32),
        "mask": np.ones(steps, np.bool_),
    }


def make_origin(
    actor_id: str = "actor-0", run_id: str = "run-0", columns: Mapping[str, NDArray[Any]] | None = None, steps: int = 2
) -> common_pb2.Origin:
    """A valid origin whose schema is that of `columns` (default: `make_columns`)."""
    return common_pb2.Origin(
        actor_id=actor_id,
        run_id=run_id,
        environment=common_pb2.EnvironmentIdentity(id="Test-v0", version="test 1", code_digest=DIGEST),
        schema=schema_of(make_columns(steps) if columns is None else columns, steps),
        config_digest=DIGEST,
        source_revision="test",
    )


def make_header(
    steps: int = 2, policy_version: int = 0, signals: Mapping[str, float] | None = None
) -> common_pb2.RecordHeader:
    """A valid header but for sequence and payload_digest, which a ReplayWriter fills in."""
    return common_pb2.RecordHeader(
        steps=steps,
        policies=[common_pb2.PolicySpan(first_step=0, version=policy_version, digest=DIGEST)],
        start_time_ns=1,
        end_time_ns=2,
        signals={"steps": float(steps)} if signals is None else signals,
    )


def make_record(
    origin: common_pb2.Origin,
    sequence: int,
    *,
    steps: int = 2,
    policy_version: int = 0,
    signals: Mapping[str, float] | None = None,
) -> common_pb2.Record:
    """A valid record of an origin with the default schema; its arrays differ by sequence."""
    payload = PayloadLayout(origin.schema).encode(make_columns(steps, seed=sequence))
    header = make_header(steps, policy_version, signals)
    header.sequence = sequence
    header.payload_digest = hashlib.sha256(payload).digest()
    return common_pb2.Record(header=header, payload=payload)


def make_append(origin: common_pb2.Origin, sequences: Sequence[int], **record: Any) -> Append:
    """An Append of valid records of `origin`, ready for Store.commit."""
    records = [make_record(origin, sequence, **record) for sequence in sequences]
    pending = check_batch(records, check_origin(origin))
    return Append(run_key(origin), origin.SerializeToString(deterministic=True), origin_digest(origin), pending)


@contextlib.contextmanager
def serving(
    config: ReplayConfig | None = None, directory: Path | None = None, address: str | None = None
) -> Iterator[str]:
    """Runs a replay service in a thread of this process and gives its address; stops it at the end.

    By default the store is in memory and the address a new Unix socket. What the service raised is raised here.
    """
    sockets = Path(tempfile.mkdtemp(prefix="temper-"))
    ready = threading.Event()
    stops: list[Callable[[], object]] = []
    failures: list[BaseException] = []
    config = config or ReplayConfig(store="memory")
    address = address or f"unix:{sockets / 'replay.sock'}"

    async def run() -> None:
        stop = asyncio.Event()
        stops.append(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
        await serve(config, directory or sockets / "replay", address, on_ready=lambda _: ready.set(), stop=stop)

    def run_in_thread() -> None:
        try:
            asyncio.run(run())
        except Exception as error:  # noqa: BLE001  raised in the caller's thread below
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run_in_thread, name="replay-service", daemon=True)
    thread.start()
    try:
        if not ready.wait(SERVER_TIMEOUT_S):
            raise TimeoutError(f"the replay service did not start in {SERVER_TIMEOUT_S} s")
        if not failures:
            yield address
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has closed already where the service failed
            for stop in stops:
                stop()
        thread.join(SERVER_TIMEOUT_S)
        shutil.rmtree(sockets, ignore_errors=True)
    if failures:
        raise failures[0]


class StoreContract:
    """What every Store does. A subclass implements `open_store`."""

    @contextlib.contextmanager
    def open_store(self, settings: StoreSettings) -> Iterator[Store]:
        """An empty store, closed at the end."""
        raise NotImplementedError

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """A store that keeps everything and totals two signals."""
        with self.open_store(StoreSettings(1000, 1_000_000, ("steps", "return"))) as store:
            yield store

    def test_empty(self, store: Store) -> None:
        counters = store.counters()
        assert (counters.records, counters.next_position, counters.chain_head) == (0, 0, CHAIN_START)
        assert store.read([0, 1]) == []
        assert store.next_sequence(b"actor\0run") == 0
        assert dict(store.tables()) == {}
        assert verify_chain(store) == 0

    def test_append_then_read_in_any_order(self, store: Store) -> None:
        origin = make_origin()
        append = make_append(origin, range(5))
        assert store.commit([append], {}) == [AppendOutcome(5, 0)]
        read = store.read([3, 0, 3])
        assert [record.position for record in read] == [3, 0, 3]
        assert [record.header.sequence for record in read] == [3, 0, 3]
        assert [record.payload for record in read] == [append.records[index].payload for index in (3, 0, 3)]
        assert [record.header_bytes for record in read] == [append.records[index].header for index in (3, 0, 3)]
        assert store.origin(read[0].origin_id) == origin

    def test_read_leaves_out_what_is_not_there(self, store: Store) -> None:
        store.commit([make_append(make_origin(), range(2))], {})
        assert [record.position for record in store.read([5, 1, 2])] == [1]

    def test_headers_without_payloads(self, store: Store) -> None:
        store.commit([make_append(make_origin(), range(3))], {})
        headers = store.read_headers(range(3))
        assert [(record.header.sequence, record.payload) for record in headers] == [(0, b""), (1, b""), (2, b"")]

    def test_positions_follow_commit_order_across_runs(self, store: Store) -> None:
        first, second = make_origin("a"), make_origin("b")
        store.commit([make_append(first, [0, 1]), make_append(second, [0])], {})
        store.commit([make_append(first, [2])], {})
        read = store.read(range(4))
        owners = [(store.origin(record.origin_id).actor_id, record.header.sequence) for record in read]
        assert owners == [("a", 0), ("a", 1), ("b", 0), ("a", 2)]

    def test_equal_origins_are_stored_once(self, store: Store) -> None:
        store.commit([make_append(make_origin("a"), [0]), make_append(make_origin("b"), [0])], {})
        store.commit([make_append(make_origin("a"), [1])], {})
        assert [record.origin_id for record in store.read(range(3))] == [0, 1, 0]

    def test_resent_records_are_stored_once(self, store: Store) -> None:
        origin = make_origin()
        store.commit([make_append(origin, range(4))], {})
        assert store.commit([make_append(origin, range(2, 6))], {}) == [AppendOutcome(2, 2)]
        assert store.commit([make_append(origin, range(6))], {}) == [AppendOutcome(0, 6)]
        assert [record.header.sequence for record in store.read(range(10))] == [0, 1, 2, 3, 4, 5]
        assert store.counters().duplicate_records == 8
        assert store.next_sequence(run_key(origin)) == 6

    def test_resent_within_one_commit(self, store: Store) -> None:
        origin = make_origin()
        outcomes = store.commit([make_append(origin, [0, 1]), make_append(origin, [1, 2])], {})
        assert outcomes == [AppendOutcome(2, 0), AppendOutcome(1, 1)]
        assert store.counters().records == 3

    def test_reordered_and_interleaved_duplicates(self, store: Store) -> None:
        """Whatever order the messages of two streams of one run come in, each sequence is stored once."""
        origin, generator = make_origin(), np.random.default_rng(7)
        messages = [range(start, start + 4) for start in range(0, 40, 4)] * 2
        stored = 0
        for index in generator.permutation(len(messages)):
            (outcome,) = store.commit([make_append(origin, messages[index])], {})
            stored += outcome.inserted
            assert outcome.inserted + outcome.duplicates == 4
        assert stored == 40
        assert sorted(record.header.sequence for record in store.read(range(100))) == list(range(40))
        assert store.next_sequence(run_key(origin)) == 40

    def test_runs_do_not_share_sequences(self, store: Store) -> None:
        for origin in (make_origin("a", "r"), make_origin("a", "s"), make_origin("b", "r")):
            assert store.commit([make_append(origin, [0])], {}) == [AppendOutcome(1, 0)]

    def test_a_sequence_far_ahead_is_refused_alone(self, store: Store) -> None:
        origin, other = make_origin("a"), make_origin("b")
        refused, taken = store.commit([make_append(origin, [0, SEQUENCE_LEAD_MAX]), make_append(other, [0])], {})
        assert refused.refusal is not None
        assert str(SEQUENCE_LEAD_MAX) in str(refused.refusal)
        assert taken == AppendOutcome(1, 0)
        assert store.counters().records == 1
        assert store.next_sequence(run_key(origin)) == 0

    def test_table_states_are_kept(self, store: Store) -> None:
        store.commit([], {"fresh": TableState(3, 3)})
        store.commit([], {"uniform": TableState(0, 9), "fresh": TableState(5, 4)})
        assert dict(store.tables()) == {"fresh": TableState(5, 4), "uniform": TableState(0, 9)}

    def test_counters(self, store: Store) -> None:
        origin = make_origin()
        append = make_append(origin, range(3), signals={"return": 2.5, "other": 1.0})
        store.commit([append], {})
        store.commit([append, make_append(origin, [3], signals={"steps": 2.0})], {})
        counters = store.counters()
        assert counters.records == counters.next_position == 4
        assert counters.appended_steps == 8
        assert counters.payload_bytes == sum(len(record.payload) for record in store.read(range(4)))
        assert dict(counters.signal_totals) == {"return": 7.5, "steps": 2.0}

    def test_retention_by_records(self) -> None:
        with self.open_store(StoreSettings(5, 1_000_000)) as store:
            origin = make_origin()
            for start in range(0, 12, 3):
                store.commit([make_append(origin, range(start, start + 3))], {})
            counters = store.counters()
            assert (counters.first_position, counters.next_position, counters.records) == (7, 12, 5)
            assert [record.position for record in store.read(range(20))] == [7, 8, 9, 10, 11]
            assert counters.payload_bytes == sum(len(record.payload) for record in store.read(range(12)))
            assert verify_chain(store) == 5

    def test_retention_by_payload_bytes(self) -> None:
        origin = make_origin()
        one = len(make_record(origin, 0).payload)
        with self.open_store(StoreSettings(1000, 4 * one + 1)) as store:
            store.commit([make_append(origin, range(10))], {})
            assert store.counters().first_position == 6
            assert store.counters().payload_bytes == 4 * one

    def test_retention_keeps_up_with_large_commits(self) -> None:
        origin = make_origin()
        with self.open_store(StoreSettings(1, 1_000_000)) as store:
            for start in range(0, 1500, 500):
                store.commit([make_append(origin, range(start, start + 500))], {})
                assert store.counters().records == 1

    def test_evicted_records_stay_known(self) -> None:
        with self.open_store(StoreSettings(2, 1_000_000)) as store:
            origin = make_origin()
            store.commit([make_append(origin, range(6))], {})
            assert store.commit([make_append(origin, range(6))], {}) == [AppendOutcome(0, 6)]
            assert store.counters().records == 2

    def test_chain_covers_every_record(self, store: Store) -> None:
        heads = set()
        for sequence in range(5):
            store.commit([make_append(make_origin(), [sequence])], {})
            heads.add(store.counters().chain_head)
            assert store.read([sequence])[0].chain == store.counters().chain_head
        assert len(heads) == 5
        assert verify_chain(store) == 5

    def test_chain_depends_on_origin_and_order(self) -> None:
        def head(*appends: Append) -> bytes:
            with self.open_store(StoreSettings(100, 1_000_000)) as store:
                store.commit(appends, {})
                return store.counters().chain_head

        a, b = make_origin("a"), make_origin("b")
        heads = {
            head(make_append(a, [0]), make_append(b, [0])),
            head(make_append(b, [0]), make_append(a, [0])),
            head(make_append(a, [0, 1])),
        }
        assert len(heads) == 3
