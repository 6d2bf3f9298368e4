"""How records, columns and JSON are printed."""

from __future__ import annotations

import io
import json
import math
import sys
from typing import Any

import numpy as np
import pytest

from launch.json_output import iso_time, json_line, message_json, printable
from launch.progress import counted, progress
from launch.record_columns import column_json, column_lines, step_json, step_lines
from launch.record_view import HEADING, Columns, record_json, record_line, record_lines
from protos.common.v1 import common_pb2
from protos.replay.v1 import replay_pb2
from replay.filters import FilterError
from replay.record import LoggedRecord
from replay.testing import DIGEST, make_header, make_origin


@pytest.fixture
def record() -> LoggedRecord:
    """A derived record with everything in it that may be."""
    header = make_header(steps=5, policy_version=7, signals={"return": 1.25, "cost": 2.0, "fidelity": 0.5})
    header.policies.add(first_step=3, version=9, digest=DIGEST)
    header.MergeFrom(
        common_pb2.RecordHeader(
            sequence=4, lane=1, environment_seed=11, episode=2, episode_step=8, task_id="sort", episode_seeds=[12, 13],
            start_time_ns=1_700_000_000_000_000_001, end_time_ns=1_700_000_001_500_000_000, parents=[1, 2],
            transformation="relabelled", payload_digest=DIGEST, encoding="PAYLOAD_ENCODING_ZSTD",
        )
    )  # fmt: skip
    marks = common_pb2.RecordMarks(signals={"success": 1.0, "fidelity": 0.75}, quarantine=3)
    return LoggedRecord(42, header, make_origin("actor-0003"), b"", marks)


def test_json_of_a_record(record: LoggedRecord) -> None:
    read = json.loads(json_line(record_json(record)))
    assert (read["position"], read["actor_id"], read["environment"], read["encoding"]) == (
        42, "actor-0003", "Test-v0", "zstd",
    )  # fmt: skip
    assert (read["start_time"], read["start_time_ns"]) == ("2023-11-14T22:13:20.000000001Z", 1_700_000_000_000_000_001)
    assert read["policies"] == [
        {"first_step": 0, "version": 7, "digest": DIGEST.hex()},
        {"first_step": 3, "version": 9, "digest": DIGEST.hex()},
    ]
    assert read["signals"] == {"cost": 2.0, "fidelity": 0.5, "return": 1.25}
    assert (read["marks"], read["quarantine"]) == ({"fidelity": 0.75, "success": 1.0}, 3)
    assert (read["parents"], read["episode_seeds"], read["payload_digest"]) == ([1, 2], [12, 13], DIGEST.hex())


def test_json_of_a_record_has_everything_of_its_header(record: LoggedRecord) -> None:
    """A field added to the header later must find its place here too."""
    shown = set(record_json(record))
    names = {field.name for field in common_pb2.RecordHeader.DESCRIPTOR.fields}
    assert names - {"environment_seed"} <= shown
    assert "seed" in shown


def test_a_line(record: LoggedRecord) -> None:
    line = record_line(record)
    assert line.split()[:1] == ["42"]
    assert all(text in line for text in ("actor-0003", " 7-9 ", " 1.25 ", "fidelity=0.75 success=1 quarantine 3"))
    assert HEADING.index("marks") == line.index("fidelity")


def test_of_a_record_that_does_not_say_when_it_was_made(record: LoggedRecord) -> None:
    record.header.ClearField("start_time_ns")
    record.header.ClearField("end_time_ns")
    assert record_line(record).split()[:3] == ["42", "-", "actor-0003"]
    assert "time         -" in list(record_lines(record))


def test_chosen_columns(record: LoggedRecord) -> None:
    columns = Columns(["position,signals.success", 'signals["not there"]', "end_time,quarantined"])
    assert columns.heading.split("  ")[-1].strip() == "quarantined"
    assert columns.line(record).split() == ["42", "1", "-", "1700000001.5", "True"]
    assert columns.values(record)["signals.success"] == 1.0
    with pytest.raises(FilterError, match="there is no field"):
        Columns(["position,nonsense"])


