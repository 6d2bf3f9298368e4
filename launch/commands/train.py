"""`temper train`: one run on this machine, from recipe to summary."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

from launch.arguments import Train
from launch.config import RunConfig
from launch.config_file import read_config
from launch.distillation import settle_teachers
from launch.errors import RunDirectoryError
from launch.local_run import LocalRun
from launch.overrides import apply_overrides
from launch.preflight import check, check_suite
from launch.recipes import is_config_file, make_recipe
from launch.run_directory import RunDirectory
from launch.run_paths import default_run_directory
from launch.summary import render
from launch.supervisor import exit_status
from launch.topology import Limits
from launch.view import make_view


def run(arguments: Train) -> int:
    """Trains to the target, a limit or a signal; prints where everything is."""
    limits = Limits(arguments.max_seconds, arguments.max_env_steps)
    if arguments.resume and not arguments.run_dir:
        raise RunDirectoryError("--resume needs --run-dir: which run is to go on?")
    of_file = is_config_file(arguments.recipe)
    recipe = read_config(Path(arguments.recipe)) if of_file else make_recipe(arguments.recipe)
    config = apply_overrides(recipe, chain(*arguments.overrides))
    check(config)
    if not arguments.resume:
        return begin(settle_teachers(config), arguments.run_dir, limits)
    with RunDirectory(Path(arguments.run_dir)) as directory:
        own = directory.resumable_config(config.recipe)
        if not of_file:
            # A run goes on with what it was started with, not with what its recipe has become since.
            config = apply_overrides(own, chain(*arguments.overrides))
            check_suite(config)
        config = settle_teachers(config)
        return _run(LocalRun(config, directory, directory.resume(config), limits, resume=True), config, directory)


def begin(config: RunConfig, run_dir: str, limits: Limits) -> int:
    """A new run of settings that have been checked, in `run_dir` or, where that is "", in a directory of its own."""
    root = Path(run_dir) if run_dir else default_run_directory(config.recipe)
    with RunDirectory(root) as directory:
        return _run(LocalRun(config, directory, directory.begin(config), limits, resume=False), config, directory)


def _run(local_run: LocalRun, config: RunConfig, directory: RunDirectory) -> int:
    print(f"temper train {config.recipe}: writing to {directory.paths.root}", flush=True)
    summary, signal_number = local_run.run(make_view(sys.stdout, config.recipe))
    print(render(summary, directory.paths))
    return exit_status(signal_number)
