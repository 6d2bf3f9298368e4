"""`temper sweep`: the runs of several settings and seeds on this machine, and what they came to together.

--json prints one object, the contents of SWEEP_DIR/sweep.json:

    recipe, target_return
    settings [{name, assignments ["key=value"], finished (runs), and of each figure {count, mean, low, high}:
        return_mean, env_steps, wall_s, target_env_steps, target_wall_s, releases;
        runs [{seed, run_dir, state ("finished", "failed", "unfinished"), why, the same figures, episodes,
            stopped_because ("target", "env_steps", "seconds")}]}]
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from launch.arguments_sweep import Sweep as Arguments
from launch.config import RunConfig
from launch.config_file import read_config
from launch.errors import BadInput, RunFailed
from launch.overrides import apply_overrides
from launch.preflight import check
from launch.recipes import is_config_file, make_recipe
from launch.supervisor import exit_status
from launch.sweep.directory import SweepDirectory
from launch.sweep.grid import seeds_of, settings_of
from launch.sweep.local_sweep import Sweep, failures, parallel_runs
from launch.sweep.plan import Plan
from launch.sweep.results import SettingResult
from launch.sweep.scheduler import Scheduler
from launch.sweep.table import table
from launch.topology import Limits


def run(arguments: Arguments) -> int:
    """Runs the grid, and prints a table of it."""
    base, plan = _what_is_asked(arguments)
    say = _sayer(sys.stderr if arguments.json else sys.stdout)
    with SweepDirectory(Path(arguments.sweep_dir)) as directory:
        if arguments.resume:
            directory.resume(plan, base)
        else:
            directory.begin(plan, base)
        parallel = parallel_runs(arguments.parallel, base)
        say(f"{len(plan.members)} runs of {plan.recipe}, {parallel} at once, in {directory.root}")
        scheduler = Scheduler(parallel, (directory.lock_descriptor,), say)
        sweep = Sweep(plan, directory, base, scheduler)
        with scheduler.handling_signals():
            results = sweep.run()
        if scheduler.signal is None:
            sweep.draw(say)
        print(directory.results.read_text(encoding="utf-8").strip() if arguments.json else _shown(results, directory))
    if failed := failures(results):
        raise RunFailed("; ".join([*failed, "run them again with --resume"]))
    return exit_status(scheduler.signal)


def _what_is_asked(arguments: Arguments) -> tuple[RunConfig, Plan]:
    """The settings of all runs, and the plan; all of it checked.

    Raises:
      BadInput, SettingError, and what launch.preflight raises: nothing of it can be run.
    """
    if arguments.parallel < 0:
        raise BadInput(f"--parallel {arguments.parallel} is negative: write how many runs at once, or leave it out")
    limits = Limits(env_steps_max=arguments.max_env_steps)
    fixed = tuple(chain(*arguments.overrides))
    of_file = is_config_file(arguments.recipe)
    recipe = read_config(Path(arguments.recipe)) if of_file else make_recipe(arguments.recipe)
    base = apply_overrides(recipe, fixed)
    settings = settings_of(base, chain(*arguments.vary), fixed)
    seeds = seeds_of(arguments.seeds, arguments.seed_list)
    plan = Plan(base.recipe, settings, seeds, limits.env_steps_max)
    # Of each combination, because any of them may be what an environment or a network is made of.
    for config in (apply_overrides(base, setting.assignments) for setting in settings):
        check(config)
        _check_end(config, limits)
    return base, plan


def _check_end(config: RunConfig, limits: Limits) -> None:
    stop = config.stop
    if not (limits.env_steps_max or stop.env_steps_max or stop.seconds_max or stop.target_return < float("inf")):
        raise BadInput(
            "the runs would never end: give --max-env-steps, or set stop.env_steps_max, stop.seconds_max or "
            "stop.target_return"
        )


def _shown(results: list[SettingResult], directory: SweepDirectory) -> str:
    places = [
        f"results      {directory.results}",
        f"curves       {directory.curves}",
        f"TensorBoard  tensorboard --logdir {shlex.quote(str(directory.tensorboard))}",
        f"a run        temper status {shlex.quote(str(directory.root / results[0].runs[0].run_dir))}",
    ]
    return "\n".join([table(results), *places])


def _sayer(stream: object) -> Callable[[str], None]:
    start_s = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start_s:7.1f} s] {line}", file=stream, flush=True)  # type: ignore[call-overload]

    return say
