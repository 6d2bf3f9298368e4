"""`temper replay verify`: runs records again in their environment, compares, and marks them verified or mismatch.

The environment is that of --env (a name, or the config.toml of a run), else that of the run directory which TARGET is,
else the one that each record names, with the settings that it has by itself. Records of any other are unverifiable.

--json prints one object: records (chosen), verified, mismatched, unverifiable, steps (made again), error_max (largest
absolute difference in a record that is verified), mismatches (position, what, step, error of each), reasons (why
records are unverifiable, and how many), and dry_run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from actors.config import EnvironmentConfig
from actors.verification import VerificationReport, check_fraction, verify
from launch.arguments_replay import ReplayVerify
from launch.config_file import read_config
from launch.json_output import json_line, printable
from launch.progress import progress
from launch.recipes import is_config_file
from launch.replay_target import check_range, locate, looking_at, open_source


def run(arguments: ReplayVerify) -> int:
    """Prints what was found; returns 1 where a record is not what happened."""
    check_range(arguments.from_position, arguments.limit)
    check_fraction(arguments.fraction)
    environment = _environment(arguments)
    with (
        open_source(arguments.target, writable=not arguments.dry_run) as source,
        progress("verifying", source.stats().records, json=arguments.json) as shown,
    ):
        report = verify(
            source,
            environment,
            fraction=arguments.fraction,
            seed=arguments.seed,
            filter_text=arguments.filter,
            from_position=arguments.from_position,
            limit=arguments.limit,
            mark=not arguments.dry_run,
            progress=shown.advance,
        )
    print(_json(report, arguments.dry_run) if arguments.json else "\n".join(_lines(report)))
    return 1 if report.mismatched else 0


def _environment(arguments: ReplayVerify) -> EnvironmentConfig | None:
    if arguments.env:
        with looking_at(arguments.env):
            is_file = is_config_file(arguments.env)
        return read_config(Path(arguments.env)).environment if is_file else EnvironmentConfig(name=arguments.env)
    run = locate(arguments.target).run
    return None if run is None else read_config(run.config).environment


def _json(report: VerificationReport, dry_run: bool) -> str:
    return json_line(
        {
            "records": report.records,
            "verified": report.verified,
            "mismatched": report.mismatched,
            "unverifiable": report.unverifiable,
            "steps": report.steps,
            "error_max": report.error_max,
            "mismatches": [found._asdict() for found in report.mismatches.values()],
            "reasons": report.reasons,
            "dry_run": dry_run,
        }
    )


def _lines(report: VerificationReport) -> Iterator[str]:
    for found in report.mismatches.values():
        yield (
            f"MISMATCH at position {found.position}: {printable(found.what)} is wrong from row {found.step} on "
            f"(largest difference {found.error:g})"
        )
    for reason, count in report.reasons.most_common():
        yield f"unverifiable: {count:,} because {printable(reason)}"
    differing = f", largest difference {report.error_max:g}" if report.error_max else ""
    yield (
        f"{report.records:,} records: {report.verified:,} verified{differing}, {report.mismatched:,} mismatches, "
        f"{report.unverifiable:,} unverifiable; {report.steps:,} steps made again"
    )
