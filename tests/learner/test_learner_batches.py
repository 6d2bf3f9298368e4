"""Batches from a real replay service: the ratio of fresh to replayed, the columns, and what the headers say of lag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from learner.batches import BatchShapeError, BatchSource, LearnerBatch, policy_lags, without_stale
from learner.config import LearnerConfig
from protos.common.v1 import common_pb2
from replay import client_sample
from replay.client import ReplayRefused, ReplayWriter, SampledBatch, SampleTimeout
from replay.client_sharded import open_sampler
from replay.config import ReplayConfig
from replay.memory_store import MemoryStore
from replay.schema import PayloadLayout
from replay.store import StoredRecord, StoreError
from replay.testing import DIGEST, make_header, make_origin, serving

T = 3
COLUMNS = ("observation", "action", "reward", "cost", "discount", "mask", "log_prob")
CONFIG = LearnerConfig(batch_size=4, sample_timeout_s=0.3, prefetch_batches=1)


def columns(value: int) -> dict[str, NDArray[np.generic]]:
    """A record that can be told by its rewards; its last row is a boundary row."""
    floats = np.full(T, value, np.float32)
    return {
        "observation": np.full((T + 1, 2), value, np.float32),
        "action": np.full(T, value, np.int32),
        "reward": floats,
        "cost": floats,
        "discount": floats,
        "mask": np.array([True, True, False]),
        "log_prob": floats,
        "logits": np.zeros((T, 2), np.float32),
    }


@pytest.fixture
def address() -> Iterator[str]:
    with serving() as address:
        yield address


def write(address: str, values: range) -> None:
    origin = make_origin(columns=columns(0), steps=T)
    layout = PayloadLayout(origin.schema)
    writer = ReplayWriter(address, origin, window_records=64, window_bytes=1 << 20)
    try:
        headers = [make_header(steps=T, policy_version=value) for value in values]
        writer.append(headers, [layout.encode(columns(value)) for value in values], timeout_s=10)
        assert writer.flush(10)
    finally:
        writer.close(5)


def test_fresh_records_come_in_order_once_with_the_trained_columns(address: str) -> None:
    write(address, range(8))
    source = BatchSource(address, CONFIG, T, COLUMNS)
    try:
        seen = []
        for _ in range(2):
            batch = source.next()
            assert batch is not None
            assert tuple(batch.columns) == (*COLUMNS, "replayed")
            assert not batch.columns["replayed"].any()
            assert batch.columns["observation"].shape == (T + 1, 4, 2)
            assert batch.fresh_steps == 4 * 2
            seen += batch.columns["reward"][0].tolist()
            assert batch.positions.tolist() == batch.columns["action"][0].tolist()
        assert seen == list(range(8))
        assert source.next() is None
        assert source.waiting_s > 0.2
    finally:
        source.close()


def test_replayed_records_fill_their_share_of_the_batch(address: str) -> None:
    write(address, range(8))
    source = BatchSource(address, replace(CONFIG, uniform_fraction=0.5), T, COLUMNS)
    try:
        batch = source.next()
        assert batch is not None
        assert batch.columns["reward"].shape == (T, 4)
        assert batch.columns["reward"][0, :2].tolist() == [0.0, 1.0]
        assert batch.columns["replayed"].tolist() == [False, False, True, True]
        assert len(batch.fresh_headers) == 2
        assert batch.fresh_steps == 2 * 2
        np.testing.assert_array_equal(batch.columns["action"][0], batch.positions)
    finally:
        source.close()


def test_a_batch_is_never_all_replay(address: str) -> None:
    write(address, range(4))
    source = BatchSource(address, replace(CONFIG, batch_size=2, uniform_fraction=0.99), T, COLUMNS)
    try:
        batch = source.next()
        assert batch is not None
        assert len(batch.fresh_headers) == 1
    finally:
        source.close()


def test_records_of_another_length_are_refused(address: str) -> None:
    write(address, range(4))
    source = BatchSource(address, CONFIG, T + 1, COLUMNS)
    try:
        with pytest.raises(BatchShapeError, match=r"3 rows.*unroll_length is 4"):
            source.next()
    finally:
        source.close()


class FireStore(MemoryStore):
    """Cannot be read."""

    def read(self, positions: Sequence[int]) -> list[StoredRecord]:
        raise StoreError("the disk is on fire")


def test_a_replay_that_does_nothing_but_fail_is_told_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.service.MemoryStore", FireStore)
    monkeypatch.setattr(client_sample, "FAULTS_MAX", 5)
    with serving(ReplayConfig(store="memory", fresh_unconsumed_max=100)) as address:
        write(address, range(8))
        source = BatchSource(address, replace(CONFIG, uniform_fraction=0.5, sample_timeout_s=0.05), T, COLUMNS)
        told = {source.failure}
        try:
            with pytest.raises(ReplayRefused, match=r"the disk is on fire \(INTERNAL\); so it did 5 times"):
                while source.next() is None:
                    told.add(source.failure)
        finally:
            source.close()
    assert "" in told
    assert f"replay at {address} failed: the disk is on fire (INTERNAL)" in told


def test_what_failed_is_told_until_there_is_a_batch(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = BatchSource(address, CONFIG, T, COLUMNS)
    try:
        assert source.next() is None
        assert source.failure == "", "there are just no records"
        timeouts: list[SampledBatch | SampleTimeout] = [SampleTimeout("none", "it is away"), *drawn(address)]

        def scripted(_timeout_s: float) -> SampledBatch:
            if isinstance(given := timeouts.pop(0), SampleTimeout):
                raise given
            return given

        monkeypatch.setattr(source._fresh, "next", scripted)
        assert source.next() is None
        assert source.failure == "it is away"
        assert source.next() is not None
        assert source.failure == ""
    finally:
        source.close()


def drawn(address: str) -> list[SampledBatch]:
    """A batch of four."""
    write(address, range(4))
    with open_sampler(address, "uniform", 4) as sampler:
        return [sampler.next(10.0)]


def test_lag_is_weighted_by_steps_and_never_negative() -> None:
    def header(*spans: tuple[int, int]) -> common_pb2.RecordHeader:
        policies = [common_pb2.PolicySpan(first_step=first, version=version, digest=DIGEST) for first, version in spans]
        return common_pb2.RecordHeader(steps=10, policies=policies)

    lags = policy_lags([header((0, 7)), header((0, 5), (8, 10)), header((0, 12))], version=10)
    np.testing.assert_allclose(lags, [3.0, 5 * 0.8, 0.0])


def lagging(versions: list[int], fresh: int) -> LearnerBatch:
    headers = [make_header(steps=T, policy_version=version) for version in versions]
    mask = np.ones((T, len(versions)), bool)
    mask[-1] = False
    origins = [make_origin(columns=columns(0), steps=T)] * len(versions)
    return LearnerBatch(
        {"mask": mask}, np.arange(len(versions), dtype=np.uint64), headers, origins, headers[:fresh], fresh * (T - 1)
    )


def test_stale_records_weigh_nothing_and_are_learnt_from_by_nobody() -> None:
    batch = lagging([10, 3, 5, 2, 9], fresh=2)
    left, dropped = without_stale(batch, version=10, lag_max=5)
    assert dropped == 2
    assert left.columns["mask"].any(axis=0).tolist() == [True, False, True, False, True]
    assert batch.columns["mask"].any(axis=0).all(), "the batch as it was drawn is left alone"
    assert left.positions.tolist() == [0, 2, 4]
    assert [header.policies[0].version for header in left.headers] == [10, 5, 9]
    assert len(left.origins) == 3
    assert [header.policies[0].version for header in left.fresh_headers] == [10]
    assert left.fresh_steps == T - 1


def test_nothing_is_stale_within_the_bound_or_without_one() -> None:
    batch = lagging([0, 8], fresh=1)
    assert without_stale(batch, version=10, lag_max=0) == (batch, 0)
    assert without_stale(batch, version=10, lag_max=10) == (batch, 0)
    left, dropped = without_stale(batch, version=100, lag_max=10)
    assert dropped == 2
    assert not left.headers
    assert not left.fresh_headers
    assert left.fresh_steps == 0
