"""Small plots in text, of what a verdict rests on: evidence over episodes, and a bound beside its limit.

Unicode blocks where the stream can show them, ASCII where it cannot; no colour. Nothing is computed here but places.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

COLUMNS_MAX = 72
"""No line is wider."""

_LABEL = 9
_PLOT_COLUMNS = COLUMNS_MAX - _LABEL - 2
_ROWS = 5
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Glyphs:
    """The characters to draw with.

    Attributes:
      levels: a cell filled more and more, from empty.
      threshold: a cell of a line that is to be reached.
      tick, side, corner, floor: of the axes.
      point, line, bound, limit: of a bar: estimate, from it to the bound, the bound itself, the limit.
    """

    levels: str
    threshold: str
    tick: str
    side: str
    corner: str
    floor: str
    point: str
    line: str
    bound: str
    limit: str


UNICODE = Glyphs(" ▁▂▃▄▅▆▇█", "╌", "┤", "│", "└", "─", "●", "━", "┫", "┃")
ASCII = Glyphs(" .:#", "-", "+", "|", "+", "-", "o", "=", "]", "X")


def glyphs_for(encoding: str | None) -> Glyphs:
    """Those that a stream with this encoding can show; None: it does not say."""
    try:
        "".join(dataclasses.astuple(UNICODE)).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def evidence_plot(log_evidence: NDArray[np.float64], threshold: float, glyphs: Glyphs) -> list[str]:
    """The evidence of a sequential test over its episodes, on a logarithmic scale up to where it decides.

    Args:
      log_evidence: log of the e-value after 0, 1, ... N episodes [N + 1].
      threshold: log of the e-value that decides; above 0.
      glyphs: to draw with.
    """
    shown = _spread(log_evidence)
    floor = min(0.0, max(float(np.min(shown)), -threshold))
    steps = len(glyphs.levels) - 1
    # Rounding down, with the threshold on top: the highest cell is full only where the evidence suffices.
    height = (np.minimum(shown, threshold) - floor) / (threshold - floor) * _ROWS * steps
    filled = np.maximum(1, np.floor(height + _ROUNDING).astype(int))
    zero = _ROWS - max(1, math.ceil(-floor / (threshold - floor) * _ROWS - _ROUNDING))
    labels = {zero: "1", 0: _e_value(threshold)}
    lines = []
    for row in range(_ROWS):
        below = (_ROWS - 1 - row) * steps
        cells = "".join(glyphs.levels[min(max(count - below, 0), steps)] for count in filled)
        edge = f"{labels[row]:>{_LABEL - 2}} {glyphs.tick}" if row in labels else " " * (_LABEL - 1) + glyphs.side
        lines.append(f"{edge}{cells if row else cells.replace(' ', glyphs.threshold)}".rstrip())
    end = f"{len(log_evidence) - 1:,} episodes"
    lines.append(" " * (_LABEL - 1) + glyphs.corner + glyphs.floor * _PLOT_COLUMNS)
    lines.append(" " * _LABEL + "0" + end.rjust(_PLOT_COLUMNS - 1))
    return lines


def interval_bar(estimate: float, bound: float, limit: float, glyphs: Glyphs) -> list[str]:
    """An estimate, its confidence bound, and the limit that the bound is compared with, on one line; none without both.

    Args:
      estimate: NaN where there is none in the bound's unit.
      bound, limit: in the same unit; nothing is drawn where one is not finite.
      glyphs: to draw with.
    """
    if not (math.isfinite(bound) and math.isfinite(limit)):
        return []
    marks = [bound, limit] + ([estimate] if math.isfinite(estimate) else [])
    low, high = min(0.0, *marks), max(0.0, *marks)
    if low == high:
        high = low + 1.0
    ends = f"{low:.4g}", f"{high:.4g}"
    columns = COLUMNS_MAX - len(ends[0]) - len(ends[1]) - 4

    def place(value: float) -> int:
        return round((value - low) / (high - low) * (columns - 1))

    cells = [" "] * columns
    if math.isfinite(estimate):
        first, last = sorted((place(estimate), place(bound)))
        cells[first : last + 1] = glyphs.line * (last - first + 1)
        cells[place(estimate)] = glyphs.point
    at_bound, at_limit = place(bound), place(limit)
    if at_bound == at_limit and bound != limit:
        # Side by side then, so that it can be seen which is the greater.
        at_bound = min(at_bound, columns - 2)
        at_limit = at_bound + 1
        if bound > limit:
            at_bound, at_limit = at_limit, at_bound
    cells[at_bound] = glyphs.bound
    cells[at_limit] = glyphs.limit
    return [f"{ends[0]} {glyphs.tick}{''.join(cells)}{glyphs.side} {ends[1]}"]


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One value per column, the last of the column's stretch: so the last is the last, and decides in the last."""
    ends = np.ceil(np.arange(1, _PLOT_COLUMNS + 1) * len(values) / _PLOT_COLUMNS).astype(int) - 1
    spread: NDArray[np.float64] = values[ends]
    return spread


def _e_value(logarithm: float) -> str:
    value = math.exp(logarithm)
    return f"{value:,.0f}" if 100.0 <= value < 1e5 else f"{value:.3g}"
