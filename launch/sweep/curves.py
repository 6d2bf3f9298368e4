"""Training return over environment steps: of one run, and the mean of a setting's seeds with its 95% interval.

All runs of a setting are put on one grid of environment steps, by linear interpolation. It ends where the first of the
runs ends that was not over by reaching its target; a run that was keeps its last value up to there, because what it
ended with is what it has to offer. It begins where the last of the runs has its first value.

Exceptions: none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.metrics_tail import Metrics, read_all
from launch.run_paths import RunPaths
from launch.summary import last_word
from launch.sweep.results import CONFIDENCE
from safety.statistics.intervals import student_t_quantile

GRID_POINTS = 200


@dataclass(frozen=True, eq=False)
class RunCurve:
    """One run: environment steps [N], ascending, and the training return there [N]; N at least 1."""

    env_steps: NDArray[np.float64]
    returns: NDArray[np.float64]
    reached_target: bool = False


@dataclass(frozen=True, eq=False)
class SettingCurve:
    """The runs of a setting on their grid.

    Attributes:
      name: of the setting.
      env_steps: the grid [P].
      mean, low, high: [P]; low and high are NaN for one run.
      runs: how many.
    """

    name: str
    env_steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int


def read_curve(paths: RunPaths) -> RunCurve | None:
    """That of a run, or None where it has no return yet."""
    steps, returns = _points(read_all(paths.metrics))
    reached = last_word(paths).get("stopped_because") == "target"
    return RunCurve(steps, returns, reached) if len(steps) else None


def combine(name: str, curves: Sequence[RunCurve]) -> SettingCurve | None:
    """Mean and interval over runs; None where there are no runs, or no steps that all of them have."""
    if not curves:
        return None
    ends = [curve.env_steps[-1] for curve in curves if not curve.reached_target]
    end = min(ends) if ends else max(curve.env_steps[-1] for curve in curves)
    start = max(curve.env_steps[0] for curve in curves)
    if start > end:
        return None
    grid = np.linspace(start, end, GRID_POINTS if end > start else 1)
    # Beyond its last point a curve keeps its value.
    values_RxP = np.stack([np.interp(grid, curve.env_steps, curve.returns) for curve in curves])
    mean, half = values_RxP.mean(axis=0), np.full(len(grid), np.nan)
    count = len(curves)
    if count > 1:
        quantile = student_t_quantile(0.5 + CONFIDENCE / 2.0, count - 1)
        half = quantile * values_RxP.std(axis=0, ddof=1) / np.sqrt(count)
    return SettingCurve(name, grid, mean, mean - half, mean + half, count)


def _points(lines: Iterable[Metrics]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What stands in the metrics, without the stretches that were lost between a checkpoint and a kill."""
    points: list[tuple[float, float]] = []
    for line in lines:
        steps, value = line.get("env_steps"), line.get("return_mean")
        if not isinstance(steps, int | float):
            continue
        while points and points[-1][0] >= steps:
            points.pop()
        if isinstance(value, int | float):
            points.append((float(steps), float(value)))
    array = np.array(points, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]
