"""Curves over seeds: the grid they share, the band against scipy, the picture and the event files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tensorboardX.proto.event_pb2 import Event

from launch.errors import MissingExtra
from launch.run_paths import RunPaths
from launch.sweep.curves import GRID_POINTS, RunCurve, SettingCurve, combine, read_curve
from launch.sweep.drawing import draw, write_events


def curve(steps: list[float], returns: list[float], *, reached: bool = False) -> RunCurve:
    return RunCurve(np.array(steps), np.array(returns), reached)


def combined(*curves: RunCurve) -> SettingCurve:
    found = combine("a", curves)
    assert found is not None
    return found


def test_the_band_is_students_at_every_step() -> None:
    rng = np.random.default_rng(5)
    runs = [curve([0, 50, 100], rng.normal(size=3).tolist()) for _ in range(4)]
    found = combined(*runs)
    for index in (0, 77, GRID_POINTS - 1):
        values = np.array([np.interp(found.env_steps[index], run.env_steps, run.returns) for run in runs])
        low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
        assert found.mean[index] == pytest.approx(values.mean())
        assert (found.low[index], found.high[index]) == (pytest.approx(low), pytest.approx(high))
    assert found.runs == 4


def test_the_grid_is_where_all_runs_have_values() -> None:
    found = combined(curve([10, 100], [0, 1]), curve([30, 80], [0, 1]))
    assert (found.env_steps[0], found.env_steps[-1]) == (30, 80)


def test_a_run_that_reached_its_target_keeps_what_it_ended_with() -> None:
    found = combined(curve([0, 20], [0, 4], reached=True), curve([0, 100], [0, 2]))
    assert found.env_steps[-1] == 100
    assert found.mean[-1] == 3.0
    both = combined(curve([0, 20], [0, 4], reached=True), curve([0, 40], [0, 2], reached=True))
    assert both.env_steps[-1] == 40


def test_one_run_has_no_band_and_none_no_curve() -> None:
    found = combined(curve([0, 10], [1, 2]))
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    assert found.mean[-1] == 2.0
    assert combine("a", []) is None
    assert combine("a", [curve([0, 10], [1, 2]), curve([20, 30], [1, 2])]) is None
    assert len(combined(curve([5], [1]), curve([5], [3])).env_steps) == 1


def test_a_lost_stretch_is_not_in_the_curve(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.metrics.parent.mkdir()
    lines = [(10, None), (20, 1.0), (30, 2.0), (40, 9.0), (30, 3.0), (50, 4.0)]
    text = "".join(json.dumps({"env_steps": steps, "return_mean": value}) + "\n" for steps, value in lines)
    paths.metrics.write_text(text + '{"env_steps": 60, "ret')
    found = read_curve(paths)
    assert found is not None
    assert found.env_steps.tolist() == [20, 30, 50]
    assert found.returns.tolist() == [1, 3, 4]
    paths.metrics.write_text("")
    assert read_curve(paths) is None


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    draw([combined(curve([0, 10], [1, 2]), curve([0, 10], [2, 4])), combined(curve([0, 10], [1, 2]))], "catch", path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'temper\[plots\]'"):
        draw([], "catch", tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_each_setting_has_one_event_file(tmp_path: Path) -> None:
    for _ in range(2):
        write_events([combined(curve([0, 10], [1, 2]), curve([0, 10], [2, 4]))], tmp_path / "tensorboard")
    (path,) = (tmp_path / "tensorboard" / "a").iterdir()
    last: dict[str, float] = {}
    data, offset = path.read_bytes(), 0
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 8], "little")
        event = Event.FromString(data[offset + 12 : offset + 12 + length])
        last |= {value.tag: value.simple_value for value in event.summary.value}
        offset += length + 16
    assert last["sweep/return_mean"] == 3.0
    assert set(last) == {f"sweep/return_{name}" for name in ("mean", "low", "high")}
    assert last["sweep/return_low"] < 3.0 < last["sweep/return_high"]
