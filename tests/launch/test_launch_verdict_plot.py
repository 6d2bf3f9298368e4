"""Small plots in text: what is drawn is where it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from launch.verdict_plot import ASCII, COLUMNS_MAX, UNICODE, Glyphs, evidence_plot, glyphs_for, interval_bar

THRESHOLD = math.log(20.0)


def paths() -> list[np.ndarray]:
    """Random walks that end high, low and in between, short and long."""
    luck = np.random.default_rng(7)
    lengths = (1, 2, 7, 60, 61, 62, 300)
    return [np.cumsum(np.append(0.0, luck.normal(drift, 0.3, n))) for n in lengths for drift in (-0.2, 0.0, 0.2)]


@pytest.mark.parametrize(
    ("encoding", "glyphs"),
    [("utf-8", UNICODE), ("UTF8", UNICODE), ("ascii", ASCII), ("latin-1", ASCII), ("nonsense", ASCII), (None, ASCII)],
)
def test_a_stream_gets_what_it_can_show(encoding: str | None, glyphs: Glyphs) -> None:
    assert glyphs_for(encoding) is glyphs


def test_ascii_is_ascii() -> None:
    lines = [line for path in paths() for line in evidence_plot(path, THRESHOLD, ASCII)]
    lines += interval_bar(0.1, 0.2, 0.3, ASCII)
    assert "\n".join(lines).isascii()


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_the_highest_cell_is_full_only_where_the_evidence_suffices(glyphs: Glyphs) -> None:
    full = glyphs.levels[-1]
    for path in paths():
        lines = evidence_plot(path, THRESHOLD, glyphs)
        assert max(map(len, lines)) <= COLUMNS_MAX
        # One column for each value where there are few, so compare the last, which is always shown.
        assert (lines[0][-1] == full) == (path[-1] >= THRESHOLD), path[-1]
        if not np.any(path >= THRESHOLD):
            assert full not in lines[0]
        assert lines[-1].split() == ["0", str(len(path) - 1), "episodes"]


def test_the_labels_are_the_threshold_and_one() -> None:
    lines = evidence_plot(np.linspace(0.0, -2.0, 50), THRESHOLD, ASCII)
    assert lines[0].split()[0] == "20"
    (one,) = [line for line in lines[1:-2] if line.split()[:2] == ["1", "+"] or line.startswith("      1 +")]
    # It starts at 1 and falls: nothing stands above the row of 1.
    above = lines[1 : lines.index(one)]
    assert all(line.strip() == "|" for line in above)


def test_what_rises_is_drawn_rising() -> None:
    lines = evidence_plot(np.linspace(0.0, THRESHOLD, 61), THRESHOLD, UNICODE)
    rows = [line[9:].ljust(61) for line in lines[:5]]
    heights = [sum(UNICODE.levels.index(row[n].replace("╌", " ")) for row in rows) for n in range(61)]
    assert heights == sorted(heights)
    assert (heights[0], heights[-1]) == (1, 5 * 8)


@pytest.mark.parametrize(
    ("estimate", "bound", "limit"),
    [
        (0.02, 0.06, 0.1),
        (0.02, 0.2, 0.1),
        (-3.0, -4.0, -1.0),
        (0.99, 0.95, 0.8),
        (0.0, 0.0999, 0.1),
        (0.0, 0.1001, 0.1),
    ],
)
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_marks_stand_in_the_order_of_their_values(estimate: float, bound: float, limit: float, glyphs: Glyphs) -> None:
    (line,) = interval_bar(estimate, bound, limit, glyphs)
    assert len(line) <= COLUMNS_MAX
    places = {line.index(glyphs.point): estimate, line.index(glyphs.bound): bound, line.index(glyphs.limit): limit}
    assert [places[place] for place in sorted(places)] == sorted([estimate, bound, limit])


def test_what_cannot_be_drawn_is_not() -> None:
    assert interval_bar(0.1, math.inf, 0.2, UNICODE) == []
    assert interval_bar(0.1, 0.2, math.nan, UNICODE) == []
    (line,) = interval_bar(math.nan, 0.2, 0.1, UNICODE)
    assert UNICODE.point not in line and UNICODE.line not in line
    assert len(interval_bar(0.0, 0.0, 0.0, UNICODE)) == 1
