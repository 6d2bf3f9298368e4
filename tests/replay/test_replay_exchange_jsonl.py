"""JSON Lines: every field, exact numbers, what JSON has no number for, and text that is not ASCII."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.common.v1 import common_pb2
from replay.exchange.errors import ExportRefused
from replay.exchange.jsonl import export_jsonl
from replay.record import LoggedRecord
from tests.replay.exchanged_records import START_NS, Arrays, any_record, lane_records, left_in, logged, made_episodes


def read(path: Path) -> list[dict[str, Any]]:
    """Strictly: NaN and Infinity are no JSON."""

    def refuse(text: str) -> float:
        raise AssertionError(text)

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def made() -> list[LoggedRecord]:
    return logged(lane_records(made_episodes([5, 3, 6]), 4))


def test_an_object_a_record_with_every_field(tmp_path: Path) -> None:
    record = made()[1]
    marks = common_pb2.RecordMarks(signals={"verified": 1.0}, quarantine=3)
    record.header.parents.append(2**64 - 1)
    record.header.transformation = "cut"
    marked = LoggedRecord(2**63, record.header, record.origin, b"", marks)
    summary = export_jsonl([marked], tmp_path / "out.jsonl")
    assert (summary.records, summary.steps, summary.files) == (1, 4, (tmp_path / "out.jsonl",))
    assert summary.size_bytes == (tmp_path / "out.jsonl").stat().st_size
    header, origin = record.header, record.origin
    assert read(tmp_path / "out.jsonl") == [
        {
            "position": 2**63,
            "actor_id": "actor-0",
            "run_id": "run-0",
            "sequence": 1,
            "steps": 4,
            "lane": 0,
            "episode": 0,
            "episode_step": 4,
            "task_id": "",
            "seed": 0,
            "episode_seeds": list(header.episode_seeds),
            "environment": "Test-v0",
            "environment_version": "test 1",
            "environment_digest": origin.environment.code_digest.hex(),
            "config_digest": origin.config_digest.hex(),
            "source_revision": "test",
            "transformation": "cut",
            "parents": [2**64 - 1],
            "policies": [
                {"first_step": each.first_step, "version": each.version, "digest": each.digest.hex()}
                for each in header.policies
            ],
            "start_time_ns": START_NS + 4,
            "end_time_ns": START_NS + 8,
            "encoding": "raw",
            "payload_digest": header.payload_digest.hex(),
            "signals": dict(header.signals),
            "marks": {"verified": 1.0},
            "quarantine": 3,
        }
    ]


def test_numbers_are_exact(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    columns: Arrays = {
        "f2": generator.standard_normal(8).astype(np.float16),
        "f4": generator.standard_normal(8).astype(np.float32),
        "f8": generator.standard_normal(8),
        "u8": generator.integers(0, 2**64, 8, np.uint64, endpoint=False),
        "i8": np.array([-(2**63), 2**63 - 1, 0, 1, 2, 3, 4, 5]),
        "b1": generator.integers(0, 2, 8) > 0,
        "after": generator.standard_normal((9, 2)),
    }
    export_jsonl([any_record(columns, 8)], tmp_path / "out.jsonl", with_steps=True)
    (line,) = read(tmp_path / "out.jsonl")
    assert line["columns"].keys() == columns.keys()
    for name, values in columns.items():
        found = line["columns"][name]
        assert found["dtype"] == values.dtype.str
        assert np.array_equal(np.array(found["rows"], values.dtype), values)


def test_what_is_no_number_has_a_name(tmp_path: Path) -> None:
    columns = {"x": np.array([[math.nan, 1.5], [math.inf, -math.inf]], np.float32)}
    record = any_record(columns, 2)
    marked = LoggedRecord(
        0,
        record.header,
        record.origin,
        record.payload,
        common_pb2.RecordMarks(signals={"a": math.nan, "b": math.inf, "c": -math.inf}),
    )
    export_jsonl([marked], tmp_path / "out.jsonl", with_steps=True)
    (line,) = read(tmp_path / "out.jsonl")
    assert line["columns"]["x"]["rows"] == [["NaN", 1.5], ["Infinity", "-Infinity"]]
    assert line["marks"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}


def test_text_is_utf8_and_a_record_is_a_line(tmp_path: Path) -> None:
    record = any_record({"x": np.zeros(2, np.float32)}, 2)
    record.header.task_id = "Überraschung\n\u2028\x85 見"
    export_jsonl([record, record], tmp_path / "out.jsonl")
    raw = (tmp_path / "out.jsonl").read_bytes()
    assert raw.count(b"\n") == 2
    assert "Überraschung".encode() in raw
    assert json.loads(raw.split(b"\n")[0])["task_id"] == record.header.task_id


def test_no_record_and_an_existing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="no record"):
        export_jsonl([], tmp_path / "out.jsonl")
    assert left_in(tmp_path) == []
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ExportRefused, match="exists already"):
        export_jsonl(made(), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def records() -> Iterator[LoggedRecord]:
        yield from made()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_jsonl(records(), tmp_path / "out.jsonl")
    assert left_in(tmp_path) == []


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written through to a device that is always full."""

    def mkstemp(**_: Any) -> tuple[int, str]:
        (tmp_path / "full").symlink_to("/dev/full")
        return os.open(tmp_path / "full", os.O_WRONLY), str(tmp_path / "full")

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    with pytest.raises(ExportRefused, match="No space left on device"):
        export_jsonl(made(), tmp_path / "out.jsonl")
    assert left_in(tmp_path) == []
