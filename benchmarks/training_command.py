"""What the benchmarks that train a recipe have in common as commands: arguments, exit statuses, and how they end.

What is trained and measured is theirs.

Exceptions: SystemExit with status 2 where an argument cannot be used.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from benchmarks.process_group import BenchmarkError
from launch.errors import UnknownRecipe
from launch.recipes import make_recipe


def training_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of the arguments of every such benchmark, for each to add its own to.

    Args:
      prog: its name.
      description: shown by --help as it is.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="cartpole-cost", help="what is trained (default cartpole-cost)")
    parser.add_argument(
        "--env-steps", type=at_least_one, default=0, help="of each training (default: the recipe's own)"
    )
    parser.add_argument("--episodes", type=at_least_one, default=1000, help="of each evaluation (default 1000)")
    parser.add_argument(
        "--set", dest="settings", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every training"
    )
    return parser


def parse_training(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, `env_steps` never 0 unless the recipe has no such limit. Ends by SystemExit where they are wrong."""
    options = parser.parse_args(arguments)
    try:
        recipe = make_recipe(options.recipe)
    except UnknownRecipe as error:
        parser.error(str(error))
    options.env_steps = options.env_steps or recipe.stop.env_steps_max
    return options


def about_training(benchmark: str, options: argparse.Namespace) -> dict[str, Any]:
    """What was measured and where, for the line of JSON."""
    return {
        "benchmark": benchmark,
        "recipe": options.recipe,
        "env_steps": options.env_steps,
        "episodes": options.episodes,
        "settings": options.settings,
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
    }


def run_benchmark(benchmark: str, work: Callable[[], int]) -> int:
    """Does the work; its status, or 1 with one message where something could not be measured, 130 if interrupted.

    Args:
      benchmark: its name.
      work: ends by an exception on SIGTERM, too.
    """
    signal.signal(signal.SIGTERM, _exit)
    try:
        return work()
    except BenchmarkError as error:
        print(f"{benchmark}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def at_least_one(text: str) -> int:
    """An argument that is a whole number from 1 on. Raises ValueError or ArgumentTypeError."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _exit(number: int, frame: object) -> NoReturn:
    """Leaves by an exception, so that what was started is ended and scratch files are removed."""
    del frame
    raise SystemExit(128 + number)