def test_a_record_in_full(record: LoggedRecord) -> None:
    text = "\n".join(record_lines(record))
    for part in (
        "record       42, 5 steps", "actor        actor-0003", "task         sort", "then reset with 12, 13",
        "relabelled from 1, 2", "from step 3: update 9", "signal       fidelity = 0.5 (see mark)",
        "mark         fidelity = 0.75", "quarantine   3",
    ):  # fmt: skip
        assert part in text


def test_text_from_elsewhere_cannot_drive_the_terminal(record: LoggedRecord) -> None:
    record.header.task_id = "sort\x1b[2J\nposition"
    record.marks.signals["\x1b[31m"] = 1.0
    printed = [*record_lines(record), record_line(record), Columns(["task_id"]).line(record)]
    assert all(line.isprintable() for line in printed)
    assert printable("größer") == "größer"


def test_json_has_no_bare_nan() -> None:
    line = json_line({"a": math.nan, "b": [math.inf, -math.inf], "c": b"\x01\xff", "d": (1, None, True)})
    assert line == '{"a": "NaN", "b": ["Infinity", "-Infinity"], "c": "01ff", "d": [1, null, true]}'


def test_every_field_of_a_message() -> None:
    stats = replay_pb2.StatsResponse(records=2**63, chain_head=DIGEST, signal_totals={"b": 1.0, "a": math.nan})
    stats.tables.add(name="fresh").spec.name = "fresh"
    read = json.loads(json_line(message_json(stats)))
    assert set(read) == {field.name for field in replay_pb2.StatsResponse.DESCRIPTOR.fields}
    assert (read["records"], read["chain_head"], read["commits"]) == (2**63, DIGEST.hex(), 0)
    assert read["signal_totals"] == {"a": "NaN", "b": 1.0}
    assert read["tables"][0]["spec"]["name"] == "fresh"


def test_times_before_and_long_after_now() -> None:
    assert iso_time(0) == "1970-01-01T00:00:00.000000000Z"
    assert iso_time(2**63 - 1).startswith("2262-04-11T")


ARRAYS: dict[str, Any] = {
    "observation": np.array([[1.0, np.nan, 3.0], [np.nan, 5.0, 6.0]], np.float32),
    "frame": np.zeros((2, 8, 8), np.uint8),
    "done": np.array([False, True]),
    "big": np.array([2**62, -(2**62)], np.int64),
    "empty": np.array([np.nan, np.nan]),
    "infinite": np.array([np.inf, -np.inf]),
}


def test_figures_leave_nan_out_and_count_it() -> None:
    figures = {column["name"]: column for column in column_json(ARRAYS)}
    assert {name: figures["observation"][name] for name in ("dtype", "shape", "min", "max", "mean", "nan")} == {
        "dtype": "<f4", "shape": (2, 3), "min": 1.0, "max": 6.0, "mean": 3.75, "nan": 2,
    }  # fmt: skip
    assert (figures["done"]["min"], figures["done"]["max"], figures["done"]["mean"]) == (False, True, 0.5)
    assert (figures["big"]["min"], figures["big"]["max"]) == (-(2**62), 2**62)
    assert (figures["empty"]["min"], figures["empty"]["mean"], figures["empty"]["nan"]) == (None, None, 2)
    assert math.isnan(figures["infinite"]["mean"])
    json.loads(json_line(list(figures.values())))


def test_tables_of_columns_and_steps() -> None:
    lines = list(column_lines(ARRAYS))
    assert lines[0].split() == ["column", "dtype", "shape", "min", "max", "mean", "nan"]
    assert len(lines) == 1 + len(ARRAYS)
    steps = list(step_lines(ARRAYS, 2))
    assert steps[0].split() == ["step", *ARRAYS]
    assert "[1 nan 3]" in steps[1]
    assert "0 to 0" in steps[1]
    assert [row["step"] for row in step_json(ARRAYS, 2)] == [0, 1]
    assert step_json(ARRAYS, 1)[0]["done"] is False


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_seen_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, json_wanted, seen in (
        (_Terminal(), False, True),
        (_Terminal(), True, False),
        (io.StringIO(), False, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("auditing", 3, json=json_wanted) as shown:
            assert list(counted("abc", shown)) == ["a", "b", "c"]
        assert ("auditing" in stream.getvalue()) == seen
