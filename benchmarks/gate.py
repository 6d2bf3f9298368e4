"""Simulates candidates at and around the limit, and says how often the gate's tests err and what they cost.

    python -m benchmarks.gate [--candidates 2000] [--lifetimes 1000] [--turns 3] [--seed 0]

The fixed-size test is sized to pass a candidate at half the limit with probability 0.9; the sequential one may use 2.5
times as many episodes. "Wald's" is what his test of the same two error rates would need of the fixed size: at the
limit, and at half of it, no test needs fewer on average.

Three tables: candidates at shares of the limit, 2,000 each; the paired difference from the incumbent; lifetimes of 200
candidates, of a learner that always offers candidates at the limit, and of one that offers safe ones until three in a
row are approved and then one at the limit. In a tenth of the lifetimes the sequential test decides. And one table that
is measured: how long a verdict takes, by a safety service in a process of its own. Prints the tables and, last, one
line of JSON. Two cores; about two minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from benchmarks.gate_simulation import FIXED, Plan, Price, Row, lifetime_rows, paired_rows, prices, rate_rows
from benchmarks.gate_verdicts import Timing, TimingRow, measure_verdicts, timing_rows
from benchmarks.process_group import BenchmarkError

SECTIONS = {"rate": rate_rows, "paired": paired_rows, "lifetime": lifetime_rows}

VERDICTS = "verdicts"
"""The section that is measured."""


def summary(
    rows: Sequence[Row], costs: Sequence[Price], timings: Sequence[Timing], plan: Plan, about: dict[str, Any]
) -> dict[str, Any]:
    """Everything simulated and measured, for a script."""
    return {
        **about,
        "plan": {**dataclasses.asdict(plan), "size": plan.size, "episodes_max": plan.episodes_max},
        "rows": [{**dataclasses.asdict(row), "share": row.share, "interval95": row.interval} for row in rows],
        "errors_above_alpha": [
            f"{row.section}: {row.case}, {row.test}" for row in rows if row.unsafe and row.interval[0] > plan.alpha
        ],
        "later_in_life": [dataclasses.asdict(cost) for cost in costs],
        "verdicts": [dataclasses.asdict(timing) for timing in timings],
    }


def table(rows: Sequence[Row], costs: Sequence[Price], timings: Sequence[TimingRow], plan: Plan) -> str:
    """The same for a person."""
    lines = [
        f"limit {plan.limit:g}, margin {plan.margin:g}, alpha {plan.alpha:g}; fixed-size test {plan.size} episodes, "
        f"sequential test at most {plan.episodes_max}"
    ]
    for section in dict.fromkeys(row.section for row in rows):
        titles = (section, "test", "of", "share", "95% interval", "episodes", "of fixed size", "Wald's")
        lines += ["", *_aligned([titles, *(_cells(row, plan) for row in rows if row.section == section)])]
    if costs:
        cells = (
            (f"candidate {cost.number}", f"{cost.level:.2g}", f"{cost.promoted:.4f}", f"{cost.episodes_mean:.0f}")
            for cost in costs
        )
        lines += ["", *_aligned([("later in life", "level", "promoted", "episodes"), *cells])]
    if timings:
        head = ("seconds per verdict", "workers", "outcome", "verdicts", "seconds, median", "range", "episodes, median")
        lines += ["", *_aligned([head, *map(_timing_cells, timings)])]
    return "\n".join(lines)


def _timing_cells(row: TimingRow) -> tuple[str, ...]:
    seconds = (f"{row.seconds:.2f}", f"{row.seconds_least:.2f} to {row.seconds_most:.2f}")
    return (row.candidate, str(row.workers), row.outcome, str(row.verdicts), *seconds, f"{row.episodes:g}")


def _cells(row: Row, plan: Plan) -> tuple[str, ...]:
    low, high = row.interval
    episodes = "" if row.episodes_mean is None else f"{row.episodes_mean:.0f}"
    ratio = "" if row.episodes_mean is None or row.test == FIXED else f"{row.episodes_mean / plan.size:.2f}"
    best = "" if row.episodes_wald is None else f"{row.episodes_wald / plan.size:.2f}"
    return (
        row.case,
        row.test,
        f"{row.trials:,}",
        f"{row.share:.4f}",
        f"[{low:.4f}, {high:.4f}]",
        episodes,
        ratio,
        best,
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 where an error rate was shown to lie above alpha, or no verdict could be had."""
    options = _parser().parse_args(arguments)
    plan = Plan(candidates=options.candidates, lifetimes=options.lifetimes)
    about = {
        "benchmark": "gate",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seed": options.seed,
        "load_average_before": os.getloadavg()[0],
    }
    started, rows, timings = time.monotonic(), list[Row](), list[Timing]()
    simulated = [section for section in options.section if section in SECTIONS]
    for index, section in enumerate(simulated):
        # Each section has a generator of its own, so that it gives the same figures alone.
        for row in SECTIONS[section](plan, np.random.default_rng([options.seed, list(SECTIONS).index(section)])):
            rows.append(row)
            _say(f"{index + 1}/{len(simulated)} {row.section}: {row.case}, {row.test}: {row.share:.4f}")
    costs = prices(plan) if "lifetime" in options.section else []
    if VERDICTS in options.section:
        signal.signal(signal.SIGTERM, _exit)
        try:
            timings = list(measure_verdicts(options.turns))
        except BenchmarkError as error:
            print(f"gate: {error}", file=sys.stderr)
            return 1
    found = summary(rows, costs, timings, plan, {**about, "seconds": time.monotonic() - started})
    print(table(rows, costs, timing_rows(timings), plan))
    print(json.dumps(found), flush=True)
    return 1 if found["errors_above_alpha"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = [*SECTIONS, VERDICTS]
    parser.add_argument("--section", nargs="+", choices=sections, default=sections, help="what (all)")
    parser.add_argument("--candidates", type=_at_least_one, default=2000, help="for each rate (default 2000)")
    parser.add_argument("--lifetimes", type=_at_least_one, default=1000, help="of each kind (default 1000)")
    parser.add_argument("--turns", type=_at_least_one, default=3, help="of verdicts that are timed (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _exit(number: int, frame: object) -> NoReturn:
    """On SIGTERM: leave by an exception, so that the service that was started is ended."""
    del frame
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
