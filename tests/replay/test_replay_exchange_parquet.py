"""Parquet exports: what the rows say, schemas apart, and that an export is there whole or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from protos.common.v1 import common_pb2
from replay.exchange import parquet, records_file
from replay.exchange.errors import ExportRefused
from replay.exchange.parquet import export_parquet
from replay.experience import experiences
from replay.payload_encoding import ZSTD
from replay.record import LoggedRecord
from replay.schema import DTYPES, SchemaError
from tests.replay.exchanged_records import (
    START_NS,
    any_record,
    lane_records,
    left_in,
    logged,
    made_episodes,
)

EPISODES = made_episodes([5, 3, 1, 8, 4, 6])


def made() -> list[LoggedRecord]:
    """Two lanes of a run, in turn."""
    lanes = [lane_records(EPISODES, 4), lane_records(made_episodes([7, 9, 5], 1), 4, lane=1, encoding=ZSTD)]
    return logged(chain(*zip(*lanes, strict=False)))


def steps_of(directory: Path, number: int = 0) -> Any:
    return pq.read_table(directory / f"steps-{number}.parquet")


def test_a_row_a_step_with_what_happened_in_it(tmp_path: Path) -> None:
    records = made()
    summary = export_parquet(records, tmp_path / "out")
    rows = steps_of(tmp_path / "out").to_pylist()
    assert (summary.records, summary.steps) == (len(records), 4 * len(records)) == (len(records), len(rows))
    steps = [row for row in rows if not row["boundary"]]
    happened = [step for record in records for step in experiences(record)]
    assert len(steps) == len(happened) < len(rows)
    for row, step in zip(steps, happened, strict=True):
        assert (row["position"], row["step"]) == (step.record.position, step.row)
        assert (row["lane"], row["episode"], row["episode_step"]) == (
            step.record.header.lane,
            step.episode,
            step.episode_step,
        )
        assert row["observation"] == np.asarray(step.state).tolist()
        assert (row["action"], row["reward"], row["discount"]) == (step.action, step.reward, step.discount)
        assert row["policy_version"] == step.policy_version
        assert (row["actor_id"], row["run_id"]) == ("actor-0", "run-0")


def test_boundary_rows_are_marked_and_belong_to_their_episode(tmp_path: Path) -> None:
    export_parquet(logged(lane_records(EPISODES, 4)), tmp_path / "out")
    boundaries = [row for row in steps_of(tmp_path / "out").to_pylist() if row["boundary"]]
    assert [(row["episode"], row["episode_step"]) for row in boundaries] == [(1, 3), (3, 8)]
    for row in boundaries:
        assert row["observation"] == EPISODES[row["episode"]].observation[-1].tolist()
        assert row["mask"] is False


def test_state_after_the_last_step_is_in_its_row_alone(tmp_path: Path) -> None:
    records = made()
    export_parquet(records, tmp_path / "out")
    after = steps_of(tmp_path / "out")["observation_after"].to_pylist()
    for index, record in enumerate(records):
        assert after[4 * index : 4 * index + 3] == [None] * 3
        assert after[4 * index + 3] == record.columns["observation"][4].tolist()


def test_a_row_a_record_with_every_field(tmp_path: Path) -> None:
    record = made()[1]
    record.header.task_id = "täsk"
    record.header.transformation = "relabelled"
    record.header.parents.extend([0, 2**63])
    record.header.environment_seed = 2**64 - 1
    marks = common_pb2.RecordMarks(signals={"verified": 1.0, "mismatch": float("nan")}, quarantine=7)
    marked = LoggedRecord(record.position, record.header, record.origin, record.payload, marks)
    export_parquet([marked], tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out" / "records.parquet").to_pylist()
    header, origin = record.header, record.origin
    same = {
        "position": record.position,
        "actor_id": "actor-0",
        "run_id": "run-0",
        "sequence": 1,
        "steps": 4,
        "lane": 1,
        "episode": 0,
        "episode_step": 0,
        "task_id": "täsk",
        "seed": 2**64 - 1,
        "episode_seeds": list(header.episode_seeds),
        "environment": "Test-v0",
        "environment_version": "test 1",
        "environment_digest": origin.environment.code_digest,
        "config_digest": origin.config_digest,
        "source_revision": "test",
        "transformation": "relabelled",
        "parents": [0, 2**63],
        "policies": [
            {"first_step": each.first_step, "version": each.version, "digest": each.digest} for each in header.policies
        ],
        "encoding": "zstd",
        "payload_digest": header.payload_digest,
        "signals": sorted(header.signals.items()),
        "quarantine": 7,
        "layout": 0,
        "payload": record.payload,
    }
    assert {name: row[name] for name in same} == same
    assert (row["start_time"].value, row["end_time"].value) == (START_NS, START_NS + 4)
    assert dict(row["marks"]).keys() == {"verified", "mismatch"}
    assert common_pb2.RecordHeader.FromString(row["header"]) == header
    assert common_pb2.Origin.FromString(row["origin"]) == origin
    assert set(row) == {*same, "start_time", "end_time", "marks", "header", "origin"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_every_column_type_keeps_its_values(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    raw = np.random.default_rng(0).integers(0, 2, (5, *shape)).astype(dtype)
    export_parquet([any_record({"x": raw[:4], "y": raw}, 4)], tmp_path / "out")
    table = steps_of(tmp_path / "out")
    assert np.array_equal(np.array(table["x"].to_pylist(), dtype).reshape(raw[:4].shape), raw[:4])
    after = table["y_after"].to_pylist()
    assert after[:3] == [None] * 3
    assert np.array_equal(np.array(after[3], dtype).reshape(shape), raw[4])
    field = table.schema.field("x")
    assert field.metadata == {b"temper.dtype": dtype.encode(), b"temper.shape": json.dumps(shape).encode()}


def test_a_column_whose_name_is_taken_has_another(tmp_path: Path) -> None:
    export_parquet([any_record({"lane": np.arange(2, dtype=np.int32)}, 2)], tmp_path / "out")
    table = steps_of(tmp_path / "out")
    assert table["lane"].to_pylist() == [0, 0]
    assert table["column/lane"].to_pylist() == [0, 1]


def test_every_schema_has_its_own_steps_file(tmp_path: Path) -> None:
    first = any_record({"x": np.zeros(2, np.float32)}, 2)
    second = any_record({"y": np.ones((3, 2), np.int32)}, 3, position=1)
    summary = export_parquet([first, second, first], tmp_path / "out")
    assert [file.name for file in summary.files] == ["records.parquet", "steps-0.parquet", "steps-1.parquet"]
    assert pq.read_table(tmp_path / "out" / "records.parquet")["layout"].to_pylist() == [0, 1, 0]
    assert [len(steps_of(tmp_path / "out", number)) for number in (0, 1)] == [4, 3]
    for number, record in enumerate((first, second)):
        metadata = steps_of(tmp_path / "out", number).schema.metadata
        assert common_pb2.Schema.FromString(metadata[b"temper.schema"]) == record.origin.schema
        assert metadata[b"temper.format_version"] == b"1"


def test_too_many_schemas_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LAYOUTS_MAX", 1)
    records = [any_record({name: np.zeros(2, np.float32)}, 2) for name in ("x", "y")]
    with pytest.raises(ExportRefused, match="more than 1 schemas"):
        export_parquet(records, tmp_path / "out")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("name", "value"), [("GROUP_ROWS_MAX", 8), ("GROUP_BYTES_MAX", 100)])
def test_row_groups_are_bounded_and_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    records = made()
    export_parquet(records, tmp_path / "one")
    monkeypatch.setattr(parquet, name, value)
    monkeypatch.setattr(records_file, name, value)
    export_parquet(records, tmp_path / "many")
    for file in ("records.parquet", "steps-0.parquet"):
        with pq.ParquetFile(tmp_path / "many" / file) as many:
            assert many.num_row_groups > 1
        assert pq.read_table(tmp_path / "many" / file).equals(pq.read_table(tmp_path / "one" / file))


def test_records_of_different_lengths_are_one_table(tmp_path: Path) -> None:
    records = [any_record({"x": np.arange(steps, dtype=np.int32)}, steps, position=steps) for steps in (3, 3, 1, 5, 3)]
    export_parquet(records, tmp_path / "out")
    table = steps_of(tmp_path / "out")
    assert table["x"].to_pylist() == [*range(3), *range(3), 0, *range(5), *range(3)] == table["step"].to_pylist()


def test_no_record_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="no record"):
        export_parquet([], tmp_path / "out")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("there", ["file", "directory", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "directory":
        out.mkdir()
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportRefused, match=f"{out} exists already"):
        export_parquet(made(), out)
    assert left_in(tmp_path) == ["out"]
    assert there != "file" or out.read_text() == "mine"


def test_what_appears_in_the_meantime_is_not_overwritten(tmp_path: Path) -> None:
    def records() -> Iterator[LoggedRecord]:
        yield from made()
        (tmp_path / "out").write_text("mine")

    with pytest.raises(ExportRefused, match="exists already"):
        export_parquet(records(), tmp_path / "out")
    assert left_in(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "mine"


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"cannot write .*No such file or directory"):
        export_parquet(made(), tmp_path / "missing" / "out")


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def records() -> Iterator[LoggedRecord]:
        yield from made()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_parquet(records(), tmp_path / "out")
    assert left_in(tmp_path) == []


def test_a_payload_that_does_not_fit_is_said(tmp_path: Path) -> None:
    record = any_record({"x": np.zeros(2, np.float32)}, 2)
    with pytest.raises(SchemaError, match="payload has 3 bytes"):
        export_parquet([LoggedRecord(0, record.header, record.origin, b"abc")], tmp_path / "out")
    assert left_in(tmp_path) == []


def test_a_killed_export_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """Killed for real, while row groups are on disk already."""
    program = f"""
