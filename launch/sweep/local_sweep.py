"""One sweep from first run to table: ties directory, scheduler and results together.

Decides nothing about training, and nothing about statistics.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from launch.config import RunConfig
from launch.errors import MissingExtra
from launch.json_output import json_line
from launch.sweep.curves import RunCurve, SettingCurve, combine, read_curve
from launch.sweep.directory import SweepDirectory
from launch.sweep.drawing import draw, write_events
from launch.sweep.grid import Member
from launch.sweep.plan import Plan
from launch.sweep.results import RunResult, SettingResult, as_json, has_ended, result_of
from launch.sweep.scheduler import FAILED, FINISHED, UNFINISHED, Outcome, Scheduler, Task
from launch.sweep.table import run_words
from policies.durable import replace_file


def parallel_runs(asked: int, config: RunConfig) -> int:
    """How many runs at once: as asked, or where 0 is as many as there are processors for their actors and learners."""
    return asked or max(1, len(os.sched_getaffinity(0)) // (config.actor.processes + 1))


class Sweep:
    """The runs of a plan in their directory.

    Args:
      plan, directory: what, and where; the directory holds this plan.
      base: the settings that all runs share.
      scheduler: runs them.
    """

    def __init__(self, plan: Plan, directory: SweepDirectory, base: RunConfig, scheduler: Scheduler) -> None:
        self._plan = plan
        self._directory = directory
        self._base = base
        self._scheduler = scheduler

    def run(self) -> list[SettingResult]:
        """Runs them to their ends, or until a signal; what they came to is in sweep.json, also while it lasts."""
        tasks = [self._task(member) for member in self._plan.members]
        outcomes = self._scheduler.run(tasks, on_end=lambda: self._write(self.results({})))
        results = self.results(outcomes)
        self._write(results)
        return results

    def results(self, outcomes: Mapping[str, Outcome]) -> list[SettingResult]:
        """What each setting has come to so far; a run that `outcomes` does not name is as its directory tells."""
        results = []
        for setting in self._plan.settings:
            members = [member for member in self._plan.members if member.setting == setting]
            runs = tuple(self._result(member, outcomes.get(member.name)) for member in members)
            results.append(SettingResult(setting, runs))
        return results

    def draw(self, say: Callable[[str], None]) -> None:
        """Writes the curves of the finished runs; says why there is no picture, where there is none."""
        curves = [curve for setting in self._plan.settings if (curve := self._curve(setting.name)) is not None]
        write_events(curves, self._directory.tensorboard)
        try:
            draw(curves, f"{self._plan.recipe}, {len(self._plan.seeds)} seeds", self._directory.curves)
        except MissingExtra as error:
            say(f"no {self._directory.curves.name}: {error}")

    def _curve(self, name: str) -> SettingCurve | None:
        runs = [self._directory.run(member.name) for member in self._plan.members if member.setting.name == name]
        curves: list[RunCurve | None] = [read_curve(paths) for paths in runs if has_ended(paths)]
        return combine(name, [curve for curve in curves if curve is not None])

    def _task(self, member: Member) -> Task:
        paths = self._directory.run(member.name)
        command = [sys.executable, "-P", "-m", "launch.cli", "train", str(self._directory.base)]
        command += ["--run-dir", str(paths.root), "--set", *member.assignments]
        if self._plan.env_steps_max:
            command += ["--max-env-steps", str(self._plan.env_steps_max)]
        return Task(
            member.name,
            paths,
            self._directory.log(member.name),
            command,
            is_over=lambda: has_ended(paths),
            about=lambda: run_words(self._result(member, Outcome(FINISHED))),
        )

    def _result(self, member: Member, outcome: Outcome | None) -> RunResult:
        paths = self._directory.run(member.name)
        if outcome is None:
            outcome = Outcome(FINISHED if has_ended(paths) else UNFINISHED)
        return result_of(member, paths, outcome, self._base.stop.target_return)

    def _write(self, results: list[SettingResult]) -> None:
        content = as_json(self._plan.recipe, results, target_return=self._base.stop.target_return)
        replace_file(self._directory.results, (json_line(content) + "\n").encode())


def failures(results: list[SettingResult]) -> list[str]:
    """A line for each run that failed."""
    runs = [run for each in results for run in each.runs if run.state == FAILED]
    return [f"{run.run_dir} failed: {run.why}" for run in runs]
