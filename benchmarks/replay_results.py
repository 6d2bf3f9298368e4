"""What the replay benchmark's measurements come to: medians, ratios, tables for a person, a record for a script."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "temper"
BEST = "best of them"
IN_SERVER = "in the server's process"
WIDTH = 120
"""Of a table (characters)."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      section, size: what was measured, and with which unrolls.
      system, way: of which system, used how.
      figures: by name with its unit; None where there is none.
    """

    section: str
    size: str
    system: str
    way: str
    figures: Mapping[str, float | None]


@dataclass
class Results:
    """All measurements, in the order in which they were made; those of the same thing are its rounds."""

    rows: list[Row] = field(default_factory=list)

    def rounds(self, section: str, size: str) -> dict[tuple[str, str], list[Mapping[str, float | None]]]:
        """The figures of every round, by (system, way)."""
        found: dict[tuple[str, str], list[Mapping[str, float | None]]] = {}
        for row in self.rows:
            if (row.section, row.size) == (section, size):
                found.setdefault((row.system, row.way), []).append(row.figures)
        return found

    def groups(self) -> list[tuple[str, str]]:
        """Every (section, size) there is, in order."""
        return list(dict.fromkeys((row.section, row.size) for row in self.rows))


def ratios(results: Results, section: str, size: str, figure: str) -> dict[str, dict[str, dict[str, Any]]]:
    """How many times more of a figure each of our ways has than each of the peer's, round by round.

    Returns {our way: {peer's way, or BEST for the best of those that send anything: {"median", "rounds"}}}.
    """
    by_way = results.rounds(section, size)
    peers = {way: _series(rounds, figure) for (system, way), rounds in by_way.items() if system != OURS}
    if not peers:
        return {}
    # Inside the server's process nothing is sent: another matter, and not what most of its users can do.
    sent = [values for way, values in peers.items() if not way.endswith(IN_SERVER)]
    compared = {**peers, BEST: [max(values) for values in zip(*sent, strict=False)]}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (system, way), rounds in by_way.items():
        if system == OURS:
            mine = _series(rounds, figure)
            for peer, theirs in compared.items():
                each = [ours / other for ours, other in zip(mine, theirs, strict=False) if other]
                found.setdefault(way, {})[peer] = {"median": _median(each), "rounds": each}
    return found


def summary(results: Results, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, for a script."""
    sections: dict[str, Any] = {}
    for section, size in results.groups():
        by_way = results.rounds(section, size)
        of_size = sections.setdefault(section, {}).setdefault(size, {})
        for (system, way), rounds in by_way.items():
            of_size.setdefault(system, {})[way] = {
                "median": _medians(rounds),
                "rounds": [dict(each) for each in rounds],
            }
        speed = _speed(by_way)
        if speed and section in ("inserts", "samples"):
            of_size["ratios"] = ratios(results, section, size, speed)
    return {**about, "sections": sections}


def table(results: Results) -> str:
    """The medians for a person, a table for each section and size, each with the ratios below it."""
    return "\n\n".join(_section_table(results, section, size) for section, size in results.groups())


def _section_table(results: Results, section: str, size: str) -> str:
    by_way = results.rounds(section, size)
    names = list(dict.fromkeys(name for rounds in by_way.values() for each in rounds for name in each))
    rows = [("system", "way", *names)]
    for (system, way), rounds in by_way.items():
        medians = _medians(rounds)
        rows.append((system, way, *(_number(medians.get(name)) for name in names)))
    lines = [f"{section}, {size} (medians of {max(map(len, by_way.values()))})", *_wrapped(rows)]
    speed = _speed(by_way)
    if speed and section in ("inserts", "samples"):
        for ours, peers in ratios(results, section, size, speed).items():
            each = ", ".join(f"{_number(found['median'])}x {peer}" for peer, found in peers.items())
            lines += textwrap.wrap(f"{speed} of {ours}: {each}", WIDTH, subsequent_indent="    ")
    return "\n".join(lines)


def _speed(by_way: Mapping[tuple[str, str], Sequence[Mapping[str, float | None]]]) -> str | None:
    """The figure that systems are compared by: the first one ending in "/s"."""
    names = (name for rounds in by_way.values() for each in rounds for name in each)
    return next((name for name in names if name.endswith("/s")), None)


def _medians(rounds: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    names = dict.fromkeys(name for each in rounds for name in each)
    return {name: _median([value for each in rounds if (value := each.get(name)) is not None]) for name in names}


def _series(rounds: Sequence[Mapping[str, float | None]], figure: str) -> list[float]:
    return [each.get(figure) or 0.0 for each in rounds]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _wrapped(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of at most WIDTH characters: columns that have no place any more go below, with the names again."""
    names = _column(rows, 0, str.ljust), _column(rows, 1, str.ljust)
    lines, block = list[str](), list(map("  ".join, zip(*names, strict=True)))
    empty = list(block)
    for number in range(2, len(rows[0])):
        column = _column(rows, number, str.rjust)
        if block != empty and len(block[0]) + 2 + len(column[0]) > WIDTH:
            lines += block
            block = list(empty)
        block = list(map("  ".join, zip(block, column, strict=True)))
    return [line.rstrip() for line in lines + block]


def _column(rows: Sequence[Sequence[str]], number: int, place: Callable[[str, int], str]) -> list[str]:
    width = max(len(row[number]) for row in rows)
    return [place(row[number], width) for row in rows]
