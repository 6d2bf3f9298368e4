"""What the runs of a sweep came to, and the mean of each setting over its seeds with its 95% interval.

A figure is that of the runs that have it: a mean return that of those that released something, a time to target that
of those that reached it; how many these are is told with it. The interval is Student's t over seeds; one seed has none.

Exceptions: none of its own; what a run has not written is None.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.metrics_tail import Metrics, read_all
from launch.run_paths import RunPaths
from launch.summary import last_word
from launch.sweep.grid import Member, Setting
from launch.sweep.scheduler import FINISHED, Outcome
from safety.statistics.intervals import mean_interval

CONFIDENCE = 0.95

_ENDS = ("target", "env_steps", "seconds")


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
      seed: its seed.
      run_dir: its directory, in that of the sweep.
      state, why: as in launch.sweep.scheduler.Outcome.
      return_mean: final evaluation return, of the newest release; None without a release.
      episodes: evaluated for it.
      env_steps, wall_s: of the whole run.
      target_env_steps, target_wall_s: when the first release that reached the target had its verdict; None: none did.
      releases: candidates approved.
      stopped_because: "target", "env_steps", "seconds", "signal"; None where it is not over.
    """

    seed: int
    run_dir: str
    state: str
    why: str = ""
    return_mean: float | None = None
    episodes: int | None = None
    env_steps: int | None = None
    wall_s: float | None = None
    target_env_steps: int | None = None
    target_wall_s: float | None = None
    releases: int | None = None
    stopped_because: str | None = None


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` runs; `low` and `high` are None for fewer than two, `mean` too for none."""

    count: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SettingResult:
    """One setting over its seeds; the names of the estimates are those of RunResult."""

    setting: Setting
    runs: tuple[RunResult, ...]

    def estimate(self, figure: str) -> Estimate:
        """Of a figure of the finished runs that have it."""
        return estimate([getattr(run, figure) for run in self.runs if run.state == FINISHED])

    @property
    def finished(self) -> int:
        """Runs that came to their end."""
        return sum(run.state == FINISHED for run in self.runs)


FIGURES = ("return_mean", "env_steps", "wall_s", "target_env_steps", "target_wall_s", "releases")
"""Figures of a run that are averaged."""


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean and 95% t interval of the values that are there."""
    there = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(there) < 2:
        return Estimate(len(there), there[0] if there else None)
    found = mean_interval(np.array(there), CONFIDENCE)
    return Estimate(len(there), found.mean, found.low, found.high)


def has_ended(paths: RunPaths) -> bool:
    """Whether a run has come to its end, and not been ended by a signal."""
    return paths.summary.is_file() and last_word(paths).get("stopped_because") in _ENDS


def result_of(member: Member, paths: RunPaths, outcome: Outcome, target_return: float) -> RunResult:
    """What a run has come to so far, from the files in its directory."""
    summary, learned = _json(paths.summary.read_bytes() if paths.summary.is_file() else b""), last_word(paths)
    evaluation = summary.get("evaluation") or {}
    target = _target_line(read_all(paths.metrics), target_return)
    if not target and learned.get("stopped_because") == "target":
        # A canary's verdict came long before it counted.
        target = {"env_steps": learned.get("env_steps"), "time_s": learned.get("wall_s")}
    return RunResult(
        seed=member.seed,
        run_dir=member.name,
        state=outcome.state,
        why=outcome.why,
        return_mean=evaluation.get("return_mean"),
        episodes=evaluation.get("episodes"),
        env_steps=learned.get("env_steps"),
        wall_s=learned.get("wall_s"),
        target_env_steps=target.get("env_steps"),
        target_wall_s=target.get("time_s"),
        releases=(summary.get("candidates") or {}).get("approved"),
        stopped_because=learned.get("stopped_because"),
    )


def as_json(recipe: str, results: Sequence[SettingResult], **more: Any) -> dict[str, Any]:
    """Everything, for sweep.json."""
    return {
        "recipe": recipe,
        **more,
        "settings": [
            {
                "name": each.setting.name,
                "assignments": list(each.setting.assignments),
                "finished": each.finished,
                **{figure: dataclasses.asdict(each.estimate(figure)) for figure in FIGURES},
                "runs": [dataclasses.asdict(run) for run in each.runs],
            }
            for each in results
        ],
    }


def _target_line(lines: Sequence[Metrics], target_return: float) -> Metrics:
    """The learner's line on the first release that reached the target; {} where none did."""
    for line in lines:
        candidate = line.get("candidate") or {}
        if candidate.get("approved") and (candidate.get("return_mean") or -math.inf) >= target_return:
            return line
    return {}


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
