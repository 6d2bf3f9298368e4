"""What a comparison comes to: medians, ratios, a table for a person, a record for a script. It measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One training run of one system, from the start of its process; times in seconds.

    Attributes:
      env_steps: environment steps that were trained on.
      env_steps_per_s: while training, start-up left out.
      env_steps_per_s_with_start_up: from the start of the process.
      start_up_s: from the start of the process to the first training step that was seen.
      seconds_to_target: to the moment when a policy was shown to have the target's mean return; None if never.
      reached_by: how that was shown.
    moments: seconds of every way in which it was shown, so that like can be compared with like.
    """

    env_steps: int
    env_steps_per_s: float
    env_steps_per_s_with_start_up: float
    start_up_s: float
    seconds_to_target: float | None
    reached_by: str | None
    moments: Mapping[str, float]


Rounds = Mapping[str, Sequence[Measurement]]
"""Per system, one measurement for each round."""

FIGURES = ("env_steps_per_s", "env_steps_per_s_with_start_up", "seconds_to_target")


def ratios(ours: Sequence[Measurement], peer: Sequence[Measurement]) -> dict[str, Any]:
    """How many times better we are, figure by figure and round by round; below 1 the peer is better.

    Returns:
      Per figure {"median", "rounds"}, where a round in which one of the two missed the target is null; and
      "env_steps_per_s_least", the median ratio of the definition of speed that is kinder to the peer; and
      "seconds_by_moment", the median ratio of times for each way in which the peer may show that it has arrived.
    """
    result: dict[str, Any] = {}
    for figure in FIGURES:
        rounds = [_ratio(figure, mine, theirs) for mine, theirs in zip(ours, peer, strict=True)]
        result[figure] = {"median": _median(rounds), "rounds": rounds}
    speeds = (result["env_steps_per_s"]["median"], result["env_steps_per_s_with_start_up"]["median"])
    moments = {
        moment: _median([_moment_ratio(moment, mine, theirs) for mine, theirs in zip(ours, peer, strict=True)])
        for moment in sorted({moment for run in peer for moment in run.moments})
    }
    return {**result, "env_steps_per_s_least": min(speeds), "seconds_by_moment": moments}


def summary(measured: Rounds, ours: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, for a script.

    Args:
      measured: the measurements; every system has as many.
      ours: name of the system that the others are compared with.
      about: what else belongs to the record (target, machine, settings).
    """
    return {
        **about,
        "systems": {
            name: {
                "median": {figure: _median([getattr(run, figure) for run in runs]) for figure in FIGURES},
                "rounds": [asdict(run) for run in runs],
            }
            for name, runs in measured.items()
        },
        "ratios": {name: ratios(measured[ours], runs) for name, runs in measured.items() if name != ours},
    }


def table(measured: Rounds, ours: str) -> str:
    """The same for a person: a line per run, then medians and ratios."""
    head = ("round", "system", "steps/s", "with start-up", "s to target", "start-up s", "env steps", "reached by")
    rows = [
        (str(number + 1), name, *_cells(run))
        for number in range(len(measured[ours]))
        for name, run in ((name, runs[number]) for name, runs in measured.items())
    ]
    for name, runs in measured.items():
        medians = [_median([getattr(run, figure) for run in runs]) for figure in FIGURES]
        rows.append(("median", name, _number(medians[0]), _number(medians[1]), _number(medians[2], 1), "", "", ""))
    for name, runs in measured.items():
        if name != ours:
            found = [ratios(measured[ours], runs)[figure]["median"] for figure in FIGURES]
            rows.append(("ratio", f"{ours} to {name}", *(f"{_number(value, 2)}x" for value in found), "", "", ""))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def _cells(run: Measurement) -> tuple[str, ...]:
    return (
        _number(run.env_steps_per_s),
        _number(run.env_steps_per_s_with_start_up),
        _number(run.seconds_to_target, 1),
        _number(run.start_up_s, 1),
        _number(run.env_steps),
        run.reached_by or "not reached",
    )


def _ratio(figure: str, ours: Measurement, peer: Measurement) -> float | None:
    mine, theirs = getattr(ours, figure), getattr(peer, figure)
    if mine is None or theirs is None:
        return None
    return float(theirs / mine if figure == "seconds_to_target" else mine / theirs)


def _moment_ratio(moment: str, ours: Measurement, peer: Measurement) -> float | None:
    theirs = peer.moments.get(moment)
    return None if theirs is None or ours.seconds_to_target is None else theirs / ours.seconds_to_target


def _median(values: Sequence[float | None]) -> float | None:
    """The median, or None where a value is missing: a run that missed the target must not improve the figure."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
