"""The results of a sweep as a table for a person: a line for each setting, and below it those of its seeds.

Nothing is computed here but widths.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.sweep.results import Estimate, RunResult, SettingResult
from launch.sweep.scheduler import FINISHED

EACH_SHOWN_MAX = 10
"""With more seeds than this the interval says enough."""

_HEADS = ("setting", "runs", "final return (95%)", "steps to target", "s to target", "releases")
_NONE = "-"


def table(results: Sequence[SettingResult]) -> str:
    """The lines; "-" for what no run has, and "of N" where fewer than all runs have it."""
    rows = [_HEADS]
    for each in results:
        count = len(each.runs)
        rows.append(
            (
                each.setting.name,
                f"{each.finished}/{count}",
                _words(each.estimate("return_mean"), count, ".4g"),
                _words(each.estimate("target_env_steps"), count, ",.0f"),
                _words(each.estimate("target_wall_s"), count, ".1f"),
                _words(each.estimate("releases"), count, ".3g"),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = []
    for index, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
        if index and len(results[index - 1].runs) <= EACH_SHOWN_MAX:
            lines += [f"    {_of_run(run)}" for run in results[index - 1].runs]
    return "\n".join(lines)


def _words(estimate: Estimate, runs: int, form: str) -> str:
    if estimate.mean is None:
        return _NONE
    text = format(estimate.mean, form)
    if estimate.low is not None and estimate.high is not None:
        text += f" [{format(estimate.low, form)}, {format(estimate.high, form)}]"
    return text if estimate.count == runs else f"{text} of {estimate.count}"


def _of_run(run: RunResult) -> str:
    if run.state != FINISHED:
        return f"seed {run.seed}: {run.state}{f': {run.why}' if run.why else ''}"
    return f"seed {run.seed}: {run_words(run)}"


def run_words(run: RunResult) -> str:
    """What a run came to, in a few words."""
    release = "no release" if run.return_mean is None else f"return {run.return_mean:.4g}"
    steps = "" if run.env_steps is None else f", {run.env_steps:,} steps in {run.wall_s or 0.0:.1f} s"
    return f"{release}{steps}, ended by {run.stopped_because}"
