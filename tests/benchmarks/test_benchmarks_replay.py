"""The replay benchmark: what it sends is what it says, its sums are right, and it runs from one end to the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import replay, replay_comparison
from benchmarks.replay_payloads import SIZES, load, make, save, steps_of
from benchmarks.replay_results import BEST, Results, Row, ratios, summary, table
from replay.payload_encoding import ZSTD, encode_payload


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


@pytest.mark.robustness
def test_it_runs_from_one_end_to_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_comparison, "FILLED", {"cartpole": 1_000})
    quick = ["--rounds", "1", "--seconds", "0.3", "--warm-up-s", "0.3", "--peers", "--scratch", str(tmp_path)]
    assert replay.main(["--section", "inserts", "samples", "--sizes", "cartpole", *quick]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "inserts, cartpole (medians of 1)"
    sections = json.loads(shown[-1])["sections"]
    inserts = sections["inserts"]["cartpole"]["temper"]["64 lanes"]["median"]
    assert inserts["inserts/s"] > 0
    assert inserts["disk B/record"] > 800
    assert set(sections["samples"]["cartpole"]["temper"]) == {"gRPC", "same host"}
    assert list(tmp_path.iterdir()) == []
