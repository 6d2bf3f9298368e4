"""The gate's benchmark, small: its record, its exit status, and that it would notice an error rate above alpha."""

from __future__ import annotations

import json

import pytest

from benchmarks import gate
from benchmarks.gate_simulation import Plan, Row
from benchmarks.gate_verdicts import CANDIDATES, Timing, TimingRow, measure_verdicts, timing_rows


def test_prints_tables_and_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.main(["--section", "rate", "paired", "--candidates", "40", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["plan"]["size"] == 239
    rows = {(row["section"], row["case"], row["test"]): row for row in found["rows"]}
    inside = rows["approved", "0.25 x limit", "sequential"]
    assert inside["share"] > 0.8
    assert inside["episodes_mean"] < 0.5 * found["plan"]["size"]
    assert rows["approved", "2 x limit", "sequential"]["happened"] == 0
    best = {case: row["episodes_wald"] for (_, case, test), row in rows.items() if test == "sequential"}
    assert best["0.5 x limit"] == pytest.approx(142.2, abs=0.1)
    assert best["1 x margin"] is None
    (half,) = [line.split() for line in lines if line.startswith("0.5 x limit   sequential")]
    assert half[-1] == "0.60"
    assert found["errors_above_alpha"] == []
    assert "0.25 x limit" in "\n".join(lines[:-1])


def test_the_same_seed_gives_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    records = []
    for section in (["paired"], ["rate", "paired"]):
        gate.main(["--section", *section, "--candidates", "3"])
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        records.append([row for row in record["rows"] if row["section"] == "approved, paired"])
    assert records[0] == records[1]


def test_an_error_rate_above_alpha_is_named() -> None:
    plan = Plan()
    rows = [
        Row("approved", "1 x limit", "fixed-size", True, 2000, 130, None),
        Row("approved", "0.5 x limit", "fixed-size", False, 2000, 1900, None),
        Row("approved", "2 x limit", "sequential", True, 2000, 100, None),
    ]
    assert gate.summary(rows, [], [], plan, {})["errors_above_alpha"] == ["approved: 1 x limit, fixed-size"]


def test_verdicts_of_a_real_service_are_timed() -> None:
    timings = list(measure_verdicts(1, workers=(1,)))
    assert [(each.candidate, each.workers) for each in timings] == [(name, 1) for name in CANDIDATES]
    assert [each.outcome == "approved" for each in timings] == [True, False, False]
    assert all(each.seconds > 0 and each.episodes > 0 for each in timings)


def test_timings_are_told_by_kind() -> None:
    timings = [
        Timing(1, "balancing", "approved", 2.0, 100),
        Timing(1, "balancing", "approved", 4.0, 200),
        Timing(2, "balancing", "approved", 1.0, 100),
        Timing(1, "falling", "deferred", 3.0, 100),
    ]
    rows = timing_rows(timings)
    assert rows[0] == TimingRow(1, "balancing", "approved", 2, 3.0, 2.0, 4.0, 150)
    assert [(row.workers, row.candidate) for row in rows[1:]] == [(2, "balancing"), (1, "falling")]
    shown = gate.table([], [], rows, Plan()).splitlines()
    assert shown[-3].split() == ["balancing", "1", "approved", "2", "3.00", "2.00", "to", "4.00", "150"]
    assert gate.summary([], [], timings, Plan(), {})["verdicts"][3]["outcome"] == "deferred"
