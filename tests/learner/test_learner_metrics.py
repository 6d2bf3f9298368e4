"""Metrics on a real disk: JSON lines that parse whatever the numbers, event files, appending after a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

from learner.metrics import MetricsWriter
from learner.promotion import CandidateResult


def test_lines_are_json_and_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, first_step=0) as metrics:
        metrics.line({"loss": math.nan, "bound": math.inf, "candidate": {"bound": math.nan, "approved": True}, "n": 3})
    (line,) = (tmp_path / "learner" / "metrics.jsonl").read_text().splitlines()
    expected = {"loss": None, "bound": None, "candidate": {"bound": None, "approved": True}, "n": 3}
    assert json.loads(line, parse_constant=lambda name: f"not JSON: {name}") == expected


def test_a_second_start_appends(tmp_path: Path) -> None:
    for step in (0, 10):
        with MetricsWriter(tmp_path, first_step=step) as metrics:
            metrics.line({"env_steps": step})
            metrics.scalars({"loss/total": 1.0, "train/return_mean": None}, step)
    lines = (tmp_path / "learner" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["env_steps"] for line in lines] == [0, 10]
    assert all(path.stat().st_size > 0 for path in (tmp_path / "tensorboard").iterdir())


def test_what_is_no_number_is_no_scalar(tmp_path: Path) -> None:
    """tensorboardX would write it, and a warning into the learner's log for each."""
    with MetricsWriter(tmp_path, first_step=0) as metrics:
        metrics.candidate(CandidateResult(1, decided=True, approved=False, reason="hung"), 5)
        metrics.scalars({"loss/total": math.inf}, 5)
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"gate/approved" in events
    assert not any(tag in events for tag in (b"gate/return_mean", b"gate/violation_rate_upper_bound", b"loss/total"))


def test_an_undecided_candidate_leaves_no_gate_figures(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, first_step=0) as metrics:
        metrics.candidate(CandidateResult(1, decided=False, approved=False, reason="gone"), 5)
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"gate/" not in events
    with MetricsWriter(tmp_path / "b", first_step=0) as metrics:
        metrics.candidate(CandidateResult(1, decided=True, approved=False, reason="unsafe", return_mean=1.0), 5)
    events = b"".join(path.read_bytes() for path in (tmp_path / "b" / "tensorboard").iterdir())
    assert b"gate/approved" in events
    assert b"gate/release_number" not in events
