"""A column that is stored once per record, all the way: through a service into batches, out in exports, on a screen.

The codec itself is in test_replay_schema.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from protos.common.v1 import common_pb2
from replay.batch_parts import Parts
from replay.client import ReplayClient, ReplaySampler, ReplayWriter
from replay.config import ReplayConfig
from replay.curation.context import CurationContext
from replay.curation.fidelity import fidelity
from replay.exchange.jsonl import export_jsonl
from replay.exchange.parquet import export_parquet
from replay.exchange.parquet_import import ParquetRecords
from replay.exchange.rlds import export_rlds
from replay.experience import episodes, experiences
from replay.payload_encoding import RAW, ZSTD
from replay.record import LoggedRecord
from replay.sampled_batch import BatchMaker, DrawnRecord
from replay.schema import PayloadLayout, SchemaError
from replay.testing import make_header, make_origin, serving
from tests.launch.made_up_store import temper
from tests.replay.exchanged_records import any_record, store_of
from tests.replay.listed_source import unroll_columns

ONCE = ("state", "hint")


def columns_of(seed: int, steps: int = 3) -> dict[str, NDArray[Any]]:
    """An unroll of a recurrent policy: its state, which is no zeros, first, and a truth value last."""
    state = np.random.default_rng(seed).standard_normal((1, 5)).astype(np.float32)
    return {"state": state, **unroll_columns(steps, seed=seed), "hint": np.array([seed % 2 == 0])}


def record(seed: int, steps: int = 3) -> LoggedRecord:
    return any_record(columns_of(seed, steps), steps, position=seed, once=ONCE)


def test_through_a_service_into_batches_and_out_of_the_log() -> None:
    records = [columns_of(seed) for seed in range(8)]
    origin = make_origin(columns=records[0], steps=3, once=ONCE)
    layout = PayloadLayout(origin.schema)
    config = ReplayConfig(store="memory")
    with serving(config) as address:
        with ReplayWriter(address, origin, window_records=64, window_bytes=2**20) as writer:
            for encoding in (RAW, ZSTD):
                headers = [make_header(3) for _ in range(4)]
                for header in headers:
                    header.encoding = encoding
                part = records[4:] if encoding == ZSTD else records[:4]
                writer.append(headers, [layout.encode(each, encoding) for each in part], 10.0)
            assert writer.flush(10.0)
        with ReplayClient(address) as client:
            listed = list(client.records(with_payload=True))
        with ReplaySampler(address, "fresh", 8) as sampler:
            batch = sampler.next(10.0)
    assert batch.columns["state"].shape == (1, 8, 5)
    for index, expected in enumerate(records):
        for name, column in expected.items():
            np.testing.assert_array_equal(batch.columns[name][:, index], column)
            np.testing.assert_array_equal(listed[index].columns[name], column)
        assert set(expected) - set(listed[index].step_columns) == set(ONCE)


def test_parts_of_several_shards_are_cut_and_joined() -> None:
    origin = record(0).origin
    layout = PayloadLayout(origin.schema)
    parts = Parts()
    for start in (0, 3):
        drawn = [
            DrawnRecord(seed, make_header(3), origin, layout.encode(columns_of(seed)), 0.5)
            for seed in range(start, start + 3)
        ]
        parts.add(BatchMaker().make(drawn, 9))
    batches = [parts.take(4), parts.take(2)]
    joined = np.concatenate([batch.columns["state"] for batch in batches], axis=1)
    np.testing.assert_array_equal(joined, np.stack([columns_of(seed)["state"] for seed in range(6)], axis=1))


def test_large_records_are_stacked_the_same() -> None:
    """Above some size payloads are copied straight to their place."""
    columns = [columns_of(seed, 3000) for seed in (1, 2)]
    layout = PayloadLayout(make_origin(columns=columns[0], steps=3000, once=ONCE).schema)
    batch = layout.decode_batch([layout.encode(each) for each in columns], 3000)
    for name in columns[0]:
        np.testing.assert_array_equal(batch[name], np.stack([each[name] for each in columns], axis=1))


def test_a_batch_does_not_mix_it_with_a_column_that_has_a_row_for_each_step() -> None:
    one, other = columns_of(0, 1), columns_of(1, 1)
    origins = [make_origin(columns=one, steps=1, once=once) for once in (ONCE, ())]
    drawn = [
        DrawnRecord(0, make_header(1), origin, PayloadLayout(origin.schema).encode(each), 0.5)
        for origin, each in zip(origins, (one, other), strict=True)
    ]
    with pytest.raises(SchemaError, match="mixes schemas"):
        BatchMaker().make(drawn, 2)


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_as_rows_have_it_in_the_record_s_first_row_alone(tmp_path: Path, steps: int) -> None:
    records = [record(seed, steps) for seed in range(3)]
    export_parquet(records, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "steps-0.parquet")
    rows = {name: table[name].to_pylist() for name in ("state", "hint", "step", "reward")}
    for index, each in enumerate(records):
        first, rest = index * steps, slice(index * steps + 1, (index + 1) * steps)
        assert rows["state"][first] == each.columns["state"][0].tolist()
        assert rows["hint"][first] is bool(each.columns["hint"][0])
        assert rows["state"][rest] == rows["hint"][rest] == [None] * (steps - 1)
    assert rows["step"] == [*range(steps)] * 3
    assert rows["reward"] == [1.0] * 3 * steps
    schema = common_pb2.Schema.FromString(table.schema.metadata[b"temper.schema"])
    assert {column.name for column in schema.columns if column.once} == set(ONCE)
    # The records themselves come back to the byte.
    back = [each.record for each in ParquetRecords(tmp_path / "out")]
    assert [each.payload for each in back] == [each.payload for each in records]


def test_episodes_are_without_it(tmp_path: Path) -> None:
    records = [record(seed) for seed in range(2)]
    assert all(not set(ONCE) & set(episode.columns) for episode in episodes(records))
    assert len(list(experiences(records[0]))) == 3
    export_rlds(records, tmp_path / "out")
    (first, *_) = pq.read_table(tmp_path / "out" / "episodes.parquet").to_pylist()
    assert {"observation", "log_prob"} <= set(first["steps"][0])
    assert not set(ONCE) & set(first["steps"][0])


def test_json_lines_have_its_one_row(tmp_path: Path) -> None:
    export_jsonl([record(4)], tmp_path / "out.jsonl", with_steps=True)
    columns = json.loads((tmp_path / "out.jsonl").read_text())["columns"]
    assert columns["state"] == {"dtype": "<f4", "rows": record(4).columns["state"].tolist()}
    assert (columns["hint"]["rows"], len(columns["reward"]["rows"])) == ([True], 3)


def test_it_is_shown_and_no_row_of_the_steps_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_of(tmp_path / "store", [record(0)])
    done = temper(capsys, "replay", "show", store, "0", "--steps", "3")
    assert done.status == 0, done.err
    assert next(line for line in done.lines if line.startswith("state ")).split()[1:4] == ["<f4", "[1,", "5]"]
    heading = next(line for line in done.lines if line.startswith("step "))
    assert not set(ONCE) & set(heading.split())
    shown = json.loads(temper(capsys, "replay", "show", store, "0", "--steps", "3", "--json").out)
    assert {column["name"]: column["shape"] for column in shown["columns"]}["state"] == [1, 5]
    assert [sorted(set(ONCE) & set(row)) for row in shown["first_steps"]] == [[], [], []]


def test_a_boundary_row_says_nothing_of_it() -> None:
    """A record of one row that is a boundary keeps the state; all that is of its step is 0."""
    columns = columns_of(0, 1)
    columns |= {name: np.zeros_like(each) for name, each in columns.items() if name not in (*ONCE, "observation")}
    made = any_record(columns, 1, once=ONCE)
    made.header.episode_step = 4
    context = CurationContext({"log_prob_error_max": 1e-3}, 0)
    assert fidelity(made, context) == {"fidelity": 1.0}
    columns["state"] = np.full((1, 5), np.nan, np.float32)
    broken = any_record(columns, 1, once=ONCE)
    broken.header.episode_step = 4
    assert fidelity(broken, context) == {"fidelity": 0.0}


def test_what_every_step_must_have_cannot_be_stored_once(tmp_path: Path) -> None:
    """Whoever reads steps is told that there is none, and does not take one row for all of them."""
    columns = unroll_columns(3) | {"reward": np.ones(1, np.float32), "mask": np.zeros(1, np.bool_)}
    made = any_record(columns, 3, once=("reward", "mask"))
    with pytest.raises(SchemaError, match="no column 'reward'"):
        list(experiences(made))
    export_parquet([made], tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "steps-0.parquet")["boundary"].to_pylist() == [False] * 3