import sys
from pathlib import Path
import numpy as np
from replay.exchange import parquet
from tests.replay.exchanged_records import any_record
parquet.GROUP_ROWS_MAX = 8
def records():
    record = any_record({{"x": np.zeros(2, np.float32)}}, 2)
    for index in range(10**9):
        if index == 100:
            print("running", flush=True)
        yield record
parquet.export_parquet(records(), Path({str(tmp_path / "out")!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    (left,) = left_in(tmp_path)
    assert left.startswith(".out.")
    assert left.endswith(".unfinished")
    export_parquet(made(), tmp_path / "out")
    assert left_in(tmp_path) == [left, "out"]


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more records are held than row groups have."""
    monkeypatch.setattr(parquet, "GROUP_ROWS_MAX", 512)
    monkeypatch.setattr(records_file, "GROUP_ROWS_MAX", 64)
    example = any_record({"x": np.zeros(8, np.float32)}, 8)
    held: weakref.WeakSet[LoggedRecord] = weakref.WeakSet()
    most = 0

    class Watched(LoggedRecord):
        __hash__ = object.__hash__

    def records() -> Iterator[LoggedRecord]:
        nonlocal most
        for position in range(2000):
            record = Watched(position, example.header, example.origin, example.payload)
            held.add(record)
            most = max(most, len(held))
            yield record

    assert export_parquet(records(), tmp_path / "out").records == 2000
    assert 10 < most < 200
