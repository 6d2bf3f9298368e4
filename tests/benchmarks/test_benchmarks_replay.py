"""The replay benchmark: what it sends is what it says, its sums are right, and it runs from one end to the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import replay, replay_comparison, replay_measure
from benchmarks.process_group import BenchmarkError
from benchmarks.replay_measure import fill, server
from benchmarks.replay_payloads import SIZES, load, make, save, steps_of
from benchmarks.replay_results import BEST, WIDTH, Results, Row, ratios, summary, table
from benchmarks.replay_systems import Load, Temper
from replay.payload_encoding import ZSTD, encode_payload

QUICK = ("--rounds", "1", "--seconds", "0.3", "--warm-up-s", "0.3", "--peers")


@pytest.mark.parametrize("size", sorted(SIZES))
def test_no_two_unrolls_are_alike_and_files_hold_them(size: str, tmp_path: Path) -> None:
    columns = make(size, 0)
    unrolls = {name: column.reshape(SIZES[size], -1) for name, column in columns.items()}
    assert len({unroll.tobytes() for unroll in unrolls["observation"]}) == SIZES[size]
    assert {column.shape[:2] for column in columns.values()} == {(SIZES[size], steps_of(size))}
    save(columns, tmp_path / "payloads")
    again = load(tmp_path / "payloads")
    assert set(again) == set(columns)
    assert all(np.array_equal(again[name], column) for name, column in columns.items())
    other = make(size, 1)
    assert not np.array_equal(other["observation"], columns["observation"])


def test_frames_change_in_every_step_and_are_stacked() -> None:
    observation = make("sprites", 0)["observation"]
    assert (observation[:, 1:, ..., -1] != observation[:, :-1, ..., -1]).any(axis=(2, 3)).all()
    assert np.array_equal(observation[:, 1:, ..., :-1], observation[:, :-1, ..., 1:])
    unroll = observation[0].tobytes()
    assert 3 < len(unroll) / len(encode_payload(unroll, ZSTD)) < 30
    noise = make("noise", 0)["observation"][0].tobytes()
    assert len(encode_payload(noise, ZSTD)) >= len(noise)


def _results() -> Results:
    rows = [
        Row("inserts", "cartpole", system, way, {"inserts/s": speed, "ack p99 ms": None})
        for system, way, speeds in (
            ("temper", "64 lanes", (300.0, 100.0, 400.0)),
            ("reverb", "steps", (100.0, 100.0, 100.0)),
            ("reverb", "unroll", (150.0, 50.0, 50.0)),
            ("reverb", "unroll in the server's process", (1e6, 1e6, 1e6)),
        )
        for speed in speeds
    ]
    return Results(rows)


def test_ratios_are_taken_round_by_round() -> None:
    found = ratios(_results(), "inserts", "cartpole", "inserts/s")["64 lanes"]
    assert found["steps"] == {"median": 3.0, "rounds": [3.0, 1.0, 4.0]}
    assert found["unroll"] == {"median": 2.0, "rounds": [2.0, 2.0, 8.0]}
    assert found[BEST] == {"median": 2.0, "rounds": [2.0, 1.0, 4.0]}


def test_a_table_for_a_person_and_a_record_for_a_script() -> None:
    lines = table(_results()).splitlines()
    assert lines[0] == "inserts, cartpole (medians of 3)"
    assert [line.split()[:2] for line in lines[2:4]] == [["temper", "64"], ["reverb", "steps"]]
    assert lines[-1].startswith("inserts/s of 64 lanes: 3x steps, 2x unroll")
    record = json.loads(json.dumps(summary(_results(), {"benchmark": "replay"})))
    of_size = record["sections"]["inserts"]["cartpole"]
    assert of_size["temper"]["64 lanes"]["median"] == {"inserts/s": 300.0, "ack p99 ms": None}
    assert of_size["ratios"]["64 lanes"]["steps"]["median"] == 3.0


def test_a_table_is_readable_at_its_width() -> None:
    names = [f"figure number {number} ms" for number in range(12)]
    figures = dict.fromkeys(names, 1.5)
    results = Results(
        [
            Row("inserts", "cartpole", *who, {"inserts/s": 2.0, **figures})
            for who in (("temper", "64 lanes"), ("reverb", "some rather long way " * 3), ("reverb", "another " * 5))
        ]
    )
    lines = table(results).splitlines()
    assert max(map(len, lines)) <= WIDTH
    heads = [line for line in lines if line.startswith("system")]
    assert len(heads) > 1
    assert all(sum(name in head for head in heads) == 1 for name in names)
    assert sum(line.startswith("temper") for line in lines) == len(heads)


def test_what_is_kept_is_counted_as_it_is_stored(tmp_path: Path) -> None:
    columns = {name: column[:16] for name, column in make("sprites", 0).items()}
    save(columns, tmp_path / "payloads")
    kept = Load("sprites", tmp_path / "payloads", 100)
    raw = sum(column.nbytes for column in columns.values()) // 16
    assert 100 * raw <= kept.payload_bytes_max("none") < 101 * raw
    assert 3 < kept.payload_bytes_max("none") / kept.payload_bytes_max("zstd") < 30


def test_a_failure_leaves_what_was_measured_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Iterator[Row]:
        yield Row("inserts", "cartpole", "temper", "64 lanes", {"inserts/s": 300.0})
        raise BenchmarkError("a process ended")

    monkeypatch.setattr(replay, "insert_rows", failing)
    assert replay.main(["--section", "inserts", "--sizes", "cartpole", *QUICK, "--scratch", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    record = json.loads(shown.out.splitlines()[-1])
    assert record["failed"] == "a process ended"
    assert record["sections"]["inserts"]["cartpole"]["temper"]["64 lanes"]["median"] == {"inserts/s": 300.0}
    assert "replay: a process ended" in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seconds", "0"),
        ("--seconds", "nan"),
        ("--warm-up-s", "-1"),
        ("--records-max", "5000"),
        ("--cores", "100000"),
        ("--scratch", "/does/not/exist"),
        ("--section", "ceiling", "--sizes", "noise"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        replay.main(arguments)
    assert exit_status.value.code == 2


@pytest.mark.long
def test_it_runs_from_one_end_to_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_comparison, "FILLED", {"cartpole": 1_000})
    monkeypatch.setattr(replay_measure, "SLACK_S", 1.0)
    monkeypatch.setattr(replay, "STREAMS_OF_SHARDS", (2,))
    sections = ("inserts", "samples", "shards")
    assert replay.main(["--section", *sections, "--sizes", "cartpole", *QUICK, "--scratch", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "inserts, cartpole (medians of 1)"
    measured = json.loads(shown[-1])["sections"]
    inserts = measured["inserts"]["cartpole"]["temper"]["64 lanes"]["median"]
    assert inserts["inserts/s"] > 0
    assert inserts["disk B/record"] > 800
    assert set(measured["samples"]["cartpole"]["temper"]) == {"gRPC", "same host"}
    shards = measured["shards"]["cartpole"]["temper"]
    assert set(shards) == {"1 shards, 2 writers", "2 shards, 2 writers"}
    assert all(figures["median"]["inserts/s"] > 0 for figures in shards.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.robustness
def test_who_compresses_keeps_no_more_records(tmp_path: Path) -> None:
    save(make("sprites", 0), tmp_path / "payloads")
    kept, system = Load("sprites", tmp_path / "payloads", 200), Temper()
    way = system.writing("sprites")["zstd, 4 lanes"]
    with server(system, tmp_path / "server", kept, way) as served:
        fill(system, served, kept, 1_000, way)
        counted = served.counted()
    assert counted.inserted == 1_000
    # The last commit, which may hold both writers' windows, comes on top of what is kept.
    assert 180 <= counted.records <= 500
